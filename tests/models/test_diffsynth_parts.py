"""DiffSynth's import, in processes of their own: what it writes, and what is said when it fails."""

import importlib.util
import os
import subprocess
import sys

import pytest

SCRIPT = """
from mvtrack.models.diffsynth_parts import diffsynth_module
try:
    print(diffsynth_module("wan_video_vae").__name__)
except ValueError as error:
    print("refused:", error)
"""


def run(path: str | None = None) -> subprocess.CompletedProcess:
    environment = {name: value for name, value in os.environ.items() if name != "DS_ACCELERATOR"}
    environment |= {"PYTHONPATH": path} if path else {}
    return subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=300, env=environment)


@pytest.mark.skipif(not importlib.util.find_spec("diffsynth"), reason="diffsynth is not installed")
def test_diffsynth_import_writes_nothing():
    """DeepSpeed's warning about missing GPUs would land in the output of `doctor`."""
    assert run().stdout == "diffsynth.models.wan_video_vae\n"


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ("raise RuntimeError('no operator nms\\nmore')", "no operator nms"),
        ("import a_module_that_is_missing", "No module named 'a_module_that_is_missing'"),
    ],
)
def test_failed_diffsynth_import_is_one_line(tmp_path, broken, reason):
    (tmp_path / "diffsynth").mkdir()
    (tmp_path / "diffsynth/__init__.py").write_text(broken)
    done = run(str(tmp_path))
    assert done.stdout.startswith(f"refused: diffsynth is installed but cannot be imported ({reason})")
    assert "pip install -e '.[wan]'" in done.stdout
    assert done.stdout.count("\n") == 1
