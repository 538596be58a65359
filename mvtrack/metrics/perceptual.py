"""LPIPS (Zhang et al. 2018): distance of network features, weighted by heads that were fitted to human judgement.

The backbone is a file of torchvision's (which this project does not import); the heads are those that the packages
`lpips` and `torchmetrics` carry. Nothing is downloaded, and nothing missing is replaced.
"""

import importlib.util
import pickle
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mvtrack.metrics.image import check_masked

LpipsNet = Literal["alex", "vgg"]
_HEAD_FOLDERS = {"lpips": "weights/v0.1", "torchmetrics": "functional/image/lpips_models"}
SMALLEST_PX = 32  # of a picture's shorter side
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # LPIPS's own colour normalisation

# out channels, kernel, stride, padding of convolutions; "pool"; "tap" after a ReLU whose output is compared
_ALEX = ((64, 11, 4, 2), "tap", "pool3", (192, 5, 1, 2), "tap", "pool3", (384, 3, 1, 1), "tap", (256, 3, 1, 1), "tap",
         (256, 3, 1, 1), "tap")  # fmt: skip
_VGG = tuple(
    layer
    for width, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
    for layer in (*(((width, 3, 1, 1),) * count), "tap", "pool2")
)[:-1]
_LAYOUT = {"alex": _ALEX, "vgg": _VGG}


class Lpips(nn.Module):
    """LPIPS 0.1 with an AlexNet or VGG16 backbone."""

    def __init__(self, net: LpipsNet) -> None:
        super().__init__()
        self.net = net
        channels, convolutions, heads = 3, [], []
        for layer in _LAYOUT[net]:
            if layer == "tap":
                heads.append(nn.Conv2d(channels, 1, 1, bias=False))
            elif isinstance(layer, tuple):
                width, kernel, stride, padding = layer
                convolutions.append(nn.Conv2d(channels, width, kernel, stride, padding))
                channels = width
        self.convolutions, self.heads = nn.ModuleList(convolutions), nn.ModuleList(heads)
        self.requires_grad_(False)

    def distance_map(self, a: Float[Tensor, "B 3 H W"], b: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B H W"]:
        """Distance at every pixel (LPIPS's spatial mode); values in [-1, 1]."""
        size = a.shape[-2:]
        maps = self._compare(a, b)
        resized = [F.interpolate(m, size, mode="bilinear", align_corners=False) for m in maps]
        return torch.stack(resized).sum(0)[:, 0]

    def forward(self, a: Float[Tensor, "B 3 H W"], b: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B"]:
        """Distance of each pair of pictures in [-1, 1]."""
        return torch.stack([m.mean((1, 2, 3)) for m in self._compare(a, b)]).sum(0)

    def _compare(self, a: Tensor, b: Tensor) -> list[Float[Tensor, "B 1 h w"]]:
        if a.shape != b.shape or min(a.shape[-2:]) < SMALLEST_PX:
            raise ValueError(
                f"LPIPS compares pictures of one size, at least "
                f"{SMALLEST_PX}x{SMALLEST_PX}; got {tuple(a.shape)} and {tuple(b.shape)}"
            )
        pairs = zip(self._features(a), self._features(b), self.heads, strict=True)
        return [head((_normalised(x) - _normalised(y)).square()) for x, y, head in pairs]

    def _features(self, image: Float[Tensor, "B 3 H W"]) -> list[Float[Tensor, "B C h w"]]:
        x = (image - image.new_tensor(_SHIFT)[:, None, None]) / image.new_tensor(_SCALE)[:, None, None]
        convolutions, taps = iter(self.convolutions), []
        for layer in _LAYOUT[self.net]:
            if layer == "tap":
                taps.append(x)
            elif isinstance(layer, str):
                x = F.max_pool2d(x, int(layer[-1]), 2)
            else:
                x = next(convolutions)(x).relu()
        return taps


def masked_lpips(
    network: Lpips, predicted: Float[Tensor, "3 H W"], truth: Float[Tensor, "3 H W"], mask: Bool[Tensor, "H W"]
) -> Float[Tensor, ""]:
    """dycheck's mLPIPS of one picture in [-1, 1]: pixels outside the mask are black in both; mean under the mask."""
    check_masked(predicted, truth, mask)
    pair = (torch.where(mask, image, -1.0)[None] for image in (predicted, truth))
    return network.distance_map(*pair)[0][mask].mean()


def load_lpips(net: LpipsNet, backbone: Path, heads: Path) -> Lpips:
    """LPIPS from a torchvision state file and a heads file. Raises ValueError that names the file that does not fit."""
    model = Lpips(net)
    _load_in_order(backbone, model.convolutions, "features.", net)
    _load_in_order(heads, model.heads, "lin", net)
    return model.eval()


def packaged_heads(net: LpipsNet) -> Path | None:
    """The heads file that an installed package carries, found without importing the package."""
    for package, folder in _HEAD_FOLDERS.items():
        spec = importlib.util.find_spec(package)
        for place in (spec.submodule_search_locations or []) if spec else []:
            file = Path(place) / folder / f"{net}.pth"
            if file.is_file():
                return file
    return None


def _load_in_order(file: Path, layers: nn.ModuleList, prefix: str, net: str) -> None:
    """Layers of a state dict whose names begin with a prefix, in the order of their numbers."""
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(f"cannot read {file} as a PyTorch state file: {error}") from error
    for kind in ("weight", "bias"):
        names = [name for name in state if name.startswith(prefix) and name.endswith(f".{kind}")]
        names.sort(key=lambda name: int("".join(filter(str.isdigit, name.removeprefix(prefix).split(".")[0]))))
        own = [getattr(layer, kind) for layer in layers if getattr(layer, kind) is not None]
        if [state[name].shape for name in names] != [parameter.shape for parameter in own]:
            raise ValueError(f"{file} does not hold the {kind}s of LPIPS's {net}: is it the file of another network?")
        for name, parameter in zip(names, own, strict=True):
            parameter.data.copy_(state[name])


def _normalised(features: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
    return features / (features.norm(dim=1, keepdim=True) + 1e-10)
