"""The page of a run: whole, safe, with the numbers of its evaluation; and as a browser shows it."""

import base64
import io
import json
import os
import re
import shlex
import shutil
import subprocess
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from pyro_vae import InputError
from pyro_vae._cli.options import evaluate_parser
from pyro_vae._cli.training import make_parser
from pyro_vae.report import report, write_report
from pyro_vae.report.answers import BY_KIND, tabulated
from pyro_vae.report.facts import Facts
from pyro_vae.runs import public_path
from pyro_vae.trained import open_run
from reading import mentions

CHROMIUM = (
    shutil.which("chromium")
    or shutil.which("chromium-browser")
    or shutil.which("google-chrome")
)
VOID = {"img", "meta"}
KINDS = ("data:image/png;base64,", "data:image/svg+xml;base64,")
INLINE = {"a", "code", "strong"}
K = 200
DATA = 40
NAME = f"evaluation-test-limit{DATA}-k{K}"  # of the files of such an evaluation
PAGE = f"report-test-limit{DATA}-k{K}.html"


class Page(HTMLParser):
    """What stands in a page: elements, texts by section, and whether all is closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.section, self.texts = [], [], "", {"": ""}
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), tag
        attributes = dict(attrs)
        self.elements.append((tag, attributes))
        if tag == "section":
            self.section = attributes["id"]
            self.texts[self.section] = ""
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        self.texts[self.section] += "" if tag in INLINE else "\n"
        if tag == "section":
            self.section = ""

    def handle_data(self, data):
        if "style" not in self.open:
            self.texts[self.section] += data

    @property
    def text(self):
        return "".join(self.texts.values())

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def run(call, trained, tmp_path_factory):
    """A run with samples, evaluated on few data, and with a report."""
    folder = tmp_path_factory.mktemp("reported") / "run"
    shutil.copytree(trained, folder)
    assert call("sample", folder, "--count", 20).code == 0
    said = call("evaluate", folder, "--limit", DATA, "--num-particles", K, "--report")
    assert (said.code, said.err) == (0, "")
    assert str(folder / PAGE) in said.out.partition("written:")[2]
    return folder


@pytest.fixture
def changed(run, tmp_path):
    """A copy of the run whose evaluation.json says other things."""

    def change(**values):
        folder = tmp_path / "changed"
        shutil.copytree(run, folder)
        s = json.loads((folder / f"{NAME}.json").read_text())
        (folder / f"{NAME}.json").write_text(json.dumps(s | values))
        return folder

    return change


def summary(run):
    return json.loads((run / f"{NAME}.json").read_text())


def test_the_page_is_whole_and_loads_nothing(run):
    text = (run / PAGE).read_text()
    page = Page(text)
    assert text.startswith("<!doctype html>")
    assert page.all("html") == [{"lang": "en"}]
    assert not page.all("script")
    assert not page.all("link")
    assert "url(" not in text
    assert "@import" not in text
    for _, attributes in page.elements:
        assert attributes.get("src", KINDS[0]).startswith(KINDS)
        assert not [name for name in attributes if name.startswith("on")]
        assert "style" not in attributes
    for image in page.all("img"):
        assert image["alt"]
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    for link in page.all("a"):
        assert (
            link["href"].startswith(("http://", "https://"))
            or link["href"].removeprefix("#") in ids
        )
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels.count(1) == 1
    assert set(levels) == {1, 2}


def test_the_headline_has_the_numbers_of_the_evaluation(run):
    s = summary(run)
    page = Page((run / PAGE).read_text())
    shown = re.findall(r"−?\d[\d,]*\.\d+", page.texts["number"])
    numbers = [
        (float(t.replace("−", "-").replace(",", "")), len(t.partition(".")[2]))
        for t in shown
    ]
    wanted = [
        v
        for name in ("log_marginal", "elbo", "reconstruction", "kl")
        for v in s[name].values()
    ]
    wanted.remove(s["log_marginal"]["estimated_bias"])
    for value in [*wanted, s["bits_per_dimension"]]:
        assert any(
            abs(value - n) <= 0.5 * 10**-digits and digits >= 2 for n, digits in numbers
        ), value
    mentions(
        page.text,
        f"{s['pareto_k']['above_limit']} of {DATA} data",
        s["verdict"],
        s["latents"]["verdict"],
    )
    mentions(
        page.texts["configuration"],
        s["command"],
        "--num-particles 200",
        s["versions"]["torch"],
        "latent_dim",
    )


def test_the_histogram_of_pareto_k_is_of_the_data(run):
    k = np.load(run / f"{NAME}.npz")["pareto_k"]
    section = report(run).partition('id="trust"')[2].partition("</section>")[0]
    good, bad = int((k <= 0.7).sum()), int((k > 0.7).sum())
    mentions(
        section, f"Pareto k of {DATA} data: {good} at most 0.7, {bad} above or unknown."
    )
    with Image.open(run / "figures" / NAME / "pareto_k.png") as picture:
        svg = picture.text["svg"].encode()
    assert base64.b64encode(svg).decode() in section


def test_lines_are_drawings_and_pixels_are_pixels(run):
    sources = [image["src"] for image in Page(report(run)).all("img")]
    drawn = [s for s in sources if s.startswith(KINDS[1])]
    assert len(drawn) >= 3
    for source in drawn:  # each a whole drawing, with its texts as texts
        svg = ElementTree.fromstring(base64.b64decode(source.partition(",")[2]))
        assert svg.tag.endswith("}svg")
        assert any(e.tag.endswith("}text") for e in svg.iter())
    grids = [p.read_bytes() for p in run.rglob("*.png") if b"svg" not in p.read_bytes()]
    assert {KINDS[0] + base64.b64encode(grid).decode() for grid in grids} & {*sources}


def test_the_least_probable_data_are_shown(run):
    with np.load(run / f"{NAME}.npz") as file:
        values, rows, labels = file["values"], file["row"], file["label"]
    opened = open_run(str(run), checkpoint="best", device="cpu", data_dir=None)
    x = opened.split("test").first(DATA)[:].numpy()
    page = Page((run / PAGE).read_text())
    pictures = [image for image in page.all("img") if image.get("class") == "pixels"]
    assert len(pictures) == 12
    for i, image in zip(np.argsort(values), pictures, strict=False):
        assert image["alt"].startswith(f"row {rows[i]}, label {labels[i]}, ")
        pixels = Image.open(
            io.BytesIO(base64.b64decode(image["src"].partition(",")[2]))
        )
        np.testing.assert_array_equal(np.asarray(pixels) / 255, x[i].reshape(8, 8))
    assert not [
        image
        for image in Page(report(run)).all("img")
        if image.get("class") == "pixels"
    ]  # no data at hand


def test_doubts_are_in_the_box(run, changed):
    def box(folder):
        return report(folder).partition("<aside")[2].partition("</aside>")[0]

    s = summary(run)
    assert s["pareto_k"]["above_limit"]
    mentions(box(run), s["verdict"], f"Only {DATA} of the 359 test data")
    good = s["pareto_k"] | {"above_limit": 0}
    folder = changed(
        pareto_k=good, verdict="All is well.", warnings=[], data_in_split=DATA, curve={}
    )
    metrics = (folder / "metrics.csv").read_text().splitlines()
    (folder / "metrics.csv").write_text("\n".join(metrics[:2]) + "\n")
    mentions(box(folder), "Training stopped after 1 of 2 epochs")
    (folder / "metrics.csv").unlink()
    mentions(box(folder), "No warnings")
    mentions(report(folder), "no metrics.csv")


def test_other_doubts(run, changed):
    s = summary(run)
    latents = s["latents"] | {"warnings": ["Collapsed: all of it."]}
    ood = {"title": "Others", "a.npy": {"title": "a", "warnings": ["Too low, both."]}}
    mean = s["log_marginal"]["mean"]
    curve = {"1": mean - 2, "10": mean - 0.5, "100": mean}
    folder = changed(latents=latents, ood=ood, curve=curve)
    box = report(folder).partition("<aside")[2].partition("</aside>")[0]
    mentions(
        box,
        "Collapsed: all of it.",
        "Too low, both.",
        "still rises by 0.50 nats",
    )


def test_each_doubt_has_a_command_that_can_be_run_and_the_gravest_comes_first(
    run, changed
):
    asked = {
        "title": "Asked",
        "warnings": ["It collapsed."],
        "remedy": "--objective 'annealed(epochs=3)'",
    }
    folder = changed(
        pareto_k=summary(run)["pareto_k"] | {"above_limit": 3},
        verdict="3 data are doubtful.",
        curve={"1": -30.0, "10": -25.0},
        asked=asked,
    )
    page = Page(report(folder))
    doubts = page.texts[""].partition("warnings\n")[2]
    words = ["3 data are doubtful", "The bound still rises", "It collapsed", "Only 40"]
    assert [doubts.index(w) for w in words] == sorted(doubts.index(w) for w in words)
    lines = re.findall(r"python -m pyro_vae\.[^\n]+", doubts)
    place = public_path(folder)
    again = f"python -m pyro_vae.evaluate {place}"
    anew = f"python -m pyro_vae.train --config {place}/config.toml --output NEW_FOLDER"
    more = f"{again} --num-particles {10 * K}"
    assert lines[:3] == [more, more, f"{anew} --objective 'annealed(epochs=3)'"]
    assert again in lines
    for line in lines:
        _, _, program, *words = shlex.split(line)
        parser = make_parser() if program == "pyro_vae.train" else evaluate_parser()
        parser.parse_args(words)


def test_an_impossible_datum(run, changed):
    marginal = summary(run)["log_marginal"] | {
        "mean": None,
        "data_standard_error": None,
    }
    folder = changed(
        log_marginal=marginal, arrays=None
    )  # of arrays that are changed too
    columns = dict(np.load(folder / f"{NAME}.npz"))
    columns["values"][3] = -np.inf
    np.savez(folder / f"{NAME}.npz", **columns)
    page = Page(report(folder))
    mentions(page.texts[""], "not a finite number")
    mentions(page.texts["worst"], "−∞")


def test_hostile_names_are_text(changed, tmp_path):
    hostile = "<b onclick=x>x</b>"
    folder = changed(
        dataset=hostile,
        effort="</p><script>alert(1)</script>",
        ood={hostile: {hostile: 1.5}},
    )
    shutil.copy(
        folder / "figures" / "prior_samples.png", folder / "figures" / "<i>&quot.png"
    )
    (folder / "figures" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    folder = folder.rename(tmp_path / "<u>'\"&")
    text = report(folder)
    page = Page(text)  # no mark-up that others wrote is left open, nor any there at all
    assert not {"b", "i", "u", "script"} & {tag for tag, _ in page.elements}
    assert page.text.count(hostile) >= 3
    mentions(page.text, folder.name, "alert(1)", "<i>&quot")
    assert escape(hostile) in text


def test_missing_parts_name_the_command(run):
    page = Page((run / PAGE).read_text())
    asked = ("--ask gaps", "--ask ais", "--ask bdmc", "--ask posterior", "--ask ood")
    mentions(page.texts["questions"], "Not computed", *asked)
    assert "--ask latents" not in page.texts["questions"]  # it was
    assert "not computed" not in page.texts["samples"]


def test_a_report_draws_what_it_shows_and_leaves_what_is_there(call, trained, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    shutil.rmtree(folder / "samples", ignore_errors=True)
    (folder / "samples").mkdir()
    there = folder / "samples" / "traversal.png"
    shutil.copy(folder / "figures" / "prior_samples.png", there)
    before = there.read_bytes()
    said = call("evaluate", folder, "--limit", 5, "--num-particles", 9, "--report")
    assert said.code == 0
    assert str(folder / "samples" / "interpolation.png") in said.out
    assert there.read_bytes() == before
    (page,) = folder.glob("report*.html")
    assert "Interpolation and traversal" not in page.read_text()


def test_a_report_shows_no_samples_of_older_weights(call, trained, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    shutil.rmtree(folder / "samples", ignore_errors=True)
    (folder / "samples").mkdir()
    made = (folder / "best.safetensors").stat().st_mtime_ns
    old = {
        kind: folder / "samples" / f"{kind}.png" for kind in ("interpolation", "prior")
    }
    for path, shade in zip(old.values(), (50, 60), strict=True):
        Image.new("L", (3, 3), shade).save(path)
        os.utime(path, ns=(made - 1, made - 1))
    inside = [base64.b64encode(path.read_bytes()).decode() for path in old.values()]
    said = call("evaluate", folder, "--limit", 5, "--num-particles", 9, "--report")
    assert (said.code, said.err) == (0, "")
    with Image.open(old["interpolation"]) as drawn:
        assert drawn.size > (3, 3)
    (page,) = folder.glob("report*.html")
    assert not any(text in page.read_text() for text in inside)


def test_samples_of_their_own_program_come_before_those_of_training(
    run, trained, call, tmp_path
):
    shutil.copytree(trained, tmp_path / "run")
    assert (
        call("evaluate", tmp_path / "run", "--limit", 5, "--num-particles", 20).code
        == 0
    )
    mentions(
        Page(report(tmp_path / "run")).texts["samples"],
        "pyro_vae.sample",
        "not computed",
    )
    assert base64.b64encode(
        (run / "samples" / "prior.png").read_bytes()
    ).decode() in report(run)


def test_parts_that_the_page_does_not_know(changed):
    ood = {
        "verdict": "The model tells them apart.",
        "auroc": {"mean": 0.8125, "data_standard_error": 0.011},
        "noise": {"mean": -40.12345, "data_standard_error": 0.25},
        "other": {"nested": {"deep": [1, 2.5, None]}},
    }
    gradients = {"a": {"x": 1, "y": 2.25}, "b": {"x": 3, "y": 4.5}}
    folder = changed(ood=ood, gradients=gradients, skipped=None)
    for name in ("ood_histogram", "something_else"):
        shutil.copy(
            folder / "figures" / "prior_samples.png", folder / "figures" / f"{name}.png"
        )
    page = Page(report(folder))
    told = page.texts["answer-ood"]
    mentions(
        told,
        "OOD",
        "tells them apart.",
        "0.812\n0.011",
        "−40.12\n0.25",
        "1, 2.5, —",
        "OOD histogram",
    )
    mentions(page.texts["answer-gradients"], "Gradients", "2.25", "4.5")
    assert "answer-skipped" not in page.texts
    assert page.texts["figures"].count("Something else") == 1
    assert "OOD" not in page.texts["figures"]


@pytest.mark.parametrize("guide", ["meanfield", "fullrank"])
def test_other_data_and_guides(call, tmp_path, guide):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(40, 3)))
    options = (
        "--likelihood",
        "gaussian",
        "--guide",
        guide,
        "--network",
        "mlp(hidden=(4,))",
        "--latent-dim",
        1,
    )
    folder = tmp_path / "run"
    assert (
        call(
            "train",
            "--dataset",
            tmp_path / "x.npy",
            *options,
            "--epochs",
            1,
            "--output",
            folder,
        ).code
        == 0
    )
    said = call(
        "evaluate", folder, "--split", "validation", "--num-particles", 2, "--report"
    )
    assert (said.code, said.err) == (0, "")
    assert not (folder / PAGE).exists()
    mentions(
        Page((folder / "report-validation.html").read_text()).text,
        "validation data",
        "x.npy",
    )
    assert (
        call("train", *options, "--epochs", 1, "--output", folder, "--overwrite").code
        == 0
    )
    assert not list(folder.glob("report*"))  # it was of the run that is gone


def test_what_cannot_be_reported(trained, changed, tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        report(tmp_path / "nothing")
    with pytest.raises(
        InputError, match=r"no evaluation of its train data.*--split train"
    ):
        report(trained, split="train")
    with pytest.raises(InputError, match="does not say 'elbo'"):
        write_report(changed(elbo=3), tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


PROBE = """<!doctype html><meta charset="utf-8"><body><pre id="found"></pre>{frames}<script>
onload = () => {{
  const found = [...document.querySelectorAll("iframe")].map(frame => {{
    const page = frame.contentDocument, style = frame.contentWindow.getComputedStyle(page.body);
    return {{
      inner: frame.contentWindow.innerWidth,
      scroll: page.documentElement.scrollWidth,
      images: [...page.images].map(image => image.naturalWidth),
      wide: [...page.querySelectorAll("img, figcaption, .card, .box")]
        .filter(e => e.getBoundingClientRect().right > frame.contentWindow.innerWidth).length,
      ground: style.backgroundColor, ink: style.color,
    }};
  }});
  document.getElementById("found").textContent = JSON.stringify(found);
}};
</script>"""


def luminance(colour):
    """Relative luminance of `rgb(r, g, b)`, from 0 to 1, as the guidelines for accessible pages (WCAG) define it."""
    parts = np.array([int(n) for n in re.findall(r"\d+", colour)][:3]) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium on the PATH")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_in_a_browser(run, tmp_path, scheme):
    page = escape((run / PAGE).read_text())
    widths = (400, 1280)
    frames = "".join(
        f'<iframe width="{w}" height="800" style="border:0" srcdoc="{page}"></iframe>'
        for w in widths
    )
    (tmp_path / "probe.html").write_text(PROBE.format(frames=frames))
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    flags += f"--disable-component-update --disable-sync --window-size=1400,900 --user-data-dir={tmp_path / 'profile'} "
    flags += (
        f"--blink-settings=preferredColorScheme={int(scheme == 'light')} --dump-dom"
    )
    done = subprocess.run(
        [CHROMIUM, *flags.split(), (tmp_path / "probe.html").as_uri()],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    found = json.loads(re.search(r'<pre id="found">(.*?)</pre>', done.stdout)[1])
    assert [frame["inner"] for frame in found] == list(widths)
    for frame in found:
        assert frame["scroll"] <= frame["inner"]
        assert frame["wide"] == 0
        assert len(frame["images"]) > 12
        assert min(frame["images"]) > 0
        ground, ink = luminance(frame["ground"]), luminance(frame["ink"])
        assert (ground > ink) == (scheme == "light")
        assert (max(ground, ink) + 0.05) / (
            min(ground, ink) + 0.05
        ) > 7  # contrast, WCAG's level AAA


def test_what_is_said_of_every_row_alike_is_said_once():
    rows = {name: {"value": 1.0} for name in ("a", "b")}
    alike = str(tabulated(rows, {"meanings": dict.fromkeys(rows, "how well")}, "two"))
    assert "<small>" not in alike
    assert alike.count("<caption>two: how well</caption>") == 1
    each = {"meanings": {"a": "the first", "b": "the second"}}
    apart = str(tabulated(rows, each, "two"))
    assert apart.count("<small>the first") == apart.count("<small>the second") == 1
    assert "<caption>two</caption>" in apart
    one = str(tabulated({"a": rows["a"]}, {"meanings": {"a": "how well"}}, "one"))
    assert "<caption>one</caption>" in one
    assert one.count("<small>how well") == 1


MIXED = {"name": "job", "kind": "bit", "categories": ["a", "b"]}


@pytest.mark.parametrize(
    ("resolved", "asked", "kind"),
    [
        ({"shape": [8, 8]}, None, "image"),
        ({"shape": [3, 8, 8]}, None, "image"),
        ({"shape": [60, 3]}, None, "series"),
        ({"shape": [60]}, None, "series"),
        ({"shape": [4]}, None, "table"),
        ({"shape": [30], "table": [MIXED] * 30}, None, "table"),
        ({"shape": [8, 8]}, "series", "series"),
        ({}, None, "image"),
    ],
)
def test_pictures_are_told_as_what_they_show(resolved, asked, kind):
    """Lines are no pictures one below the other, and columns of a table no means of p(x|z)."""
    config = {"resolved": resolved, "show_as": asked}
    facts = Facts(Path("run"), {}, {}, config, [], {})
    assert facts.drawn_as == kind
    assert bool(facts.of_pixels) == (kind == "image")
    captions = BY_KIND[kind]
    drawn = {"prior", "prior_samples", "reconstructions", "interpolation", "traversal"}
    assert drawn <= captions.keys()
    assert ("below each" in captions["reconstructions"]) == (kind == "image")
    assert ("draws from p(x)" in captions["prior_samples"]) == (kind != "image")
