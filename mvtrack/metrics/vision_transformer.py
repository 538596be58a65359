"""The vision transformer of DINO (Caron et al. 2021) and CLIP (Radford et al. 2021), for scores that use features.

Written out here, because the packages that carry them pull in an old transformers or a torchvision that has to match
torch to the build. Weights come from the files that their authors published.
"""

import pickle
import zipfile
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from mvtrack.config.checked import config


@config
class VitConfig:
    """grid: tokens a side that the position embedding was learned for. clip: CLIP's variant (a norm before the blocks,
    x * sigmoid(1.702 x) for GELU, no bias on patches, a projection at the end) instead of DINO's."""

    dim: int
    layers: int
    heads: int
    patch: int
    grid: int
    clip: bool = False
    out_dim: int = 0


DINO_B16 = VitConfig(768, 12, 12, 16, 14)
CLIP_B32 = VitConfig(768, 12, 12, 32, 7, True, 512)
CLIP_L14 = VitConfig(1024, 24, 16, 14, 16, True, 768)


# openai-clip's names where they differ from DINO's, which are this network's own
_CLIP_NAMES = {
    "class_embedding": "cls_token", "positional_embedding": "pos_embed", "conv1": "patch_embed.proj",
    "ln_pre": "norm_pre", "ln_post": "norm", "transformer.resblocks": "blocks", "ln_": "norm",
    "in_proj_weight": "qkv.weight", "in_proj_bias": "qkv.bias", "out_proj": "proj", "c_fc": "fc1", "c_proj": "fc2",
}  # fmt: skip


class ViTBlock(nn.Module):
    """Pre-norm attention and MLP."""

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        eps, dim = 1e-5 if config.clip else 1e-6, config.dim
        self.heads, self.clip = config.heads, config.clip
        self.norm1, self.norm2 = (nn.LayerNorm(dim, eps=eps) for _ in range(2))
        self.attn = nn.ModuleDict({"qkv": nn.Linear(dim, 3 * dim), "proj": nn.Linear(dim, dim)})
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(dim, 4 * dim), "fc2": nn.Linear(4 * dim, dim)})

    def forward(self, x: Float[Tensor, "B N C"]) -> Float[Tensor, "B N C"]:
        q, k, v = rearrange(self.attn["qkv"](self.norm1(x)), "b n (three h d) -> three b h n d", three=3, h=self.heads)
        x = x + self.attn["proj"](rearrange(F.scaled_dot_product_attention(q, k, v), "b h n d -> b n (h d)"))
        hidden = self.mlp["fc1"](self.norm2(x))
        return x + self.mlp["fc2"](hidden * torch.sigmoid(1.702 * hidden) if self.clip else F.gelu(hidden))


class VisionTransformer(nn.Module):
    """Image (normalised as the weights expect) to the feature of its class token, or to a map of patch features."""

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        self.config, dim = config, config.dim
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, dim, config.patch, config.patch, bias=not config.clip)})
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + config.grid**2, dim))
        self.norm_pre = nn.LayerNorm(dim) if config.clip else nn.Identity()
        self.blocks = nn.ModuleList(ViTBlock(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(dim, eps=1e-5 if config.clip else 1e-6)
        self.proj = nn.Parameter(torch.zeros(dim, config.out_dim)) if config.clip else None
        self.requires_grad_(False)

    def forward(self, image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C"]:
        feature = self.norm(self._tokens(image)[:, 0])
        return feature if self.proj is None else feature @ self.proj

    def feature_map(self, image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C h w"]:
        """Normalised features of the patches, as a picture of H / patch by W / patch."""
        rows = image.shape[-2] // self.config.patch
        return rearrange(self.norm(self._tokens(image)[:, 1:]), "b (h w) c -> b c h w", h=rows)

    def _tokens(self, image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B N C"]:
        patches = rearrange(self.patch_embed["proj"](image), "b c h w -> b (h w) c")
        positions = torch.cat([self.pos_embed[:, :1], self._positions_for(image)], 1)
        x = self.norm_pre(torch.cat([self.cls_token.expand(len(image), 1, -1), patches], 1) + positions)
        for block in self.blocks:
            x = block(x)
        return x

    def _positions_for(self, image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "1 N C"]:
        """Position embeddings of an image's patches. DINO stretches its own bicubically to anything but a square of its
        own size, by factors a tenth of a token too large."""
        side, (height, width) = self.config.grid, image.shape[-2:]
        rows, columns = height // self.config.patch, width // self.config.patch
        if height == width and rows == side:
            return self.pos_embed[:, 1:]
        if self.config.clip:
            raise ValueError(f"CLIP takes pictures of {side * self.config.patch} pixels a side, got {height}x{width}")
        own = rearrange(self.pos_embed[:, 1:], "1 (h w) c -> 1 c h w", h=side)
        factors = ((rows + 0.1) / side, (columns + 0.1) / side)
        return rearrange(F.interpolate(own, scale_factor=factors, mode="bicubic"), "1 c h w -> 1 (h w) c")


def load_dino(file: Path, config: VitConfig = DINO_B16) -> VisionTransformer:
    """DINO's published backbone file. Raises ValueError that names the file when it is another."""
    return _load(VisionTransformer(config), _read(file), file)


def load_clip(file: Path, config: VitConfig) -> VisionTransformer:
    """The image half of OpenAI's CLIP, from its published archive or a state file of it; in float32."""
    state = {}
    for name, value in _read(file).items():
        if name.startswith("visual."):
            name = name.removeprefix("visual.")
            for theirs, ours in _CLIP_NAMES.items():
                name = name.replace(theirs, ours)
            state[name] = rearrange(value, "... c -> 1 ... c") if name in ("cls_token", "pos_embed") else value
    if "cls_token" in state:
        state["cls_token"] = state["cls_token"][None]
    return _load(VisionTransformer(config), state, file)


def _read(file: Path) -> dict[str, Tensor]:
    """A state dict from a plain state file or from a TorchScript archive, which is how CLIP was published."""
    try:
        if _is_archive(file):
            return dict(torch.jit.load(str(file), map_location="cpu").state_dict())
        state = torch.load(file, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, OSError, EOFError) as error:
        raise ValueError(f"cannot read {file} as PyTorch weights: {error}") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{file} holds no state dict of tensors")
    return state


def _is_archive(file: Path) -> bool:
    """Whether a file is TorchScript's: a zip with code beside the tensors."""
    if not zipfile.is_zipfile(file):
        return False
    with zipfile.ZipFile(file) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _load(model: VisionTransformer, state: dict[str, Tensor], file: Path) -> VisionTransformer:
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    wrong = sorted(name for name, shape in expected.items() if name not in state or tuple(state[name].shape) != shape)
    wrong += sorted(set(state) - set(expected))
    if wrong:
        raise ValueError(f"{file} is not the expected network: {wrong[0]} is missing, unknown or of another size")
    model.load_state_dict({name: value.float() for name, value in state.items()})
    return model.eval()


def load_linear(file: Path, width: int) -> tuple[Float[Tensor, "1 C"], Float[Tensor, "1"]]:
    """Weight and bias of a linear layer to one number from its state file."""
    state = {name: value.float() for name, value in _read(file).items()}
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    if shapes != {"weight": (1, width), "bias": (1,)}:
        raise ValueError(f"{file} is no linear layer from {width} values to one: it holds {shapes}")
    return state["weight"], state["bias"]
