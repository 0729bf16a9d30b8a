"""Encoder and decoder as files: what they give is what the pair gives, of every member, or one sentence."""

import json
import math
import shutil
from functools import reduce
from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pandas
import pytest
import torch

from conftest import SMALL
from example import SHAPE, SHORTER, beside
from pyro_vae import (
    Guide,
    InputError,
    Likelihood,
    Network,
    Spec,
    Structure,
    build,
    export,
    open_run,
    variants,
)
from pyro_vae.data.bridges import AsStored
from pyro_vae.data.conditions import Condition, Conditions
from pyro_vae.export import (
    NEEDED,
    RUN,
    about_graph,
    difference,
    exported,
    run_pt2,
    write_part,
)
from pyro_vae.graphs import graph_of, inputs_of
from reading import mentions

pytestmark = pytest.mark.usefixtures("in_a_folder_of_its_own", "blank_figures")

KINDS = ["pt2", "onnx"]
if any(find_spec(name) is None for name in NEEDED):
    KINDS = ["pt2"]

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
LINEAR = {"guide": "Exact", "network": "Linear", "likelihood": "Gaussian"}
# Members in other forms than the usual one, by what else they change in a graph.
FORMS = [
    ("guide", "Codebook(size=20, groups=2)", "encoder", {"prior": "Codes"}),
    (
        "guide",
        "Codebook(size=20, groups=2, shared=True)",
        "encoder",
        {"prior": "Codes"},
    ),
    ("guide", "Exact", "encoder", {"missing": True}),
    ("guide", "Exact", "encoder", {"structure": "clusters(classes=2)"}),
    ("guide", "FullRank", "encoder", {"missing": True}),
    ("guide", "LowRank(rank=4)", "encoder", {}),
    ("guide", "Sylvester(kind='householder')", "encoder", {}),
    ("guide", "Sylvester(kind='triangular')", "encoder", {}),
    ("guide", "Sylvester(columns=2)", "encoder", {}),
    ("likelihood", "Gaussian(scale='network')", "decoder", {}),
    ("likelihood", "Gaussian", "decoder", {"missing": True}),
    ("structure", "Chain(dims=(3, 2), scale='element')", "encoder", LINEAR),
    ("structure", "Chain(dims=(3, 2))", "encoder", {"guide": "FullRank"}),
    ("structure", "Chain(dims=(3, 2))", "decoder", {}),
]


def run_of(axis, name, **more):
    torch.manual_seed(0)
    text = SHORTER.get(name, name)
    spec = Spec(SHAPE, 4, **{axis: text, **beside(axis, name), **more})
    vae = build(spec).eval()
    y = Condition("y", tuple(map(str, range(vae.classes))), "0", latent=True)
    return SimpleNamespace(
        vae=vae,
        spec=spec,
        dtype=torch.float32,
        bridge=AsStored(),
        conditions=Conditions((y,)) if vae.classes else None,
        table=None,
        epoch=0,
        request={"dataset": "digits"},
    )


@pytest.mark.slow
@pytest.mark.parametrize("part", ["encoder", "decoder"])
@pytest.mark.parametrize(("axis", "name"), MEMBERS, ids=lambda v: v)
def test_a_member_is_written_and_agrees_or_is_refused(tmp_path, axis, name, part):
    opened = run_of(axis, name)
    if (name, part) in REFUSED:
        with pytest.raises(InputError, match=REFUSED[name, part]):
            graph_of(opened, part)
        return
    graph = graph_of(opened, part)
    written(tmp_path, opened, graph)


def written(folder, opened, graph):
    """Write a graph in every form: each gives what the pair gives."""
    about, program = about_graph(opened, graph), exported(graph)
    for kind in KINDS:
        path = folder / f"{graph.part}.{kind}"
        assert write_part(graph, path, opened, program, about) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(("axis", "text", "part", "more"), FORMS)
def test_another_form_is_written_and_agrees(tmp_path, axis, text, part, more):
    opened = run_of(axis, text.partition("(")[0], **{axis: text, **more})
    written(tmp_path, opened, graph_of(opened, part))


def table(path):
    rng = np.random.default_rng(0)
    z = rng.normal(size=80)
    columns = {"flow rate": 1e9 + z, "count": rng.poisson(np.exp(z))}
    columns |= {
        "kind": np.array(["u", "v", "w"])[(z > 0.5).astype(int) + (z > -0.5)],
        "sex": np.where(z > 0.5, "f", "m"),
    }
    pandas.DataFrame(columns).to_csv(path, index=False)


def test_a_table_goes_in_and_comes_out_as_it_is_stored(train, call, tmp_path):
    table("t.csv")
    options = ("--dataset", "t.csv", "--likelihood", "columns", "--condition", "sex")
    run = train("run", *options, "--epochs", 1, "--latent-dim", 2)
    said = call("export", run, "--format", ",".join(KINDS))
    assert (said.code, said.err) == (0, "")
    assert "encoder    x (batch, 3), sex (batch) -> mean (batch, 2)" in said.out
    opened = open_run(run)
    frame = pandas.read_csv("t.csv")[:9]
    seen = opened.see(frame.drop(columns="sex"), {"sex": frame["sex"]})
    inputs = {
        "x": torch.from_numpy(opened.schema.codes(frame.drop(columns="sex"))),
        "sex": torch.from_numpy((frame["sex"] == "m").to_numpy(np.int64)),
    }
    for kind in KINDS:
        path = run / "export" / f"encoder.{kind}"
        about = about_of(path)
        types = {i["name"]: i["dtype"] for i in about["inputs"]}
        inputs["x"] = inputs["x"].to(getattr(torch, types["x"]))
        assert about["inputs"][1]["categories"] == ["f", "m"]
        assert [c["name"] for c in about["columns"]] == ["flow rate", "count", "kind"]
        q = opened.vae.encode(seen["x"], seen["c"])
        wanted = {"mean": q.mean.detach(), "std": q.stddev.detach()}
        assert difference(RUN[kind](path, inputs), wanted) < 1e-4
        z = {"z": q.mean.detach(), "sex": inputs["sex"]}
        made = RUN[kind](run / "export" / f"decoder.{kind}", z)
        p = opened.vae.decode(z["z"], seen["c"])
        typical = opened.vae.model.likelihood.typical(p).detach()
        assert difference(made, {"mean": opened.bridge.inverse(typical)}) < 1e-4
        assert made["probabilities_kind"].argmax(-1).equal(made["mean"][:, 2].long())


def agree(run, call, rows):
    """Files of a run in every form: outputs, whose numbers are those of `rows` of the pair, by their names."""
    said = call("export", run, "--format", ",".join(KINDS))
    assert (said.code, said.err) == (0, "")
    inputs, wanted = rows
    for kind in KINDS:
        made = RUN[kind](run / "export" / f"encoder.{kind}", inputs)
        assert difference(made, wanted) < 1e-4
    return said.out


def test_several_fields_go_in_and_come_out_by_their_names(train, call):
    rng = np.random.default_rng(0)
    fields = {"image": rng.integers(0, 2, (40, 4, 4)), "label": np.arange(40) % 3}
    np.savez("x.npz", **fields, size=rng.normal(size=(40, 2)))
    text = "p(z) p(image|z) p(label|z) p(size|z); q(z|image,label,size)"
    options = ("--dataset", "x.npz", "--structure", text, "--latent-dim", 2)
    run = train("run", *options, *SMALL, "--epochs", 1)
    opened = open_run(run)
    values = {name: torch.from_numpy(v[:5]) for name, v in np.load("x.npz").items()}
    q = opened.vae.encode(opened.see({n: v.numpy() for n, v in values.items()}))
    wanted = {"mean": q.mean.detach(), "std": q.stddev.detach()}
    values["label"] = values["label"].unsqueeze(-1)
    types = {i.name: i.dtype for i in graph_of(opened, "encoder").inputs}
    inputs = {name: v.to(types[name]) for name, v in values.items()}
    assert "image_mean" in agree(run, call, (inputs, wanted))
    image, label, size = opened.vae.decode(q.mean).parts
    wanted = {
        "image_mean": image.mean.detach(),
        "label_mean": opened.vae.model.likelihood.members[1].typical(label).detach(),
        "size_mean": opened.bridge.parts[2].inverse(size.mean.detach()),
    }
    for kind in KINDS:
        made = RUN[kind](run / "export" / f"decoder.{kind}", {"z": q.mean.detach()})
        assert difference(made, wanted) < 1e-4


def test_a_real_target_goes_in_and_comes_out_in_its_units(train, call):
    rng = np.random.default_rng(0)
    price = rng.normal(200, 40, 80)
    x = rng.normal(size=(80, 3)) + (price[:, None] - 200) / 40
    pandas.DataFrame(x, columns=[*"abc"]).assign(price=price).to_csv(
        "t.csv", index=False
    )
    options = ("--dataset", "t.csv", "--labels", "price", *SMALL, "--latent-dim", 2)
    run = train(
        "run", *options, "--structure", "labelled(target='real')", "--epochs", 1
    )
    opened = open_run(run)
    frame = pandas.read_csv("t.csv")[:6].drop(columns="price")
    seen = opened.see(frame)
    y = opened.vae.predict(seen)
    mean, std = torch.from_numpy(opened.conditions.latent.stored(y)).T
    q = opened.vae.encode(seen)
    inputs = {"x": torch.from_numpy(frame.to_numpy())}
    types = {i.name: i.dtype for i in graph_of(opened, "encoder").inputs}
    inputs = {name: v.to(types[name]) for name, v in inputs.items()}
    wanted = {"mean": q.mean.detach(), "prediction": mean, "prediction_std": std}
    assert "price" in agree(run, call, (inputs, wanted))


def about_of(path):
    if path.suffix == ".onnx":
        import onnx

        (found,) = onnx.load(path).metadata_props
        return json.loads(found.value)
    files = {"pyro_vae.json": ""}
    torch.export.load(path, extra_files=files)
    return json.loads(files["pyro_vae.json"])


def test_what_differs_from_the_pair_is_not_kept(call, trained, tmp_path, monkeypatch):
    run = shutil.copytree(trained, tmp_path / "run")
    true = export.RUN["pt2"]

    def wrong(path, inputs):
        return {k: 1.001 * v + 0.001 for k, v in true(path, inputs).items()}

    monkeypatch.setitem(export.RUN, "pt2", wrong)
    said = call("export", run, "--format", "pt2")
    assert said.code == 2
    mentions(said.err, "the encoder as pt2 differs from the pair by", "is not kept")
    assert not [*(run / "export").iterdir()]


def test_grey_levels_go_in_with_their_noise(call, trained, tmp_path):
    run = shutil.copytree(trained, tmp_path / "run")
    assert call("export", run, "--format", "pt2", "--part", "encoder").code == 0
    opened = open_run(run)
    grey = torch.randint(17, (5, 8, 8)).float()
    noise = torch.rand(5, 8, 8)
    made = run_pt2(run / "export" / "encoder.pt2", {"x": grey, "noise": noise})
    q = opened.vae.encode((noise < grey / 16).float())
    assert difference(made, {"mean": q.mean.detach()}) < 1e-5


def test_a_flow_gives_the_draw_of_its_noise():
    graph = graph_of(run_of("guide", "Planar"), "encoder")
    inputs = inputs_of(graph, 6)
    program = exported(graph)
    with torch.no_grad():
        z = program.module()(**inputs)["z"]
        q = graph.vae.encode(inputs["x"])
        back, _ = reduce(lambda p, s: s.pull(p[0]), reversed(q.steps), (z, 0))
    noise = (back - q.base.base_dist.loc) / q.base.base_dist.scale
    torch.testing.assert_close(noise, inputs["normal"], rtol=1e-3, atol=1e-3)


def test_wrong_formats(refused, call, trained, monkeypatch):
    mentions(refused("export", trained, "--format", "pt3"), "pt3", "pt2, onnx")
    monkeypatch.setattr(export, "find_spec", lambda name: None)
    sentence = refused("export", trained, "--format", "onnx")
    mentions(sentence, "onnx", "pip install 'pyro-vae[export]'")


def test_a_format_that_is_left_out_is_said(call, trained, monkeypatch, tmp_path):
    monkeypatch.setattr(export, "find_spec", lambda name: None)
    out = tmp_path / "graphs"
    said = call("export", trained, "--part", "decoder", "--output", out)
    assert (said.code, [p.name for p in out.iterdir()]) == (0, ["decoder.pt2"])
    assert "note: .onnx files need" in said.out
    assert "pip install 'pyro-vae[export]'" in said.out
    asked = ("--part", "decoder", "--format", "pt2", "--output", out)
    assert "note" not in call("export", trained, *asked).out


def test_a_number_in_place_of_an_infinity_is_a_difference():
    one, infinite = torch.ones(1), torch.full((1,), torch.inf)
    for a, b in ((one, infinite), (infinite, one), (-infinite, infinite)):
        assert difference({"mean": a}, {"mean": b}) == math.inf
    assert difference({"mean": infinite}, {"mean": infinite}) == 0
