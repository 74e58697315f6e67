"""The notebook beside the depth sweep runs from its first cell to its last, and shows what it says."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[2] / "experiments" / "depth_sweep.ipynb"


@pytest.fixture
def notebook():
    return nbformat.read(NOTEBOOK, as_version=4)


def test_the_notebook_of_the_depth_sweep_runs(notebook, world, tmp_path):
    folder = world.sweep(world.by_field(), examples=300)
    first = next(cell for cell in notebook.cells if cell.cell_type == "code")
    assert '"../runs/depth_sweep"' in first.source
    first.source = first.source.replace("../runs/depth_sweep", str(folder.parent))
    # From its own folder, as people start it.
    client = NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(NOTEBOOK.parent)}})
    client.execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    assert any("Depth 5 (convolutions 4) is" in output.get("text", "") for output in outputs)
    shown = [output.get("data", {}) for output in outputs]
    assert sum("image/png" in data for data in shown) >= 6
    assert sum("text/html" in data for data in shown) >= 2
