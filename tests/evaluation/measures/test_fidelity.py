from dataclasses import replace

import pytest
import torch

from mvtrack.evaluation.interface import Sample, Skipped
from mvtrack.evaluation.measures.fidelity import Fidelity, MaskedFidelity, PerceptualDistance
from mvtrack.metrics.image import masked_psnr, masked_ssim
from mvtrack.metrics.perceptual import Lpips, masked_lpips


@pytest.fixture
def seen(wall, generator) -> Sample:
    """A generated video with errors, and masks of three target frames: a part, another part, nothing."""
    masks = torch.zeros(3, 32, 48, dtype=torch.bool)
    masks[0, :, :30], masks[1, 4:20, 10:40] = True, True
    made = (wall.generated + 0.3 * torch.randn(wall.generated.shape, generator=generator)).clamp(-1, 1)
    return replace(wall, generated=made, inputs=replace(wall.inputs, covisible=masks))


def reason(value) -> str:
    assert isinstance(value, Skipped)
    return f"{value.kind}: {value.reason}"


def test_dychecks_scores_are_means_over_frames_that_show_something(seen):
    scores = MaskedFidelity().score(seen)
    frames = list(zip(seen.generated.double(), seen.inputs.target.double(), seen.inputs.covisible, strict=True))[:2]
    assert scores["mpsnr"] == pytest.approx(sum(float(masked_psnr(*f)) for f in frames) / 2)
    assert scores["mssim"] == pytest.approx(sum(float(masked_ssim(*f)) for f in frames) / 2)
    assert Fidelity().score(seen)["psnr_covisible"] != pytest.approx(scores["mpsnr"], abs=1e-3)
    blind = replace(seen, inputs=replace(seen.inputs, covisible=torch.zeros(3, 32, 48, dtype=torch.bool)))
    assert reason(MaskedFidelity().score(blind)) == "skipped: no pixel of the target is seen by the reference"


@pytest.fixture
def network(monkeypatch) -> Lpips:
    """LPIPS with untrained weights in place of the files'."""
    torch.manual_seed(3)
    model = Lpips("alex")
    for head in model.heads:
        head.weight.data.abs_()
    monkeypatch.setattr("mvtrack.evaluation.measures.fidelity._loaded", lambda *args: model)
    return model


def test_lpips_of_the_frames_whose_truth_is_known(seen, network):
    part = replace(
        seen.inputs, target=seen.inputs.target[1:], target_frames=(1, 2), covisible=seen.inputs.covisible[1:]
    )
    scores = PerceptualDistance().score(replace(seen, inputs=part))
    pairs = list(zip(seen.generated[1:], seen.inputs.target[1:], strict=True))
    assert scores["lpips"] == pytest.approx(float(sum(network(a[None], b[None]) for a, b in pairs)) / 2, rel=1e-5)
    mask = seen.inputs.covisible[1]
    assert scores["mlpips"] == pytest.approx(float(masked_lpips(network, *pairs[0], mask)), rel=1e-5)
    bare = replace(seen, inputs=replace(seen.inputs, covisible=None))
    assert (
        reason(PerceptualDistance().score(bare)["mlpips"])
        == "skipped: this benchmark gives no masks of what the reference sees"
    )


def test_what_lpips_lacks_is_named_in_turn(tmp_path, monkeypatch):
    monkeypatch.setattr("mvtrack.evaluation.measures.fidelity.packaged_heads", lambda net: None)
    metric = PerceptualDistance("vgg", tmp_path)
    assert metric.missing().startswith("vgg16-397923af.pth: put https://download.pytorch.org/models/vgg16-397923af.pth")
    assert metric.settings == {"net": "vgg", "backbone": "missing", "heads": "missing"}
    (tmp_path / "vgg16-397923af.pth").write_bytes(b"another")
    assert "it is another file" in metric.missing()
    monkeypatch.setattr("mvtrack.evaluation.measures.weight_files.problem_with", lambda path, entry: None)
    (tmp_path / "vgg16-397923af.pth").write_bytes(b"as released")
    assert metric.missing() == "LPIPS heads: pip install --no-deps lpips"
    (tmp_path / "vgg.pth").write_bytes(b"heads")
    assert metric.missing() is None
    assert len(metric.settings["heads"]) == 64
    assert "VGG16" in metric.footnotes[0]
