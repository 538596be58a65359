import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest

from mvtrack.cli.main import main as cli
from mvtrack.config.encoders import CodecConfig
from mvtrack.config.presets import preset
from mvtrack.models.reshoot_model import save_model

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def doctor(capsys, *arguments) -> tuple[int, str, str]:
    code = cli(["doctor", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_an_installation_is_looked_at(capsys):
    code, out, _ = doctor(capsys)
    assert code == 0, out
    for title in ("packages", "devices", "attention kernels, bfloat16", "programs", "weights in the hub's cache"):
        assert f"\n{title}\n" in f"\n{out}"
    assert "ok torch " in out
    assert "ok ffmpeg " in out
    assert "works (taken)" in out
    assert "wan2.1_vae" in out
    assert "Apache-2.0" in out


def test_what_metrics_need(capsys, monkeypatch, tmp_path):
    """Models' weights and metrics' weights are two lists; a metric that lacks something is no fault."""
    monkeypatch.setenv("MVTRACK_WEIGHTS", str(tmp_path))
    code, told, _ = doctor(capsys, "--eval")
    assert code == 0
    models, metrics = told.split("metrics that can run")
    assert "recammaster" in models
    assert "alexnet" not in models
    assert "alexnet-owt-7be5be79.pth" in metrics
    assert f"weights ({tmp_path})" in metrics


def test_a_training_that_fits(capsys):
    code, out, _ = doctor(capsys, "--config", ROOT / "configs/smoke.yaml", "--gpus", 2, "--gpu-memory", 24)
    assert code == 0, out
    assert "2 x a GPU, 24.0 GiB each" in out
    assert "ok fits" in out
    assert "the speed of a GPU is not known" in out


def test_a_video_on_several_gpus(capsys, small_model, tmp_path):
    """Two heads: four and eight cannot share them where there is no guidance."""
    folder = save_model(small_model, tmp_path / "m").parent
    code, out, _ = doctor(capsys, "--model", folder, "--gpu", "H100", "--gpus", 2)
    assert code in (0, 1)  # other parts of the installation may lack something
    assert "2 x H100, 79.0 GiB each" in out
    table = out[out.index("with --gpus") - 5 :].splitlines()
    rows = {line[5:30].strip(): [line[i : i + 12].strip() for i in range(30, 78, 12)] for line in table}
    assert rows["with --gpus"] == ["1", "2", "4", "8"]
    assert rows["as it is"][2:] == rows["in 4 steps, no guidance"][2:] == ["-", "-"]
    one, two = (float(cell.removesuffix(" s")) for cell in rows["as it is"][:2])
    assert two < one


def test_doctor_estimates_the_training_of_a_decoder(capsys):
    config = ROOT / "configs/decoder_objects_tiny.yaml"
    code, out, _ = doctor(capsys, "--config", config, "--gpus", 2, "--gpu-memory", 24)
    assert code in (0, 1)  # other parts of the installation may lack something
    assert "2 x a GPU, 24.0 GiB each" in out
    assert "activations" in out
    assert "  ok fits" in out
    code, _, error = doctor(capsys, "--config", config, "--for", "infer")
    assert code == 2
    assert "trains an aligning decoder: leave out --for infer" in error


def test_a_training_that_does_not_fit_is_told_what_to_change(capsys):
    arguments = ["--config", ROOT / "configs/smoke.yaml", "--gpu", "H100", "--gpu-memory", 0.0001]
    code, out, _ = doctor(capsys, *arguments, "train.batch_size=8")
    assert code == 1
    assert "8 samples a step" in out
    assert "!! does not fit" in out
    assert "train.gradient_checkpointing=true" in out
    assert "if 45% of the peak are reached" in out


def test_a_trainings_data_is_estimated_beside_it(small_model, tmp_path, capsys):
    """Encoding a view, and point tracks of ten; without losses on tracks there are none to make."""
    init = f"train.init_from={save_model(small_model, tmp_path).parent}"
    latents = ["data.banks=[]", "data.latents=[{root: x, size: [24, 32]}]", "data.mirror=false", "data.palette=false"]
    arguments = ["--config", ROOT / "configs/smoke.yaml", "--gpu", "A100", init, *latents]
    code, out, _ = doctor(capsys, *arguments, "loss.correspondence_targets=tracks")
    assert code == 0, out
    _, _, shown = out.partition("estimate: its data, on one device\n")
    assert [line[5:].split("  ")[0] for line in shown.splitlines()] == [
        "encoding a view",
        "tracks of 10 views",
        "where they begin",
    ]
    assert "MV-TAP in float32: " in shown
    assert shown.count("if 45% of the peak are reached") == 3
    _, out, _ = doctor(capsys, *arguments, "loss.correspondence=0", "loss.tracking=0", "--gpu-memory", 0.0001)
    _, _, shown = out.partition("estimate: its data, on one device\n")
    assert shown.count("\n") == 1
    assert "more than the 0.0 there are" in shown


def test_a_video_of_a_model(small_model, tmp_path, capsys):
    folder = save_model(small_model, tmp_path).parent
    code, out, _ = doctor(capsys, "--model", folder, "--size", "30x40", "--frames", 9, "--gpu", "4090")
    assert code == 0, out
    assert "9 frames of 32x40, 8 steps, guidance 1" in out
    assert "1 x 4090, 23.0 GiB each" in out


def test_a_kernel_that_is_asked_for_must_work(capsys):
    code, out, _ = doctor(capsys, "--attention", "flash_attn_3", "--device", "cpu")
    assert code == 1
    assert "is asked for, but the package flash_attn_interface is not installed" in out
    assert "(taken)" not in out
    code, out, _ = doctor(capsys, "--attention", "cpu", "--device", "cpu")
    assert code == 0
    assert "works (taken)" in out
    arguments = ["--config", ROOT / "configs/smoke.yaml", "--gpu-memory", 24, "train.attention=sage"]
    code, out, _ = doctor(capsys, *arguments)
    assert code == 1
    assert "is asked for, but" in out


def test_files_of_a_config_have_hashes_and_licences(tmp_path):
    from mvtrack.inference.environment import needed_files
    from mvtrack.models.weights.registry import registry

    entry = registry()["wan2.1_vae"]
    file = tmp_path / entry.file
    file.write_bytes(b"short")
    codec = CodecConfig(kind="wan_vae", channels=16, stride=8, weights=str(file))
    config = replace(preset("wan2.1_t2v_1.3b"), codec=codec, text=None)
    (line,) = needed_files(config)
    assert line.fine is False
    assert f"has 5 bytes, wan2.1_vae has {entry.bytes}" in line.text
    with file.open("r+b") as opened:
        opened.truncate(entry.bytes)
    (line,) = needed_files(config)
    assert line.fine
    assert f"sha256 {entry.sha256[:12]}, not hashed (--hash); Apache-2.0" in line.text


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("diffsynth"), reason="diffsynth is not installed")
def test_a_released_model_is_told_what_it_lacks(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    code, out, _ = doctor(capsys, "--preset", "recammaster_1.3b", "--gpu-memory", 8, "--size", "480x832", "--frames", 5)
    assert code == 1
    assert "!! model.codec.weights" in out
    assert "`hf download Wan-AI/Wan2.1-T2V-1.3B`" in out
    assert "50 steps, guidance 5" in out
    assert "captions                 10.6 GiB" in out
    assert "add --encoders-on-cpu --tiled" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--preset", "recamaster_1.3b"], "did you mean 'recammaster_1.3b'?"),
        (["--config", "nowhere.yaml"], "nowhere.yaml does not exist"),
        (["--preset", "wan2.1_t2v_1.3b", "--for", "train"], "a training is described by --config"),
        (["--preset", "wan2.1_t2v_1.3b", "train.steps=3"], "'train.steps=3' changes a --config"),
        (["--eval", "davis.resolution=1080p"], "'davis.resolution=1080p' changes a --config, which was not given"),
        (["--config", "configs/smoke.yaml", "--gpu", "Voodoo"], "unknown GPU 'Voodoo': known are B200, H200"),
        (["--config", "configs/smoke.yaml", "--gpu-memory", "-3"], "--gpu-memory must be above 0, got -3.0"),
        (
            ["--preset", "recammaster_1.3b", "--gpus", "5"],
            "--gpus 5 cannot share 12 heads: use one of 1, 2, 3, 4, 6, 8, 12, 24",
        ),
        (["--config", "configs/smoke.yaml", "--size", "32x48"], "--size has no effect, it is for videos"),
        (["--config", "configs/smoke.yaml", "--offload", "model"], "--offload has no effect, it is for videos"),
        (["--gpu", "H100"], "name one with --config, --model or --preset"),
    ],
)
def test_bad_questions_are_one_line(capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(ROOT)
    code, _, error = doctor(capsys, *arguments)
    assert code == 2
    assert message in error.splitlines()[-1]
    assert "Traceback" not in error
