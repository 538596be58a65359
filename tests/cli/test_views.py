"""`mvtrack views` as it is typed."""

import subprocess
import sys
from dataclasses import replace

import cv2
import pytest

from mvtrack.cli.views import main
from mvtrack.config.views import ViewsConfig
from mvtrack.data.synthetic.test_scenes import render_still_scene
from mvtrack.models.reshoot_model import ReshootModel, build_model, save_model
from mvtrack.video.writer import to_bytes


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("photos") / "garden.png"
    cv2.imwrite(str(path), to_bytes(render_still_scene(5, 1, 1, (48, 64)).video[0])[0][..., ::-1])
    return path


@pytest.fixture(scope="module")
def folder(small_model, tmp_path_factory):
    config = small_model.config
    dit = replace(config.dit, rope_frames="by_view")
    config = replace(config, views=ViewsConfig(3, (1, 2)), num_frames=1, dit=dit)
    model = ReshootModel(config, build_model(config, seed=4).dit, small_model.codec)
    return save_model(model, tmp_path_factory.mktemp("model")).parent


def test_one_photograph_becomes_a_video(photo, folder, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = [str(photo), "--targets", "pan_left 60deg", "--model", str(folder), "--out", str(out), "--steps", "1"]
    assert main([*arguments, "--frames", "3", "--resolution", "model"]) == 0
    shown = capsys.readouterr()
    assert shown.out.splitlines() == [str(out / "video.mp4"), f"{out / 'views'}: 3 pictures"]
    assert "garden.png is 50.0 degrees wide, an assumption" in shown.err
    assert "2 of 3 new views look mostly where no photograph does: 0001, 0002; up to 100 %" in shown.err
    for more, message in (
        (["--overwrite", "--camera-guidance", "2"], "trained with cameras left out"),
        (["--overwrite", "--domain", "co3d"], "domain co3d is for CAT3D"),
        (["--resolution", "model", "--depth", "auto"], "--depth has no effect, with --resolution model"),
        ([], "exists already"),
    ):
        assert main([*arguments, *more]) == 2
        assert message in capsys.readouterr().err
    poses = tmp_path / "out/cameras.json"
    assert main([str(photo), "--targets", str(poses), "--model", str(folder), "--frames", "3"]) == 2
    assert "--frames is for a path of moves" in capsys.readouterr().err
    assert main([str(photo), "--targets", "pan_left 3deg"]) == 2
    assert "--model" in capsys.readouterr().err


def test_help_needs_no_torch():
    code = "import sys; from mvtrack.cli.views import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    code += "assert 'torch' not in sys.modules and 'cv2' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
