"""PSNR and SSIM against the true video of the target view, of whole frames and under dycheck's masks."""

from dataclasses import dataclass

import torch

from mvtrack.evaluation.interface import Column, Metric, Sample, Scores, Skipped, skipped
from mvtrack.metrics.image import masked_psnr, masked_ssim, psnr, ssim

NOTHING_SEEN = skipped("no pixel of the target is seen by the reference")


@dataclass(frozen=True)
class Fidelity(Metric):
    """Means over the frames whose truth is known; `psnr_covisible` on what the reference sees, all frames together."""

    name = "fidelity"
    columns = (
        Column("psnr", "PSNR", "higher", 2),
        Column("ssim", "SSIM", "higher"),
        Column("psnr_covisible", "PSNR, co-visible", "higher", 2),
    )
    needs = ("target",)
    settings = {"ssim": "gaussian 11, sigma 1.5, population covariance, whole windows", "psnr": "per frame"}
    footnotes = (
        "PSNR and SSIM: mean over frames of RGB values in [0, 1]; SSIM with an 11x11 Gaussian window of sigma "
        "1.5, population covariance, windows that lie inside the picture. Co-visible PSNR: one mean squared error "
        "over all pixels that the reference sees.",
    )

    def score(self, sample: Sample) -> Scores:
        inputs = sample.inputs
        made = sample.generated[torch.tensor(inputs.target_frames)]
        frames = list(zip(made, inputs.target, strict=True))
        covisible = inputs.why_missing("covisible")
        if covisible is None:
            seen = inputs.covisible.any()
            covisible = psnr(made, inputs.target, inputs.covisible) if seen else NOTHING_SEEN
        return {
            "psnr": sum(psnr(a, b) for a, b in frames) / len(frames),
            "ssim": sum(ssim(a, b) for a, b in frames) / len(frames),
            "psnr_covisible": covisible,
        }


@dataclass(frozen=True)
class MaskedFidelity(Metric):
    """dycheck's mPSNR and mSSIM: each frame on the pixels that the reference sees, then the mean over frames."""

    name = "masked_fidelity"
    columns = (Column("mpsnr", "mPSNR", "higher", 2), Column("mssim", "mSSIM", "higher"))
    needs = ("target", "covisible")
    settings = {"ssim": "gaussian 11, sigma 1.5, partial convolution, mean over the whole map"}
    footnotes = (
        "mPSNR and mSSIM: dycheck's, per frame on what the reference sees; mSSIM is a mean over the whole picture, "
        "in which places without a seen pixel count as 1. Frames without a seen pixel are left out.",
    )

    def score(self, sample: Sample) -> Scores | Skipped:
        inputs = sample.inputs
        made = sample.generated[torch.tensor(inputs.target_frames)].double()
        frames = [f for f in zip(made, inputs.target.double(), inputs.covisible, strict=True) if f[2].any()]
        if not frames:
            return NOTHING_SEEN
        return {
            "mpsnr": sum(float(masked_psnr(*f)) for f in frames) / len(frames),
            "mssim": sum(float(masked_ssim(*f)) for f in frames) / len(frames),
        }
