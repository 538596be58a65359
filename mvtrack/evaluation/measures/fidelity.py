"""PSNR and SSIM against the true video of the target view, of whole frames and under dycheck's masks."""

from dataclasses import dataclass

import torch

from mvtrack.evaluation.interface import Column, Declined, Sample, Scores, skipped
from mvtrack.metrics.image import psnr
from mvtrack.metrics.masked_image import masked_psnr, masked_ssim
from mvtrack.metrics.ssim import ssim


@dataclass(frozen=True)
class Fidelity:
    """Means over the frames whose truth is known; `psnr_covisible` on what the reference sees, all frames together."""

    name: str = "fidelity"
    version: int = 1
    columns: tuple[Column, ...] = (
        Column("psnr", "PSNR", "higher", 2),
        Column("ssim", "SSIM", "higher"),
        Column("psnr_covisible", "PSNR, co-visible", "higher", 2),
    )
    needs: tuple[str, ...] = ("target",)

    @property
    def settings(self) -> dict:
        return {"ssim": "gaussian 11, sigma 1.5, population covariance, whole windows", "psnr": "per frame"}

    @property
    def footnotes(self) -> tuple[str, ...]:
        return (
            "PSNR and SSIM: mean over frames of RGB values in [0, 1]; SSIM with an 11x11 Gaussian window of sigma "
            "1.5, population covariance, windows that lie inside the picture. Co-visible PSNR: one mean squared error "
            "over all pixels that the reference sees.",
        )

    def missing(self) -> str | None:
        return None

    def score(self, sample: Sample) -> Scores:
        inputs = sample.inputs
        made = sample.generated[torch.tensor(inputs.target_frames)]
        frames = list(zip(made, inputs.target, strict=True))
        scores: Scores = {
            "psnr": sum(psnr(a, b) for a, b in frames) / len(frames),
            "ssim": sum(ssim(a, b) for a, b in frames) / len(frames),
        }
        if why := inputs.why_missing("covisible"):
            scores["psnr_covisible"] = why
        elif not inputs.covisible.any():
            scores["psnr_covisible"] = skipped("no pixel of the target is seen by the reference")
        else:
            scores["psnr_covisible"] = psnr(made, inputs.target, inputs.covisible)
        return scores


@dataclass(frozen=True)
class MaskedFidelity:
    """dycheck's mPSNR and mSSIM: each frame on the pixels that the reference sees, then the mean over frames."""

    name: str = "masked_fidelity"
    version: int = 1
    columns: tuple[Column, ...] = (Column("mpsnr", "mPSNR", "higher", 2), Column("mssim", "mSSIM", "higher"))
    needs: tuple[str, ...] = ("target", "covisible")

    @property
    def settings(self) -> dict:
        return {"ssim": "gaussian 11, sigma 1.5, partial convolution, mean over the whole map"}

    @property
    def footnotes(self) -> tuple[str, ...]:
        return (
            "mPSNR and mSSIM: dycheck's, per frame on what the reference sees; mSSIM is a mean over the whole picture, "
            "in which places without a seen pixel count as 1. Frames without a seen pixel are left out.",
        )

    def missing(self) -> str | None:
        return None

    def score(self, sample: Sample) -> Scores | Declined:
        inputs = sample.inputs
        made = sample.generated[torch.tensor(inputs.target_frames)].double()
        frames = [f for f in zip(made, inputs.target.double(), inputs.covisible, strict=True) if f[2].any()]
        if not frames:
            return skipped("no pixel of the target is seen by the reference")
        return {
            "mpsnr": sum(float(masked_psnr(*f)) for f in frames) / len(frames),
            "mssim": sum(float(masked_ssim(*f)) for f in frames) / len(frames),
        }
