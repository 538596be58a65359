"""The notebook of docs/examples runs as it is, and what it shows is stored in it."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "docs/examples/reshoot.ipynb"

nbformat = pytest.importorskip("nbformat", reason="needs nbformat: pip install -e '.[dev]'")
pytestmark = pytest.mark.filterwarnings("ignore")  # of the kernel's own packages


def results(notebook) -> list[str]:
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [
        output.data["text/plain"] for cell in cells for output in cell.outputs if output.output_type == "execute_result"
    ]


def test_the_notebook_is_stored_as_it_ran_and_small():
    notebook = nbformat.read(NOTEBOOK, 4)
    nbformat.validate(notebook)
    assert [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"] == list(range(1, 7))
    assert any("image/png" in output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", []))
    assert NOTEBOOK.stat().st_size < 300_000


@pytest.mark.slow
def test_the_notebook_runs(tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient", reason="needs nbclient: pip install -e '.[dev]'")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    notebook, stored = nbformat.read(NOTEBOOK, 4), nbformat.read(NOTEBOOK, 4)
    nbclient.NotebookClient(notebook, timeout=500, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert results(notebook) == results(stored)
