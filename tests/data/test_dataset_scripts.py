import copy
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]


def test_script_renders_banks_of_config(small_run, tmp_path):
    run = copy.deepcopy(small_run)
    run["data"]["banks"][0] |= {"root": str(tmp_path / "bank"), "num_scenes": 3}
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump(run))
    command = [sys.executable, ROOT / "datasets/rendered.py", "--config", config, "--workers", "1"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{tmp_path / 'bank'}: 3 scenes\n"
    assert len(list((tmp_path / "bank").glob("scene_*.safetensors"))) == 3
