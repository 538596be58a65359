from pathlib import Path

import pytest
import torch

from mvtrack.metrics.vision_transformer import VitConfig, load_clip, load_dino

DIM, SIDE, LAYERS = 24, 40, 2
DINO, CLIP = VitConfig(DIM, LAYERS, 3, 8, 5), VitConfig(DIM, LAYERS, 3, 8, 5, True, 11)
# Every fifth value of the feature that facebookresearch/dino's ViT gives for pictures of these sizes and the made-up
# weights below, and every second of openai-clip 1.0.1's.
GOLDEN_DINO = {
    (40, 40): [1.098859, 1.275735, 0.671322, 0.54512, -0.152049],
    (41, 43): [1.100664, 1.275584, 0.670442, 0.545972, -0.151449],
    (40, 59): [1.100818, 1.27506, 0.670564, 0.546288, -0.151775],
}
GOLDEN_CLIP = [-0.607013, 0.266005, 0.125768, -0.49354, 0.767122, -0.894304]


def made_up(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """Weights that every machine makes alike: waves of the element's number."""
    out = {}
    for n, (name, shape) in enumerate(sorted(shapes.items())):
        i = torch.arange(torch.Size(shape).numel(), dtype=torch.float64)
        wave = torch.sin(i * (1.7 + 0.013 * n) + 0.1 * n)
        out[name] = (0.3 * wave if len(shape) > 1 else 0.6 + 0.3 * wave).float().view(shape)
    return out


def dino_file(folder: Path) -> Path:
    shapes = {
        "cls_token": (1, 1, DIM), "pos_embed": (1, 26, DIM), "patch_embed.proj.weight": (DIM, 3, 8, 8),
        "patch_embed.proj.bias": (DIM,), "norm.weight": (DIM,), "norm.bias": (DIM,),
    }  # fmt: skip
    layers = {"attn.qkv": (3 * DIM, DIM), "attn.proj": (DIM, DIM), "mlp.fc1": (4 * DIM, DIM), "mlp.fc2": (DIM, 4 * DIM)}
    layers |= {"norm1": (DIM,), "norm2": (DIM,)}
    for number in range(LAYERS):
        for name, shape in layers.items():
            shapes |= {f"blocks.{number}.{name}.weight": shape, f"blocks.{number}.{name}.bias": shape[:1]}
    torch.save(made_up(shapes), folder / "dino.pth")
    return folder / "dino.pth"


def clip_file(folder: Path) -> Path:
    shapes = {"class_embedding": (DIM,), "positional_embedding": (26, DIM), "conv1.weight": (DIM, 3, 8, 8)}
    shapes |= {"proj": (DIM, 11)}
    shapes |= {f"{name}.{kind}": (DIM,) for name in ("ln_pre", "ln_post") for kind in ("weight", "bias")}
    layers = {"attn.out_proj": (DIM, DIM), "mlp.c_fc": (4 * DIM, DIM), "mlp.c_proj": (DIM, 4 * DIM)}
    layers |= {"ln_1": (DIM,), "ln_2": (DIM,)}
    for number in range(LAYERS):
        block = f"transformer.resblocks.{number}"
        shapes |= {f"{block}.attn.in_proj_weight": (3 * DIM, DIM), f"{block}.attn.in_proj_bias": (3 * DIM,)}
        for name, shape in layers.items():
            shapes |= {f"{block}.{name}.weight": shape, f"{block}.{name}.bias": shape[:1]}
    state = {f"visual.{name}": value for name, value in made_up(shapes).items()} | {"logit_scale": torch.ones(())}
    torch.save(state, folder / "clip.pt")
    return folder / "clip.pt"


def picture(height: int, width: int) -> torch.Tensor:
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    return torch.stack([torch.sin(9 * x + 3 * y), torch.cos(13 * y * x), torch.sin(21 * x) * torch.cos(17 * y)])[None]


@pytest.mark.parametrize("size", GOLDEN_DINO)
def test_golden_dino(size, tmp_path):
    model = load_dino(dino_file(tmp_path), DINO)
    found = model(picture(*size))[0, ::5].tolist()
    assert found == pytest.approx(GOLDEN_DINO[size], abs=2e-5)
    assert model.feature_map(picture(*size)).shape == (1, DIM, 5, size[1] // 8)


def test_golden_clip(tmp_path):
    model = load_clip(clip_file(tmp_path), CLIP)
    assert model(picture(SIDE, SIDE))[0, ::2].tolist() == pytest.approx(GOLDEN_CLIP, abs=2e-5)
    with pytest.raises(ValueError, match="40 pixels a side, got 40x59"):
        model(picture(SIDE, 59))


class Holder(torch.nn.Module):
    """Parameters under dotted names, as CLIP's published archive has them."""

    def __init__(self, state: dict[str, torch.Tensor]):
        super().__init__()
        for name, value in state.items():
            owner = self
            *path, last = name.split(".")
            for part in path:
                if not hasattr(owner, part):
                    owner.add_module(part, torch.nn.Module())
                owner = getattr(owner, part)
            owner.register_buffer(last, value)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def test_an_archive_of_torchscript_is_read_like_a_state_file(tmp_path):
    """This is how OpenAI published CLIP."""
    plain = clip_file(tmp_path)
    archive = tmp_path / "archive.pt"
    torch.jit.save(torch.jit.trace(Holder(torch.load(plain)), torch.zeros(1)), archive)
    a, b = load_clip(plain, CLIP).state_dict(), load_clip(archive, CLIP).state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"dino.pth is not the expected network: blocks.0.attn.proj.bias is missing"):
        load_clip(dino_file(tmp_path), CLIP)
    with pytest.raises(ValueError, match="is not the expected network"):
        load_dino(dino_file(tmp_path), VitConfig(32, LAYERS, 4, 8, 5))
    (tmp_path / "text.pt").write_text("no weights")
    with pytest.raises(ValueError, match=r"cannot read .*text.pt as PyTorch weights"):
        load_clip(tmp_path / "text.pt", CLIP)
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ValueError, match="holds no state dict"):
        load_dino(tmp_path / "list.pt", DINO)
