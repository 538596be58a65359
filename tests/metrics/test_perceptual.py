from pathlib import Path

import pytest
import torch

from mvtrack.metrics.perceptual import Lpips, load_lpips, masked_lpips, packaged_heads

# What the package lpips 0.1.4 gives for the pictures and made-up weights below: the mean of its plain mode, and the
# spatial map's mean and values at (0, 0), (13, 17), (40, 71), (66, 82).
GOLDEN = {
    "alex": (0.22164488, 0.22168429, (0.06764060, 0.08122889, 0.10743167, 0.11476112)),
    "vgg": (0.45561659, 0.45561984, (0.03043972, 0.28465804, 0.61358994, 0.21631542)),
}
NUMBERS = {"alex": (0, 3, 6, 8, 10), "vgg": (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)}


def made_up(shapes: dict[str, torch.Size]) -> dict[str, torch.Tensor]:
    """Weights that every machine makes alike: waves of the element's number."""
    out = {}
    for n, (name, shape) in enumerate(sorted(shapes.items())):
        i = torch.arange(shape.numel(), dtype=torch.float64)
        fan = shape[1:].numel()
        wave = torch.sin(i * (1.7 + 0.013 * n) + 0.1 * n) * (2 / fan) ** 0.5 * 1.3
        out[name] = (wave if len(shape) > 1 else 0.05 * torch.sin(i)).float().view(shape)
    return out


def files(folder: Path, net: str) -> tuple[Path, Path]:
    """State files laid out as torchvision's and lpips's."""
    model = Lpips(net)
    backbone = {}
    for number, layer in zip(NUMBERS[net], model.convolutions, strict=True):
        backbone |= {f"{number}.weight": layer.weight.shape, f"{number}.bias": layer.bias.shape}
    state = {f"features.{name}": value for name, value in made_up(backbone).items()}
    heads = made_up({f"lin{i}.model.1.weight": head.weight.shape for i, head in enumerate(model.heads)})
    torch.save(state | {"classifier.1.weight": torch.zeros(2, 2)}, folder / "backbone.pth")
    torch.save({name: 3 * value.abs() for name, value in heads.items()}, folder / "heads.pth")
    return folder / "backbone.pth", folder / "heads.pth"


def pictures() -> tuple[torch.Tensor, torch.Tensor]:
    y, x = torch.meshgrid(torch.linspace(0, 1, 67), torch.linspace(0, 1, 83), indexing="ij")
    a = [torch.sin(9 * x + 3 * y), torch.cos(13 * y * x), torch.sin(21 * x) * torch.cos(17 * y)]
    b = [torch.sin(9 * x + 3.4 * y + 0.2), torch.cos(12 * y * x), torch.sin(20 * x) * torch.cos(18 * y)]
    return torch.stack(a)[None], torch.stack(b)[None]


@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_golden_lpips_package(net, tmp_path):
    network = load_lpips(net, *files(tmp_path, net))
    a, b = pictures()
    mean, spatial_mean, values = GOLDEN[net]
    assert float(network(a, b)) == pytest.approx(mean, abs=2e-5)
    spatial = network.distance_map(a, b)[0]
    assert float(spatial.mean()) == pytest.approx(spatial_mean, abs=2e-5)
    found = [float(spatial[row, column]) for row, column in ((0, 0), (13, 17), (40, 71), (66, 82))]
    assert found == pytest.approx(values, abs=5e-5)
    assert float(network(a, a)) == 0


def test_masked_lpips_looks_at_the_mask_only(tmp_path):
    network = load_lpips("alex", *files(tmp_path, "alex"))
    a, b = (image[0] for image in pictures())
    mask = torch.zeros(67, 83, dtype=torch.bool)
    mask[:, :40] = True
    score = masked_lpips(network, a, b, mask)
    elsewhere = torch.where(mask, b, -b)
    assert float(masked_lpips(network, a, elsewhere, mask)) == pytest.approx(float(score), abs=1e-7)
    everything = masked_lpips(network, a, b, torch.ones_like(mask))
    assert float(everything) == pytest.approx(GOLDEN["alex"][1], abs=2e-5)
    with pytest.raises(ValueError, match="selects no pixel"):
        masked_lpips(network, a, b, torch.zeros_like(mask))


def test_files_of_another_network_are_refused(tmp_path):
    backbone, heads = files(tmp_path, "alex")
    with pytest.raises(ValueError, match="backbone.pth does not hold the weights of LPIPS's vgg"):
        load_lpips("vgg", backbone, heads)
    with pytest.raises(ValueError, match="heads.pth does not hold the weights"):
        load_lpips("alex", heads, backbone)
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(ValueError, match="cannot read .*text.pth"):
        load_lpips("alex", tmp_path / "text.pth", heads)


def test_heads_of_an_installed_package_are_found_without_importing_it(tmp_path, monkeypatch):
    package = tmp_path / "lpips"
    (package / "weights/v0.1").mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('not to be imported')")
    monkeypatch.syspath_prepend(tmp_path)
    (package / "weights/v0.1/alex.pth").touch()
    assert packaged_heads("alex") == package / "weights/v0.1/alex.pth"


def test_small_pictures_are_refused(unchecked):
    with pytest.raises(ValueError, match="at least 32x32"):
        Lpips("alex")(torch.zeros(1, 3, 16, 40), torch.zeros(1, 3, 16, 40))
