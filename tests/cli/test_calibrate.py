from mvtrack.cli.main import main as cli
from mvtrack.models.reshoot_model import load_model, save_model


def test_calibrate_writes_a_model_that_knows_its_cache(small_model, tmp_path, capsys):
    save_model(small_model, tmp_path / "model")
    command = ["calibrate", str(tmp_path / "model"), str(tmp_path / "fitted"), "--scenes", "2", "--steps", "4"]
    assert cli(command) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"{tmp_path / 'fitted' / 'model.safetensors'}: output changes by ")
    assert text.count("--cache") == 4
    assert load_model(tmp_path / "fitted").config.sampling.cache_fit is not None
    assert cli([*command[:4], "1"]) == 2
    assert "--scenes must be at least 2" in capsys.readouterr().err
