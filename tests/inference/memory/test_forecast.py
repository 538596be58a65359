import re
from dataclasses import replace

import pytest

from mvtrack.cli.main import main as cli
from mvtrack.config.placement import Placement
from mvtrack.inference.memory import forecast as forecasting
from mvtrack.inference.memory.forecast import VideoJob, forecast, settled
from mvtrack.inference.memory.inference import UTILISATION, Work, estimate_inference
from mvtrack.inference.sampler import SamplerOptions
from mvtrack.models.reshoot_model import save_model

FIGURES = r"about \d+ (s|min), \d+\.\d GiB \(estimates\)"


@pytest.fixture
def slow_cpu(monkeypatch):
    """A CPU on which everything takes more than five minutes."""
    monkeypatch.setattr(forecasting, "cpu_flops", lambda: 1e6)
    monkeypatch.setitem(forecasting._COMPILED, "cpu", (0.0, 30.0))


def test_a_size_the_model_never_saw_comes_with_an_estimate_before_work(video, small_model, tmp_path, capsys):
    folder = save_model(small_model, tmp_path / "model").parent
    command = ["reshoot", str(video), "--camera", "pan_left 5", "--model", str(folder), "--steps", "1", "--out"]
    assert cli([*command, str(tmp_path / "a")]) == 0
    assert "estimates" not in capsys.readouterr().err
    assert cli([*command, str(tmp_path / "b"), "--size", "24x40"]) == 0
    first = capsys.readouterr().err.splitlines()[0]
    assert re.fullmatch(f"mvtrack reshoot: 7 frames of 24x40 in 1 steps, shown at 90x160: {FIGURES}", first)


def test_all_parts_of_all_videos_count(small_model):
    """Sampling, the codec, decoding, composition and encoding, to the second."""
    sample, size, config = SamplerOptions(1), (24, 32), small_model.config
    one = VideoJob(size, 7, (90, 160), None, sample, Work())
    model = estimate_inference(config, size, 7, sample, Placement("cpu"), Work())
    assert min(model.flops, model.codec_flops) > 0
    assert one.pixel_flops == 7 * (2_000 * 90 * 160 + 5_000 * 24 * 32)
    full = replace(one, result=(90, 160))
    assert full.pixel_flops == 7 * 52_000 * 90 * 160
    tracked = replace(one, work=Work(views=3, decodes=False))
    assert tracked.pixel_flops == 3 * 7 * 7_000 * 90 * 160
    rate = (model.seconds(1) + full.pixel_flops) / 400
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forecasting, "cpu_flops", lambda: rate)
        assert "7 frames of 24x32 in 1 steps, shown at 90x160: about 7 min" in forecast(
            config, [full], Placement("cpu")
        )
        assert "3 videos, 21 frames: about 20 min" in forecast(config, [full] * 3, Placement("cpu"))


def test_tables_and_tracks_say_it_too(video, small_model, tracking_model, tmp_path, capsys, slow_cpu):
    folder = save_model(small_model, tmp_path / "model").parent
    (tmp_path / "jobs.csv").write_text(
        f"video,camera,out\n{video},pan_left,a\n{video},arc_left,b\nmissing.mp4,arc_left,c\n"
    )
    command = ["reshoot", str(tmp_path / "jobs.csv"), "--model", str(folder), "--steps", "1", "--out"]
    assert cli([*command, str(tmp_path / "o")]) == 2  # the third is missing
    found = re.search(r"2 videos, 14 frames: about [\d.]+ (min|h), \d+\.\d GiB \(estimates\)", capsys.readouterr().err)
    assert found
    heads = save_model(tracking_model, tmp_path / "heads").parent
    command = ["track", str(video), "--tracks", "grid:2", "--model", str(heads), "--out", str(tmp_path / "t")]
    assert cli(command) == 0
    first = capsys.readouterr().err.splitlines()[0]
    assert re.fullmatch(r"mvtrack track: 7 frames of \d+x\d+ in 1 views: about [\d.]+ (min|h), \d+\.\d GiB .*", first)


def test_blocks_are_compiled_where_that_pays(small_model, monkeypatch):
    """The codec's work does not count, and what was asked for stays."""
    job = VideoJob((24, 32), 7, (90, 160), None, SamplerOptions(3), Work())
    model = estimate_inference(small_model.config, (24, 32), 7, SamplerOptions(3), Placement("cpu"), Work())
    in_1000_s = model.flops / (1000 * UTILISATION)
    monkeypatch.setattr(forecasting, "cpu_flops", lambda: in_1000_s)

    def compiled(cost: float, jobs: int = 1, **placement: object) -> bool | None:
        monkeypatch.setitem(forecasting._COMPILED, "cpu", (0.05, cost))
        return settled(small_model.config, [job] * jobs, Placement("cpu", **placement)).compile

    assert (compiled(49.9), compiled(50.1), compiled(50.1, jobs=2)) == (True, False, True)
    assert (compiled(1.0, compile=False), compiled(1e9, compile=True)) == (False, True)
    assert compiled(1.0, offload="blocks") is None
