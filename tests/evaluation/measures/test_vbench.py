import os
import shutil
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from mvtrack.evaluation.interface import BatchMetric, Inputs, Sample, Skipped
from mvtrack.evaluation.measures.pair_features import PairFeatures
from mvtrack.evaluation.measures.vbench import (
    DIMENSIONS,
    NATIVE,
    VBenchNative,
    VBenchPackage,
    _place,
    cache_folder,
    decoded_by_opencv,
    read_result,
)
from mvtrack.geometry.camera import Camera
from mvtrack.metrics.vbench import temporal_flickering
from mvtrack.metrics.vision_transformer import VisionTransformer, VitConfig, load_linear
from mvtrack.video.reader import open_video
from mvtrack.video.resize import still_camera
from mvtrack.video.writer import from_bytes, write_video

VARIABLE = "MVTRACK_VBENCH_PYTHON"
FLICKERING = VBenchNative("temporal_flickering")
# Answers as VBench's class does: a file of totals and of single videos, some of which it may leave out.
STAND_IN = """
import json, os
class VBench:
    def __init__(self, device, full_info, out):
        assert full_info.endswith("VBench_full_info.json")
        self.out = out
    def evaluate(self, videos_path, name, dimension_list, local, mode):
        assert (local, mode) == (True, "custom_input")
        [dimension] = dimension_list
        names = sorted(os.listdir(videos_path))
        found = [{"video_path": os.path.join(videos_path, n), "video_results": 10.0 + 50 * i}
                 for i, n in enumerate(names) if os.path.getsize(os.path.join(videos_path, n)) > 0 and i != 1]
        if dimension == "subject_consistency":
            hub = os.path.join(os.environ["TORCH_HOME"], "hub/checkpoints")
            assert open(os.path.join(hub, "dino_vitbase16_pretrain.pth")).read() == "DINO's weights"
        if dimension == "motion_smoothness":
            raise RuntimeError("the checkpoint amt-s.pth is damaged")
        with open(os.path.join(self.out, name + "_eval_results.json"), "w") as file:
            json.dump({dimension: [0.5, found]}, file)
"""


def sample_of(path: Path | None, video: torch.Tensor, key: str = "case") -> Sample:
    camera = still_camera(50.0, tuple(video.shape[-2:]), len(video))
    return Sample(Inputs(key, video, Camera.stack([camera, camera])), video, path)


@pytest.fixture
def sample(tmp_path, generator) -> Sample:
    video = torch.rand(5, 3, 20, 28, generator=generator) * 2 - 1
    return sample_of(write_video(tmp_path / "made.mp4", video, 24.0, lossless=True), video)


def test_flickering_of_the_file_and_of_the_frames_are_one(sample):
    """Our own videos are kept without loss: OpenCV reads the very values that were made."""
    of_file, of_frames = FLICKERING.score(sample), FLICKERING.score(replace(sample, file=None))
    assert of_file["temporal_flickering"] == pytest.approx(of_frames["temporal_flickering"], abs=1e-7)
    assert decoded_by_opencv(sample.file, 5).shape == (5, 3, 20, 28)
    for count in (4, 6):
        with pytest.raises(ValueError, match=f"made.mp4: OpenCV, which VBench reads videos with, finds 5 of {count}"):
            decoded_by_opencv(sample.file, count)


@pytest.mark.shared
def test_golden_flickering_of_a_real_video(shared, shared_numbers):
    """VBench's own number, its decoder and all (of OpenCV 5; older versions turn some files' colours otherwise)."""
    golden = shared_numbers("golden/metrics/vbench_flicker.npz")
    path = shared("data/recammaster/4.mp4")
    frames = decoded_by_opencv(path, int(golden["4.num_frames"]))
    assert temporal_flickering(frames) == pytest.approx(float(golden["4.score"]), abs=1e-5)


def test_scores_of_networks_are_given_vbenchs_weights(sample, monkeypatch, tmp_path, unchecked):
    """Which file feeds which dimension, with a stand-in for the networks; files of another network are refused."""

    class Mean(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))

        def forward(self, image):
            return image.mean((2, 3)).repeat(1, 256)

    asked = []
    monkeypatch.setattr("mvtrack.evaluation.measures.vbench._network", lambda *args: asked.append(args[:2]) or Mean())
    files = {name: "x.pth" for d in NATIVE for name, _ in DIMENSIONS[d].weights}
    assert set(files) == {"dino_vitb16", "clip_vit_b32", "clip_vit_l14", "laion_aesthetic"}
    for name in ("dino_vitbase16_pretrain.pth", "ViT-B-32.pt", "ViT-L-14.pt"):
        (tmp_path / name).write_bytes(b"not looked at")
    torch.save({"weight": torch.zeros(1, 768), "bias": torch.tensor([5.5])}, tmp_path / "sa_0_4_vit_l_14_linear.pth")
    scores = {}
    for dimension in NATIVE:
        scores |= VBenchNative(dimension, tmp_path).score(sample)
    assert scores["aesthetic_quality"] == pytest.approx(0.55)
    assert all(0 <= value <= 1 for value in scores.values())
    assert [(d, path.name) for d, path in asked] == [
        ("subject_consistency", "dino_vitbase16_pretrain.pth"),
        ("background_consistency", "ViT-B-32.pt"),
        ("aesthetic_quality", "ViT-L-14.pt"),
    ]
    torch.save({"weight": torch.zeros(1, 512), "bias": torch.zeros(1)}, tmp_path / "sa_0_4_vit_l_14_linear.pth")
    with pytest.raises(ValueError, match="is no linear layer from 768 values to one"):
        load_linear(tmp_path / "sa_0_4_vit_l_14_linear.pth", 768)


@pytest.mark.gpu
def test_networks_score_the_same_on_a_gpu(sample, monkeypatch, tmp_path, generator):
    """DINO's architecture, small and with random weights, in the two metrics that use it."""
    network = VisionTransformer(VitConfig(24, 2, 2, 16, 14))
    for parameter in network.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    (tmp_path / "dino_vitbase16_pretrain.pth").write_bytes(b"not looked at")
    native, pair = "mvtrack.evaluation.measures.vbench", "mvtrack.evaluation.measures.pair_features"
    found = {}
    for device in ("cpu", "cuda"):
        placed = deepcopy(network).to(device)
        monkeypatch.setattr(f"{native}._network", lambda *args, placed=placed: placed)
        monkeypatch.setattr(f"{pair}._dino", lambda *args, placed=placed: placed)
        score = VBenchNative("subject_consistency", tmp_path).score(sample)["subject_consistency"]
        found[device] = score, PairFeatures("dino", tmp_path).of(sample.generated[0], (5, 7))
    assert found["cuda"][0] == pytest.approx(found["cpu"][0], abs=1e-3)
    assert found["cuda"][1].device.type == "cpu"
    torch.testing.assert_close(found["cuda"][1], found["cpu"][1], atol=1e-2, rtol=0)


def test_weights_are_looked_for_and_told_apart(tmp_path):
    metric = VBenchNative("background_consistency", tmp_path)
    lacking = metric.missing()
    assert lacking.startswith("ViT-B-32.pt: put https://openaipublic.azureedge.net/clip/models/40d365")
    assert lacking.endswith(f"into {tmp_path}")
    assert metric.settings["weights"] == ["missing"]
    (tmp_path / "ViT-B-32.pt").write_bytes(b"another file")
    assert "ViT-B-32.pt has SHA-256" in metric.missing()
    assert metric.settings["weights"] != ["missing"]
    assert VBenchNative("aesthetic_quality").missing().endswith("name as weights, or $MVTRACK_WEIGHTS")


@pytest.fixture
def package(environment, monkeypatch, tmp_path):
    """The interpreter of an environment whose `vbench` is a stand-in, version 0.1.5; its cache is empty."""
    python = environment({"vbench/__init__": STAND_IN, "torchvision/__init__": ""})
    info = Path(python).parents[1] / "lib"
    [packages] = info.glob("python*/site-packages")
    (packages / "vbench-0.1.5.dist-info").mkdir()
    (packages / "vbench-0.1.5.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: vbench\nVersion: 0.1.5\n")
    monkeypatch.setenv("VBENCH_CACHE_DIR", str(tmp_path / "cache"))
    return python


def test_the_package_is_run_and_its_file_is_read(package, sample, tmp_path):
    """Values of single videos come back in order, on the total's scale; a video that it leaves out is a failure."""
    metric = VBenchPackage("imaging_quality", package, non_commercial=True)
    assert isinstance(metric, BatchMetric)
    assert metric.missing().endswith("fetch https://github.com/chaofengc/IQA-PyTorch/releases/download/v0.1-weights/"
                                     "musiq_spaq_ckpt-358bb6af.pth")  # fmt: skip
    weights = cache_folder() / DIMENSIONS["imaging_quality"].weights[0][1]
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"weights")
    assert metric.missing() is None
    assert metric.settings["vbench"] == "0.1.5"
    assert "the package VBench 0.1.5" in metric.footnotes[0]
    odd = replace(sample, file=shutil.copy(sample.file, tmp_path / "made.avi"))
    first, lost, third = metric.score_batch(iter([sample, sample, replace(odd, file=Path(odd.file))]))
    assert first == {"imaging_quality": pytest.approx(0.1)}
    assert third == {"imaging_quality": pytest.approx(1.1)}
    assert (lost.kind, lost.reason) == ("failed", "VBench gave no value for this video")
    assert metric.score_batch(iter([])) == []


def test_a_dimension_that_fails_says_why(package, sample):
    metric = VBenchPackage("motion_smoothness", package)
    assert metric.missing() == "consent: AMT's weights are for non-commercial use; pass --non-commercial"
    with pytest.raises(ValueError, match="vbench_worker.py failed: .*the checkpoint amt-s.pth is damaged"):
        metric.score(sample)


def test_what_the_package_lacks_is_named(package, sample):
    """With everything there, DINO's code finds the weights where it looks for them: it is not to download them."""
    assert VBenchPackage("temporal_flickering").missing().endswith(f"or ${VARIABLE}")
    nothing = VBenchPackage("temporal_flickering", Path("/nowhere/python"))
    assert nothing.missing().startswith("the package vbench in /nowhere/python")
    subject = VBenchPackage("subject_consistency", package)
    assert "dino_model/dino_vitbase16_pretrain.pth: fetch https://dl.fbaipublicfiles.com/dino" in subject.missing()
    weights = cache_folder() / "dino_model/dino_vitbase16_pretrain.pth"
    weights.parent.mkdir(parents=True)
    weights.write_text("DINO's weights")
    assert subject.missing().endswith("facebookresearch_dino_main: git clone https://github.com/facebookresearch/dino")
    (weights.parent / "facebookresearch_dino_main").mkdir()
    assert subject.missing() is None
    assert subject.score(sample) == {"subject_consistency": 10.0}


def test_files_that_vbench_does_not_write(tmp_path):
    path = tmp_path / "result_eval_results.json"
    for text in ("{", "[]", '{"temporal_flickering": 0.5}', '{"imaging_quality": [0.5, []]}'):
        path.write_text(text)
        with pytest.raises(ValueError, match="is not what VBench writes for temporal_flickering"):
            read_result(path, "temporal_flickering")


@pytest.mark.slow
def test_the_official_package_agrees_with_the_native_number(sample, generator):
    """Needs $MVTRACK_VBENCH_PYTHON (docs/evaluation.md): the real VBench on videos of this project."""
    if VARIABLE not in os.environ:
        pytest.skip(f"needs VBench in an environment of its own, named by ${VARIABLE}")
    metric = VBenchPackage("temporal_flickering", Path(os.environ[VARIABLE]))
    assert metric.missing() is None
    [official] = metric.score_batch([sample])
    assert official["temporal_flickering"] == pytest.approx(FLICKERING.score(sample)["temporal_flickering"], abs=1e-6)


def test_videos_that_are_no_files_are_written_for_the_package(sample, tmp_path):
    _place(replace(sample, file=None), tmp_path / "a.mp4")
    _place(sample, tmp_path / "b.mp4")
    assert (tmp_path / "b.mp4").is_symlink()
    kept = from_bytes(open_video(tmp_path / "a.mp4").read(0, 5))
    assert float((kept - sample.generated).abs().max()) < 1 / 127
    assert not isinstance(FLICKERING.score(replace(sample, file=tmp_path / "a.mp4")), Skipped)
