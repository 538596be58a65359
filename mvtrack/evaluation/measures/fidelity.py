"""What differs from the true video of the target view: PSNR, SSIM and LPIPS, whole frames and under dycheck's masks."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from mvtrack.evaluation.interface import Column, Metric, Sample, Scores, Skipped, skipped
from mvtrack.evaluation.measures.weight_files import WeightFile, default_weights, network_device
from mvtrack.files.cache import sha256_once
from mvtrack.metrics.image import masked_psnr, masked_ssim, psnr, ssim
from mvtrack.metrics.perceptual import SMALLEST_PX, Lpips, LpipsNet, load_lpips, masked_lpips, packaged_heads

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


_ENTRY = {"alex": "lpips_alexnet", "vgg": "lpips_vgg16"}
_TITLE = {"alex": "AlexNet", "vgg": "VGG16"}
_BATCH = 8


@dataclass(frozen=True)
class PerceptualDistance(Metric):
    """Mean over the frames whose truth is known. folder: holds the backbone; the heads lie there too (<net>.pth), or
    come from an installed package."""

    net: LpipsNet = "alex"
    folder: Path | None = None
    name = "lpips"
    columns = (Column("lpips", "LPIPS", "lower"), Column("mlpips", "mLPIPS", "lower"))
    needs = ("target",)

    @property
    def settings(self) -> dict:
        heads = self._heads()
        known = "missing" if heads is None else sha256_once(heads)
        return {"net": self.net, "backbone": self._backbone.sha256, "heads": known}

    @property
    def footnotes(self) -> tuple[str, ...]:
        return (
            f"LPIPS 0.1 with {_TITLE[self.net]}; the paper does not say which network it used. mLPIPS: dycheck's, on "
            "what the reference sees, the rest black.",
        )

    @property
    def _backbone(self) -> WeightFile:
        return WeightFile.of(_ENTRY[self.net], self.folder)

    def _heads(self) -> Path | None:
        own = None if self.folder is None else self.folder / f"{self.net}.pth"
        return own if own and own.is_file() else packaged_heads(self.net)

    def missing(self) -> str | None:
        lacking = self._backbone.missing()
        if lacking is None and self._heads() is None:
            return "LPIPS heads: pip install --no-deps lpips"
        return lacking

    def network(self) -> Lpips:
        """Only where nothing is `missing`."""
        return _loaded(self.net, self._backbone.path, self._heads())

    def score(self, sample: Sample) -> Scores:
        inputs, network = sample.inputs, self.network()
        device = next(network.parameters()).device
        made, truth = sample.generated[torch.tensor(inputs.target_frames)].clamp(-1, 1), inputs.target
        with torch.no_grad():
            scores: Scores = {"lpips": perceptual_distance(network, made, truth)}
            if why := inputs.why_missing("covisible"):
                return scores | {"mlpips": why}
            frames = [frame for frame in zip(made, truth, inputs.covisible, strict=True) if frame[2].any()]
            masked = [float(masked_lpips(network, *(x.to(device) for x in frame))) for frame in frames]
        return scores | {"mlpips": sum(masked) / len(masked) if masked else NOTHING_SEEN}


def lpips_network(folder: Path | None, size: tuple[int, int]) -> tuple[Lpips | None, str | None]:
    """LPIPS with an AlexNet of a folder (None: the environment's), or why there is none for pictures of this size."""
    metric = PerceptualDistance(folder=folder or default_weights())
    lacking = metric.missing()
    if min(size) < SMALLEST_PX:
        lacking = f"it needs pictures of {SMALLEST_PX} pixels and more, the model makes {size}"
    return (metric.network(), None) if lacking is None else (None, lacking)


@torch.no_grad()
def perceptual_distance(network: Lpips, made: Float[Tensor, "T 3 H W"], truth: Float[Tensor, "T 3 H W"]) -> float:
    """Mean LPIPS over pictures in [-1, 1], a few at a time."""
    device = next(network.parameters()).device
    pairs = zip(made.split(_BATCH), truth.split(_BATCH), strict=True)
    return float(torch.cat([network(a.to(device), b.to(device)).cpu() for a, b in pairs]).double().mean())


@lru_cache(maxsize=1)
def _loaded(net: LpipsNet, backbone: Path, heads: Path) -> Lpips:
    return load_lpips(net, backbone, heads).to(network_device())
