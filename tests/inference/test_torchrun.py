"""`torchrun -m mvtrack reshoot`: one video by all processes, and none that waits when there is nothing to share."""

import json
import subprocess
import sys

import numpy as np
import pytest

from mvtrack.config.placement import Placement
from mvtrack.inference.torchrun import with_launched
from mvtrack.models.reshoot_model import save_model
from mvtrack.video.reader import open_video
from mvtrack.video.writer import VideoWriter


def command(launcher: list[str], *arguments) -> subprocess.CompletedProcess:
    line = [sys.executable, *launcher, "-m", "mvtrack", "reshoot", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, timeout=300)


TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


@pytest.mark.slow
def test_launched_processes_make_one_video(small_model, tmp_path):
    model, source = save_model(small_model, tmp_path / "model").parent, tmp_path / "clip.mp4"
    with VideoWriter(source, 8.0) as writer:
        for frame in np.random.default_rng(3).integers(0, 255, (5, 24, 32, 3), np.uint8):
            writer.append(frame)
    options = (source, "--model", model, "--camera", "arc_left", "--steps", "2", "--device", "cpu", "--out")
    for launcher, out in (([], tmp_path / "alone"), (TORCHRUN, tmp_path / "together")):
        done = command(launcher, *options, out)
        assert done.returncode == 0, done.stderr[-2000:]
        assert done.stdout.count("side_by_side.mp4") == 1
    assert json.loads((tmp_path / "together/run.json").read_text())["placement"]["gpus"] == 2
    one, two = (open_video(tmp_path / name / "video.mp4").read(0, 5).float() for name in ("alone", "together"))
    assert (one - two).abs().mean() < 1
    assert one.std() > 10


@pytest.mark.slow
@pytest.mark.parametrize(("arguments", "code"), [(["--help"], 0), (["clip.mp4", "--camera", "arc_left"], 1)])
def test_what_ends_before_a_pass_ends_all(arguments, code):
    done = command(TORCHRUN, *arguments)
    assert done.returncode == code
    assert code == 0 or "--gpus 2 cannot share 3 heads" in done.stderr


def test_another_number_is_refused(monkeypatch):
    assert with_launched(Placement(gpus=1)) == Placement(gpus=1)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(ValueError, match="torchrun started 4 processes, --gpus asks for 2: leave it out"):
        with_launched(Placement(gpus=2))
