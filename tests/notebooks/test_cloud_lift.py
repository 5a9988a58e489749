"""The notebook of the cloud lift: a valid one without outputs, which runs from top to bottom in a kernel of Jupyter's.

A kernel and not a loop over the cells: it is what Colab has, with its asynchronous cells, `display` and inline figures.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from continuonbrain.cloud_train.board import has_board

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "cloud_lift.ipynb"
SHORT = {"RANK": 12, "STEPS": 6, "REFLEX_STEPS": 0, "LESSONS": 4, "LESSON_STEPS": 40}


def read() -> Any:
    return nbformat.read(NOTEBOOK, as_version=4)


def texts(cell: Any) -> str:
    """What a cell that ran has shown, but pictures."""
    return "".join(out.get("text", "") for out in cell.outputs)


def test_it_is_valid_and_keeps_nothing_of_the_machine_it_ran_on() -> None:
    notebook = read()
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) >= (4, 5)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    assert sum("parameters" in cell.metadata.get("tags", ()) for cell in code) == 1
    assert max(len(cell.source.splitlines()) for cell in code) <= 25
    said = NOTEBOOK.read_text()
    for folder in (Path.home(), NOTEBOOK.parents[1], Path(tempfile.gettempdir())):
        assert f"{folder}/" not in said
    assert "index-url" not in said


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.skipif(not has_board(), reason="TensorBoard is not installed (extra `cloud`)")
def test_it_runs_from_top_to_bottom_with_nothing_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(variable, str(tmp_path / "jupyter"))
    notebook = read()
    (at,) = (i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", ()))
    given = "\n".join(f"{name} = {value!r}" for name, value in SHORT.items())
    notebook.cells.insert(at + 1, nbformat.v4.new_code_cell(given))
    names = {line.partition(" ")[0] for line in notebook.cells[at].source.splitlines()}
    assert SHORT.keys() <= names
    home = tmp_path / "home"
    home.mkdir()
    NotebookClient(
        notebook, timeout=500, kernel_name="python3", resources={"metadata": {"path": str(home)}}
    ).execute()
    shown = {cell.id: texts(cell) for cell in notebook.cells if cell.cell_type == "code"}
    assert not any("\x1b" in text for text in shown.values())
    assert "whole, and signed by robot" in shown["check"]
    assert "what would leave" in shown["export"]
    assert "rank 12 -> 8" in shown["fit"]
    assert "with the adapter" in shown["errors"]
    assert "candidate" in shown["home"]
    (curves,) = (cell for cell in notebook.cells if cell.id == "curves")
    assert any("image/png" in out.get("data", {}) for out in curves.outputs)
    run = home / "cloud_lift" / "run"
    assert json.loads((run / "training.json").read_bytes())["steps"] == SHORT["STEPS"]
    assert (home / "cloud_lift" / "trained.bundle").stat().st_size > 10_000
    slot = home / "cloud_lift" / "robot" / "model" / "adapters" / "candidate"
    ours = (slot / "adapter_model.safetensors").read_bytes()
    assert ours == (run / "adapter" / "adapter_model.safetensors").read_bytes()
