"""The page in which a reader moves through latents: its numbers, its clicks, and what it refuses."""

import base64
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch

import pyro_vae
from browser import CHROMIUM, Browser
from pyro_vae import InputError, Likelihood, Network, Spec, build, variants
from pyro_vae._rows import own_rows
from pyro_vae.explore import encoded, page
from pyro_vae.explorer import contents, explorer
from pyro_vae.explorer.decoder import Decoder
from pyro_vae.explorer.graph import graph_of
from pyro_vae.foundation.abstract import running
from pyro_vae.trained import open_run
from reading import mentions

pytestmark = pytest.mark.usefixtures("in_a_folder_of_its_own")

NODE = shutil.which("node")
SCRIPTS = Path(pyro_vae.__file__).parent / "explorer"
RUNNER = """
const { compileNetwork } = require(process.argv[1]);
const { graph, inputs } = JSON.parse(require("fs").readFileSync(0, "utf8"));
const network = compileNetwork(graph);
const plain = (v) => (Number.isFinite(v) ? v : String(v));
console.log(JSON.stringify(inputs.map((i) => network.run(i).map((o) => Array.from(o, plain)))));
"""
needs_node = pytest.mark.skipif(NODE is None, reason="there is no node")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
FOREIGN = """
import torch
from pyro_vae import MLP


class Sorted(MLP):
    def forward(self, x, c=None):
        return super().forward(x, c).sort(-1).values
"""


def in_node(graph, inputs):
    """The outputs of a graph for each of some inputs, as the page computes them."""
    lists = [[part.flatten().tolist() for part in given] for given in inputs]
    said = subprocess.run(
        [NODE, "-e", RUNNER, SCRIPTS / "network.js"],
        input=json.dumps({"graph": graph.to_dict(), "inputs": lists}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == 0, said.stderr
    return [
        [torch.tensor([float(v) for v in output]) for output in outputs]
        for outputs in json.loads(said.stdout)
    ]


def assert_same_numbers(function, inputs):
    """The graph of a function gives what the function gives, to 1e-4 of each number's size."""
    graph = graph_of(function, inputs[0])
    for given, outputs in zip(inputs, in_node(graph, inputs), strict=True):
        with torch.no_grad():
            expected = function(*given)
        for found, truth in zip(outputs, expected, strict=True):
            torch.testing.assert_close(
                found, truth.flatten().float(), rtol=1e-4, atol=1e-5, equal_nan=True
            )


# The numbers.


NETWORKS = [
    *variants(Network),
    *(f"MLP(activation='{name}')" for name in ("gelu", "elu", "leaky_relu", "silu")),
    *(f"MLP(norm='{norm}', activation='softplus')" for norm in ("batch", "layer")),
    "ResNet(activation='tanh')",
]


@needs_node
@pytest.mark.parametrize("network", NETWORKS)
def test_a_page_computes_what_a_network_does(network):
    torch.manual_seed(0)
    vae = build(Spec((3, 10, 12), 4, network=network, likelihood="Gaussian()"))
    for name, buffer in vae.named_buffers():  # as if it had been trained
        if "running" in name:
            buffer.uniform_(0.5, 1.5)
    vae.eval()
    with running(vae.model):
        inputs = [(torch.randn(1, 4),) for _ in range(2)]
        assert_same_numbers(lambda z: [vae.decode(z).mean], inputs)


@needs_node
@pytest.mark.parametrize("likelihood", variants(Likelihood))
def test_a_page_computes_the_mean_of_each_likelihood(likelihood):
    torch.manual_seed(0)
    shape = (4,) if likelihood in ("Columns", "Fields") else (3, 4, 5)
    vae = build(Spec(shape, 3, network="MLP(hidden=(8,))", likelihood=likelihood))
    vae.eval()
    with running(vae.model):
        inputs = [(2 * torch.randn(1, 3),) for _ in range(2)]
        assert_same_numbers(lambda z: [vae.decode(z).mean], inputs)


ROWS = 120


def table(folder, *, holes=False):
    """A table with columns of every kind, names that are code, and labels."""
    rng = np.random.default_rng(0)
    a = rng.normal(size=ROWS)
    frame = pandas.DataFrame(
        {
            "</script><script>alert(1)</script>": 100 + 3 * a + rng.normal(size=ROWS),
            "visits": rng.poisson(np.exp(1 + a / 3)),
            "income": np.exp(9 + a / 2).round(2),
            "city": rng.choice(["Rome", "Oslo", "<b>Lima</b>"], ROWS),
            "smoker": np.where(a > 0, "yes", "no"),
            "grade": rng.integers(1, 6, ROWS),
        }
    )
    if holes:
        frame = frame.mask(rng.random(frame.shape) < 0.1)
    frame.to_csv(folder / "table.csv", index=False)
    return folder / "table.csv"


def images(folder, name="images", **more):
    rng = np.random.default_rng(1)
    x = (rng.random((ROWS, 6, 6)) < 0.4).astype(np.uint8)
    labels = np.array(["one", "<i>two</i>", "three"])[rng.integers(0, 3, ROWS)]
    size = rng.normal(size=ROWS)
    np.savez(folder / f"{name}.npz", x=x, labels=labels, size=size, **more)
    return folder / f"{name}.npz"


def fields(folder):
    rng = np.random.default_rng(2)
    picture = (rng.random((ROWS, 4, 4)) < 0.4).astype(np.uint8)
    np.savez(folder / "fields.npz", picture=picture, size=rng.normal(size=(ROWS, 2)))
    return folder / "fields.npz"


RUNS = {
    "plain": (images, ["--latent-dim", 2]),
    "one latent": (images, ["--latent-dim", 1, "--prior", "flow"]),
    "condition": (images, ["--key", "x", "--condition", "labels,size"]),
    "labelled": (images, ["--key", "x", "--structure", "labelled"]),
    "target": (
        images,
        ["--key", "x", "--labels", "size", "--structure", "labelled(target='real')"],
    ),
    "clusters": (images, ["--key", "x", "--structure", "clusters(classes=3)"]),
    "chain": (images, ["--key", "x", "--structure", "chain(dims=(3, 2))"]),
    "ladder": (
        images,
        ["--key", "x", "--structure", "ladder(dims=(3, 2))", "--condition", "labels"],
    ),
    "skip": (images, ["--key", "x", "--structure", "chain(dims=(3, 2), skip=True)"]),
    "table": (table, ["--likelihood", "columns"]),
    "holes": (
        lambda folder: table(folder, holes=True),
        ["--likelihood", "columns", "--missing", "keep"],
    ),
    "fields": (fields, ["--key", "picture,size"]),
}


def made(call, kind):
    """A run of one epoch on small data, opened."""
    make, options = RUNS[kind]
    folder = Path.cwd()
    few = (
        ()
        if "--latent-dim" in options or "dims" in str(options)
        else ("--latent-dim", 3)
    )
    said = call(
        *("train", "--dataset", make(folder), "--network", "mlp(hidden=(8,))", *few),
        *("--epochs", 1, "--output", folder / "run", *options),
    )
    assert said.code == 0, said.err
    return open_run(folder / "run")


def truth_of(run, decoder, u, *c):
    """What `decode` gives, in the units of the data, panel by panel."""
    vae = run.vae
    top = vae.model.dims[-1]
    z = u
    if len(vae.model.dims) > 1:
        # Below the top each layer is the mean that the model gives it.
        assert not u[:, top:].any()
        z = vae.continued(u, 1, *c, mean=True)
    x = vae.model.likelihood.typical(vae.decode(z, *c))
    for view in decoder.views:
        yield view.bridge.inverse(view.shown(x)).flatten().float()


@needs_node
@pytest.mark.parametrize("kind", RUNS)
def test_a_page_computes_what_decode_gives(call, kind):
    run = made(call, kind)
    torch.manual_seed(0)
    some = encoded(run, own_rows(run, "test"), 10)
    held = contents(run, some)
    assert len(held["rows"]) == 10
    decoder = Decoder(run)
    graph = decoder.graph()
    top = run.vae.model.dims[-1]
    inputs = []
    for i in range(3):
        u = torch.randn(1, run.vae.model.latent_dim)
        u[:, top:] = 0.0
        inputs.append((u, *(() if some.c is None else (some.c[i : i + 1],))))
    for given, outputs in zip(inputs, in_node(graph, inputs), strict=True):
        with torch.no_grad():
            truths = list(truth_of(run, decoder, *given))
        for panel, truth in zip(decoder.panels, truths, strict=True):
            mean = outputs[panel.outputs["mean"]]
            numbers = ~mean.isnan()  # columns of categories have probabilities
            assert numbers.any()
            torch.testing.assert_close(
                mean[numbers], truth[numbers], rtol=1e-4, atol=1e-4
            )
            if panel.kind == "table" and "probabilities" in panel.outputs:
                probabilities = outputs[panel.outputs["probabilities"]]
                start = 0
                for column, value in zip(panel.columns, truth, strict=True):
                    some_of = column.get("categories", ())
                    p = probabilities[start : start + len(some_of)]
                    start += len(some_of)
                    if some_of:
                        torch.testing.assert_close(p.sum(), torch.tensor(1.0))
                    if column["kind"] in ("category", "bit"):
                        assert p.argmax() == value.round()
                assert start == len(probabilities)


def test_codes_of_layers_are_distances_from_what_the_layers_above_expect(call):
    run = made(call, "chain")
    decoder = Decoder(run)
    z = torch.randn(5, 5)
    with torch.no_grad():
        u = decoder.coordinates(z)
        torch.testing.assert_close(decoder.latents(u), z)
        below = run.vae.model.layers[0](z[:, :2])
    torch.testing.assert_close(u[:, 2:], (z[:, 2:] - below.mean) / below.stddev)


@needs_node
def test_halved_weights_are_read_as_they_are():
    from pyro_vae.explorer.graph import packed

    values = np.array([0, -0.0, 1, -2.5, 65504, 6e-8, 3e-5, np.inf, -np.inf, np.nan])
    halved = packed(values.astype(np.float32), half=True)
    assert halved["type"] == "f2"
    code = f"""const {{ unpack }} = require({json.dumps(str(SCRIPTS / "network.js"))});
    console.log(Array.from(unpack({json.dumps(halved)}), String).join())"""
    said = subprocess.run(
        [NODE, "-e", code], capture_output=True, text=True, check=True
    )
    read = [float(v) for v in said.stdout.replace("Infinity", "inf").split(",")]
    np.testing.assert_array_equal(read, values.astype(np.float16).astype(float))


# The page in a browser.


@pytest.fixture
def browser(tmp_path_factory):
    opened = Browser(tmp_path_factory.mktemp("browser"))
    yield opened
    opened.close()


@pytest.fixture
def run(trained, tmp_path):
    return Path(shutil.copytree(trained, tmp_path / "run"))


def decoded(run, z):
    opened = open_run(run)
    with torch.no_grad():
        return opened.vae.decode(torch.tensor(z)[None].float()).mean.flatten()


def picture(browser, number=0):
    """The grey levels of a picture, from 0 to 255."""
    return torch.tensor(
        browser.value(
            f"""(() => {{ const canvas = document.querySelectorAll(".pictures canvas")[{number}];
            const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
            return Array.from(data).filter((_, i) => i % 4 === 0); }})()"""
        ),
        dtype=torch.float32,
    )


def assert_shows(browser, run, number=0, at=None):
    z = browser.value("Array.from(state.z)") if at is None else at
    expected = 255 * decoded(run, z)
    torch.testing.assert_close(picture(browser, number), expected, rtol=0, atol=1.0)
    return z


@needs_browser
def test_a_reader_moves_through_the_latents(call, run, browser):
    said = call("explore", run)
    assert (said.code, said.err) == (0, "")
    mentions(said.out, "359 of 359 test data", "written: ", "explorer.html")
    browser.open(f"{(run / 'explorer.html').as_uri()}#z=0.5,-1,0.25")
    browser.wait(
        "typeof state === 'object' && document.querySelector('.pictures canvas').width === 8"
    )
    assert browser.value("document.getElementById('failure').hidden")
    assert assert_shows(browser, run) == [0.5, -1, 0.25]

    # A drag.
    box = browser.value(
        "(() => { const b = plane.getBoundingClientRect(); return [b.left, b.top, b.width, b.height]; })()"
    )
    at = [(box[0] + s * box[2], box[1] + s * box[3]) for s in (0.3, 0.5, 0.8)]
    browser.drag(*at)
    dragged = assert_shows(browser, run)
    held = browser.value("[state.across, state.up]")
    expected = browser.value(
        f"[scales().atX({0.8 * box[2]}), scales().atY({0.8 * box[3]})]"
    )
    assert [dragged[i] for i in held] == pytest.approx(expected, abs=1e-6)

    # An arrow key, and a slider.
    browser.value("plane.focus()")
    browser.key("ArrowLeft")
    moved = assert_shows(browser, run)
    assert moved[held[0]] < dragged[held[0]]
    assert moved[held[1]] == dragged[held[1]]
    browser.value(
        """(() => { const [input] = [...sliders.values()][0]; input.value = input.min;
        input.dispatchEvent(new Event("input")); })()"""
    )
    browser.settled()
    assert assert_shows(browser, run) != moved

    # A click on a datum shows it beside its reconstruction.
    place = browser.value(
        """(() => { const s = scales();
        const at = (i) => [s.x(codes[i * size + state.across]), s.y(upOf(i))];
        const i = Array.from({length: count}, (_, i) => i).find((i) => nearest(...at(i)) === i);
        return [i, s.box.left + at(i)[0], s.box.top + at(i)[1]]; })()"""
    )
    browser.drag(tuple(place[1:]))
    datum = place[0]
    assert browser.value("state.datum") == datum
    opened = open_run(run)
    x = opened.split("test")[:]
    torch.testing.assert_close(picture(browser, 1), 255 * x[datum].flatten())
    with torch.no_grad():
        code = opened.vae.posterior_mean(x[datum : datum + 1])[0]
    assert_shows(browser, run, 0)
    assert_shows(browser, run, 2, at=code.tolist())
    about = browser.value("document.getElementById('about').textContent")
    row, label = opened.data.rows["test"][datum], opened.data.labels["test"][datum]
    assert about == f"row {row} of the file, label {label}"

    # A draw from the prior, and the address that remembers.
    browser.value("document.getElementById('draw').click()")
    browser.settled()
    drawn = assert_shows(browser, run)
    assert drawn != code.tolist()
    browser.wait("location.hash.includes('datum=')")
    assert f"datum={datum}" in browser.value("location.hash")
    assert browser.errors == []


@pytest.fixture
def shown(call, run, browser):
    """The page of a run, open, with its point at a place."""
    assert call("explore", run).code == 0
    browser.narrow(400, 900)
    browser.open(f"{(run / 'explorer.html').as_uri()}#z=0.5,-1,0.25")
    browser.wait("typeof state === 'object' && behind.made === BEHIND * BEHIND")
    return browser


@needs_browser
def test_a_finger_moves_the_point(shown, run):
    width = shown.value("document.documentElement.scrollWidth")
    assert width == 400  # nothing is wider than the screen
    left, top, width, height = shown.value(
        "(() => { const b = plane.getBoundingClientRect(); return [b.left, b.top, b.width, b.height]; })()"
    )
    places = [(left + s * width, top + s * height) for s in (0.4, 0.5, 0.7)]
    shown.touch(*places)
    z = assert_shows(shown, run)
    held = shown.value("[state.across, state.up]")
    expected = shown.value(
        f"[scales().atX({0.7 * width}), scales().atY({0.7 * height})]"
    )
    assert [z[i] for i in held] == pytest.approx(expected, abs=1e-6)

    # A tap beside a datum, nearer than a finger is wide, chooses it.
    datum, x, y = shown.value(
        """(() => { const s = scales();
        const at = (i) => [s.x(codes[i * size + state.across]) + 12, s.y(upOf(i))];
        const i = Array.from({length: count}, (_, i) => i).find((i) => nearest(...at(i), NEAR.touch) === i);
        return [i, s.box.left + at(i)[0], s.box.top + at(i)[1]]; })()"""
    )
    shown.touch((x, y))
    assert shown.value("state.datum") == datum
    assert_shows(shown, run)
    assert shown.errors == []


@needs_browser
def test_pictures_behind_are_what_the_decoder_makes(shown, run):
    held = shown.value("[state.across, state.up]")
    behind = torch.tensor(
        shown.value(
            """Array.from(behind.grid.getContext("2d").getImageData(0, 0, behind.grid.width, behind.grid.height).data)
            .filter((_, i) => i % 4 === 0)"""
        ),
        dtype=torch.float32,
    )
    cells = shown.value("BEHIND")
    tiles = behind.unflatten(0, (cells, 8, cells, 8)).transpose(1, 2)
    for row, column in ((0, 0), (3, 7), (10, 2)):
        z = shown.value("Array.from(state.z)")
        z[held[0]] = shown.value(f"middle(state.across, {column})")
        z[held[1]] = shown.value(f"middle(state.up, BEHIND - 1 - {row})")
        expected = 255 * decoded(run, z).unflatten(0, (8, 8))
        torch.testing.assert_close(tiles[row, column], expected, rtol=0, atol=1.0)

    # Another latent moves, and they follow; none is left where they are turned off.
    key = shown.value("behind.key")
    shown.value(
        """(() => { const i = names.keys().find((i) => i !== state.across && i !== state.up);
        state.z[i] += 1; refresh(); })()"""
    )
    shown.wait(f"behind.key !== {json.dumps(key)} && behind.made === BEHIND * BEHIND")
    pixels = """JSON.stringify(Array.from(plane.getContext("2d").getImageData(60, 20, 9, 9).data))"""
    seen = shown.value(pixels)
    shown.value("document.getElementById('behind').click()")
    shown.settled()
    assert shown.value("behind.made") == 0
    assert shown.value(pixels) != seen
    assert shown.errors == []


@needs_browser
def test_the_tab_key_reaches_every_control_and_each_has_a_name(shown):
    wanted = set(
        shown.value(
            """Array.from(document.querySelectorAll("button, select, input, canvas[tabindex]"))
            .filter((e) => e.getClientRects().length).map((e, i) => (e.id ||= `control-${i}`))"""
        )
    )
    assert {"plane", "behind", "across", "up", "draw", "centre", "datum"} <= wanted
    reached = set()
    shown.value("document.activeElement.blur()")
    for _ in range(2 * len(wanted)):
        shown.key("Tab")
        reached.add(shown.value("document.activeElement.id"))
    assert wanted <= reached
    named = """(e) => e.getAttribute("aria-label") || e.textContent.trim() || (e.labels && e.labels.length)"""
    seen = """document.querySelectorAll("button, select, input, canvas")"""
    assert shown.value(
        f"Array.from({seen}).filter((e) => e.getClientRects().length).every({named})"
    )


@needs_browser
def test_names_that_are_code_are_text(call, browser):
    run = made(call, "table")
    assert call("explore", run.folder).code == 0
    text = (run.folder / "explorer.html").read_text(encoding="utf-8")
    assert len(re.findall("</script", text)) == 3  # those of the page
    browser.open((run.folder / "explorer.html").as_uri() + "#datum=3")
    browser.wait("document.querySelectorAll('tbody tr').length === 6")
    names = browser.value(
        "Array.from(document.querySelectorAll('tbody th'), (t) => t.textContent)"
    )
    assert names[0] == "</script><script>alert(1)</script>"
    cells = browser.value(
        "Array.from(document.querySelectorAll('tbody td:last-child'), (t) => t.textContent)"
    )
    opened = open_run(run.folder)
    frame = opened.frame(opened.split("test")[:][3:4])
    assert cells[3] == frame.iloc[0, 3]
    assert cells[4] == frame.iloc[0, 4]
    assert browser.errors == []


# What is refused.


def test_scores_of_an_evaluation_stand_beside_the_data(call, run):
    assert call("evaluate", run, "--num-particles", 10).code == 0
    opened = open_run(run)
    held = contents(opened, encoded(opened, own_rows(opened, "test"), 20))
    assert list(held["scores"]) == ["log p(x)", "ELBO"]
    found = np.frombuffer(base64.b64decode(held["scores"]["log p(x)"]["data"]), "<f4")
    with np.load(run / "evaluation.npz") as file:
        place = {int(row): i for i, row in enumerate(opened.data.rows["test"])}
        expected = file["values"][[place[row] for row in held["rows"]]]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_the_page_of_another_split(run):
    text = page(open_run(run), split="validation", limit=7)
    held = json.loads(re.search(r'id="held">(.*?)</script>', text, re.DOTALL)[1])
    assert (held["split"], len(held["rows"])) == ("validation", 7)
    assert (held["title"], held["run"]) == ("digits", "run")
    assert str(run.parent) not in text  # no path of this machine


def test_a_page_that_is_too_large_is_refused(run):
    opened = open_run(run)
    some = encoded(opened, own_rows(opened, "test"), 5)
    with pytest.raises(InputError, match=r"would take 0\.\d MB, .* are the most"):
        explorer(opened, some, limit=10_000)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--output", "page.txt"], "must end in .html"),
        (["--output", "no/page.html"], "the folder no does not exist"),
        (["--limit", 0], "is not a whole number of at least 1"),
        (["--labels", "labels.txt"], "--labels goes with new data"),
        (["--split", "tests"], "invalid choice: 'tests'"),
    ],
)
def test_wrong_arguments_are_one_sentence(call, run, options, sentence):
    said = call("explore", run, *options)
    assert said.code == 2
    assert said.err.startswith("pyro_vae.explore: ")
    assert said.err.count("\n") == 1
    mentions(said.err, sentence)
    assert not (run / "explorer.html").exists()


def test_latents_of_categories_are_refused(call, tmp_path):
    options = ("--guide", "categorical(levels=3)", "--prior", "categorical(levels=3)")
    said = call(
        *("train", "--dataset", images(tmp_path), "--key", "x", "--latent-dim", 6),
        *("--network", "mlp(hidden=(8,))", "--epochs", 1, "--output", tmp_path / "run"),
        *options,
    )
    assert said.code == 0, said.err
    said = call("explore", tmp_path / "run")
    assert said.code == 2
    mentions(said.err, "categories and no reals")


def test_a_foreign_operation_is_refused(call, tmp_path, monkeypatch):
    (tmp_path / "foreign.py").write_text(FOREIGN)
    monkeypatch.syspath_prepend(tmp_path)
    said = call(
        *("train", "--dataset", images(tmp_path), "--key", "x", "--latent-dim", 2),
        *("--network", "foreign:Sorted(hidden=(8,))", "--epochs", 1),
        *("--output", tmp_path / "run"),
    )
    assert said.code == 0, said.err
    said = call("explore", tmp_path / "run", "--trust")
    assert said.code == 2
    assert said.err.count("\n") == 1
    mentions(said.err, "an operation that the page cannot run: aten.sort")
