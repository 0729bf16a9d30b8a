"""A notebook in a kernel of its own: the bar, what is shown, and an interrupt."""

import json
import sys

import pytest

nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")
pytest.importorskip("ipykernel")

KERNEL = "this-python"
NO_WIDGETS = """
import sys
sys.modules["ipywidgets"] = None  # as where it is not installed
"""
ENDED_EARLY = """
pv.fit(vae, x, epochs=10**6, batch_size=20, report=lambda epoch: epoch.epoch == 2)"""
CELLS = [
    """
import torch, pyro_vae as pv
torch.manual_seed(0)
vae = pv.build(pv.Spec((4,), 2, network="mlp(hidden=(5,))"))
vae""",
    """
x = torch.rand(60, 4).round()
pv.fit(vae, x, epochs=3, batch_size=20, validation=x)""",
    "pv.log_marginal(vae, x, num_particles=10)",
    """
import os, signal, threading
ctrl_c = lambda: os.kill(os.getpid(), signal.SIGINT)
begun = lambda epoch: threading.Timer(0.3, ctrl_c).start() if epoch.epoch == 1 else None
pv.fit(vae, x, epochs=10**6, batch_size=20, compile=False, report=begun)""",
    "bool(pv.log_marginal(vae, x, num_particles=10).values.isfinite().all())",
]


def executed(home, cells):
    """A notebook of these cells, executed."""
    kernel = home / "kernels" / KERNEL
    kernel.mkdir(parents=True)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec = {"argv": command, "display_name": KERNEL, "language": "python"}
    (kernel / "kernel.json").write_text(json.dumps(spec))
    book = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(cell.strip()) for cell in cells]
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PATH", str(home))
        patch.setenv("JUPYTER_PLATFORM_DIRS", "1")
        patch.setenv("IPYTHONDIR", str(home / "ipython"))
        nbclient.NotebookClient(
            book,
            timeout=120,
            kernel_name=KERNEL,
            allow_errors=True,
            resources={"metadata": {"path": str(home)}},
        ).execute()
    return book


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """Of each cell what it gave: `{"stderr": text, "text/plain": text, ..., "error": text}`."""
    book = executed(
        tmp_path_factory.mktemp("jupyter"), [NO_WIDGETS + CELLS[0], *CELLS[1:]]
    )
    return [told(cell.outputs) for cell in book.cells]


@pytest.fixture(scope="module")
def widgets(tmp_path_factory):
    """The notebook with widgets: outputs of cells, and the states of widgets by cell."""
    pytest.importorskip("ipywidgets")
    cells = [*CELLS[:2], ENDED_EARLY]
    book = executed(tmp_path_factory.mktemp("widgets"), cells)
    kept = book.metadata["widgets"]["application/vnd.jupyter.widget-state+json"]
    states = {key: value["state"] for key, value in kept["state"].items()}
    return [told(cell.outputs) for cell in book.cells], states


def told(outputs):
    found = {}
    for output in outputs:
        if output.output_type == "stream":
            found[output.name] = found.get(output.name, "") + output.text
        elif output.output_type == "error":
            found["error"] = f"{output.ename}: {output.evalue}"
        else:
            found.update(output.data)
    return found


def test_a_pair_is_a_line_at_a_prompt_and_a_table_in_a_notebook(outputs):
    assert outputs[0]["text/plain"].startswith("VAE: p(z) p(x|z); q(z|x)\n")
    assert "<table" in outputs[0]["text/html"]
    assert "MLP(hidden=(5,))" in outputs[0]["text/html"]


def test_nothing_asks_for_widgets(outputs):
    assert "stderr" not in outputs[0]
    assert all("IProgress" not in cell.get("stderr", "") for cell in outputs)


VIEW = "application/vnd.jupyter.widget-view+json"


def test_a_bar_of_widgets_is_one_bar_and_full_in_the_end(widgets):
    outputs, states = widgets
    assert not [cell["stderr"] for cell in outputs if "stderr" in cell]
    for cell, epochs in ((outputs[1], "3/3"), (outputs[2], "2/1000000")):
        box = states[cell[VIEW]["model_id"]]
        left, bar, right = (states[key[10:]] for key in box["children"])
        assert left["value"].split() == ["epoch", epochs, "100%"]
        assert bar["value"] == bar["max"] > 0
        assert bar["bar_style"] == "success"
        assert "ELBO" in right["value"]
        assert "█" not in left["value"] + right["value"]


def test_the_bar_and_the_history(outputs):
    bar = outputs[1]["stderr"]
    assert "epoch 3/3 100%" in bar
    assert "ELBO" in bar
    assert "validation" in bar
    assert outputs[1]["text/plain"].startswith("History(3 epochs")
    assert "<svg" in outputs[1]["text/html"]


def test_a_result(outputs):
    assert outputs[2]["text/plain"].startswith("LogMarginal(log p(x)")
    assert "± Monte Carlo" in outputs[2]["text/html"]


def test_an_interrupt_stops_the_cell_and_leaves_the_pair(outputs):
    assert outputs[3]["error"].startswith("KeyboardInterrupt: fit was interrupted in")
    assert " of 1000000, after " in outputs[3]["error"]
    assert "error" not in outputs[4]
    assert outputs[4]["text/plain"] == "True"
