"""Encoder and decoder as files: what they give is what the pair gives, of every member, or one sentence."""

from types import SimpleNamespace

import pytest
import torch

from example import SHAPE, SHORTER, beside
from pyro_vae import (
    Guide,
    InputError,
    Likelihood,
    Network,
    Spec,
    Structure,
    build,
    variants,
)
from pyro_vae.data.bridges import AsStored
from pyro_vae.export import about_graph, exported, write_part
from pyro_vae.graphs import graph_of

FAMILIES = {
    "guide": Guide,
    "likelihood": Likelihood,
    "network": Network,
    "structure": Structure,
}
MEMBERS = [(axis, name) for axis, f in FAMILIES.items() for name in variants(f)]
# Members of which a part is no graph, by a word of the sentence.
REFUSED = {
    ("Local", "encoder"): "by steps through the model",
    ("SemiAmortized", "encoder"): "by steps through the model",
    ("Moved", "encoder"): "by steps through the model",
}
NO_ONNX: dict = {}


def run_of(axis, name, **more):
    torch.manual_seed(0)
    text = SHORTER.get(name, name)
    spec = Spec(SHAPE, 4, **{axis: text, **beside(axis, name), **more})
    vae = build(spec).eval()
    return SimpleNamespace(
        vae=vae,
        spec=spec,
        dtype=torch.float32,
        bridge=AsStored(),
        conditions=None,
        table=None,
        epoch=0,
        request={"dataset": "digits"},
    )


@pytest.mark.parametrize("part", ["encoder", "decoder"])
@pytest.mark.parametrize(("axis", "name"), MEMBERS, ids=lambda v: v)
def test_a_member_is_written_and_agrees_or_is_refused(tmp_path, axis, name, part):
    opened = run_of(axis, name)
    if (name, part) in REFUSED:
        with pytest.raises(InputError, match=REFUSED[name, part]):
            graph_of(opened, part)
        return
    graph = graph_of(opened, part)
    about, program = about_graph(opened, graph), exported(graph)
    for kind in KINDS:
        path = tmp_path / f"{part}.{kind}"
        if kind == "onnx" and (name, part) in NO_ONNX:
            with pytest.raises(InputError, match=NO_ONNX[name, part]):
                write_part(graph, path, opened, program, about)
            continue
        assert write_part(graph, path, opened, program, about) < 1e-4


try:
    import onnx  # noqa: F401
    import onnxruntime  # noqa: F401
    import onnxscript  # noqa: F401

    KINDS = ["pt2", "onnx"]
except ImportError:
    KINDS = ["pt2"]
