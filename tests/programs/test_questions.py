"""What an evaluation asks: every question in text, in the files and on the page; and one of one's own."""

import json
import math
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pyro_vae import Answer, Estimate, InputError, PerDatum, Question, variants
from pyro_vae.evaluation.question import Evaluated
from pyro_vae.foundation.source import summaries
from pyro_vae.report import report
from pyro_vae.spec import parse
from pyro_vae.trained import open_run
from reading import mentions, newest

pytestmark = pytest.mark.usefixtures("blank_figures")

# What keeps each of them short; a question that is not named here is asked as it is.
SHORT = {
    "AIS": "chains=3, temperatures=4",
    "BDMC": "n=4, chains=3, temperatures=4",
    "Adaptive": "steps=2",
    "Bracket": "n=3, chains=4, temperatures=4, prior_temperatures=5",
    "Calibration": "n=20, draws=9",
    "Clustering": "halves=3",
    "Disentanglement": "halves=3, trees=2",
    "Fidelity": "halves=3",
    "Gaps": "steps=2, elbo_particles=5",
    "OOD": "data='digits', steps=2",
    "Posterior": "n=2, draws=8, chains=2",
    "Refined": "steps=2",
}
FAMILY = parse("ask", "gaps").make.__mro__[1]
N = 12  # data
QUICK = ("--limit", N, "--num-particles", 20)


@pytest.fixture
def run(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture
def on_a_table(call, tmp_path, monkeypatch):
    """A run on columns of mixed kinds."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    columns = (rng.normal(size=100), rng.integers(0, 2, 100), rng.poisson(20, 100))
    np.save("table.npy", np.stack(columns, 1))
    options = (
        "--likelihood",
        "columns",
        "--network",
        "mlp(hidden=(8,))",
        "--latent-dim",
        2,
    )
    call(
        "train", "--dataset", "table.npy", *options, "--epochs", 1, "--output", "table"
    )
    return Path("table")


@pytest.fixture
def with_holes(call, tmp_path, monkeypatch):
    """A run on data of which some values were hidden."""
    monkeypatch.chdir(tmp_path)
    options = (
        "--hide",
        0.3,
        "--network",
        "mlp(hidden=(8,))",
        "--latent-dim",
        2,
        "--epochs",
        1,
    )
    call("train", *options, "--output", "holes")
    return Path("holes")


@pytest.fixture
def with_classes(call, tmp_path, monkeypatch):
    """A run of a structure with classes."""
    monkeypatch.chdir(tmp_path)
    options = ("--structure", "labelled", "--labelled", 100, "--latent-dim", 2)
    quick = ("--network", "mlp(hidden=(8,))", "--epochs", 1)
    call("train", *options, *quick, "--output", "classes")
    return Path("classes")


@pytest.fixture
def on_fields(call, tmp_path, monkeypatch):
    """A run on images and their labels as fields."""
    monkeypatch.chdir(tmp_path)
    quick = ("--network", "mlp(hidden=(8,))", "--latent-dim", 2, "--epochs", 1)
    call("train", "--key", "image,label", *quick, "--output", "fields")
    return Path("fields")


@pytest.fixture
def with_a_target(call, tmp_path, monkeypatch):
    """A run of a structure with a real target."""
    monkeypatch.chdir(tmp_path)
    options = ("--structure", "labelled(target='real')", "--latent-dim", 2)
    quick = ("--network", "mlp(hidden=(8,))", "--epochs", 1)
    call("train", *options, *quick, "--output", "target")
    return Path("target")


ASKED_OF = {
    "Regression": "with_a_target",
    "Classification": "with_classes",
    "ColumnTable": "on_a_table",
    "FieldTable": "on_fields",
    "Impute": "with_holes",
}


def evaluation(run):
    found = newest(run)
    with np.load(found.with_suffix(".npz")) as arrays:
        return json.loads(found.read_text()), dict(arrays)


@pytest.mark.parametrize("name", variants(FAMILY))
def test_every_question_in_text_in_the_files_and_on_the_page(call, request, name):
    run = request.getfixturevalue(ASKED_OF.get(name, "run"))
    text = f"{name.lower()}({SHORT.get(name, '')})"
    said = call("evaluate", run, *QUICK, "--ask", text, "--report")
    assert (said.code, said.err) == (0, "")
    s, arrays = evaluation(run)
    assert {len(column) for column in arrays.values()} == {N}
    question = str(parse("ask", text)())
    page = newest(run, "report*.html").read_text()
    if question == s["weighting"]:  # the answer is the evaluation itself
        assert s["log_marginal"]["mean"] == pytest.approx(arrays["values"].mean())
        mentions(
            said.out,
            "log p(x) by importance weighting",
            f"{s['log_marginal']['mean']:.4f}",
        )
        return
    answer = s[name.lower()]
    assert answer["question"] == question
    assert f"\n{answer['title']}" in said.out
    for part in (
        answer,
        *(v for v in answer.values() if isinstance(v, dict) and "title" in v),
    ):
        mentions(said.out, *part.get("sentences", []), *part.get("warnings", []))
    section = page.partition(f'id="answer-{name.lower()}"')[2].partition("</section>")[
        0
    ]
    mentions(section, answer["title"].replace("'", "&#x27;"), "<table>")


@pytest.mark.parametrize("name", variants(FAMILY))
def test_every_question_reads_itself_back(name):
    question = parse("ask", f"{name}({SHORT.get(name, '')})")()
    again = parse("ask", str(question))()
    assert (type(again), str(again)) == (type(question), str(question))
    assert any(call.startswith(f"{name.lower()}(") for call in summaries("ask"))


def test_short_options_are_questions(call, run):
    numbers = []
    short = ("--gaps", "--ais", "--chains", 3, "--temperatures", 4)
    asked = ("--ask", "gaps", "--ask", "ais(chains=3, temperatures=4)")
    for options in (short, asked):
        assert call("evaluate", run, *QUICK, *options).code == 0
        s, _ = evaluation(run)
        numbers.append({key: s[key] for key in ("weighting", "gaps", "ais", "plan")})
    assert numbers[0] == numbers[1]
    assert (
        len(list(run.glob("evaluation*.json"))) == 1
    )  # the same, so it takes the place


def test_a_question_twice(call, run):
    asked = [f"ais(chains={count}, temperatures=4)" for count in (3, 30)]
    said = call(
        "evaluate", run, *QUICK, *(word for text in asked for word in ("--ask", text))
    )
    assert (said.code, said.err) == (0, "")
    s, arrays = evaluation(run)
    assert (s["ais"]["num_chains"], s["ais2"]["num_chains"]) == (3, 30)
    assert (arrays["ais_values"] != arrays["ais2_values"]).any()


OWN = '''
import torch
from pyro_vae import Answer, PerDatum, Question
from pyro_vae.evaluation.question import Drawing
from pyro_vae.foundation.checks import Count
from pyro_vae.plots import grid

class Norms(Question):
    """How long the data are."""

    def __init__(self, *, power: Count = 2):
        self.power = power

    def ask(self, run, data, progress):
        with progress("data", len(data)) as done:
            norms = data.x[:].flatten(1).pow(self.power).sum(1)
            done(len(data))
        return Answer(
            title="Norms",
            about=f"of {data.called}",
            rows={"norm": PerDatum(norms, None), "largest": {"of all": norms.max().item()}},
            unit="pixels",
            meanings={"norm": "how many pixels are white"},
            sentences=["A norm is a <sum>."],
            warnings=["One norm is long."],
            figures={"norms": Drawing(lambda: grid(data.x[:2], columns=2), "Two data.")},
            columns={"each": norms},
            numbers={"power": self.power, "kind": torch.float32},
        )
'''


@pytest.fixture
def mine(run, monkeypatch):
    Path("mine.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(Path.cwd()))
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield "mine:Norms"
    sys.modules.pop("mine", None)


def test_a_question_of_ones_own_is_one_class(call, run, mine):
    said = call(
        "evaluate",
        run,
        *QUICK,
        "--ask",
        f"{mine}(power=1)",
        "--report",
        "--csv",
        "x.csv",
    )
    assert (said.code, said.err) == (0, "")
    mentions(
        said.out,
        "Norms: of digits test",
        "A norm is a <sum>.",
        "warning: One norm is long.",
    )
    s, arrays = evaluation(run)
    x = open_run(run).split("test").first(N)[:]
    norms = x.flatten(1).sum(1).numpy()
    np.testing.assert_array_equal(arrays["norms_each"], norms)
    assert s["norms"]["question"] == "mine:Norms(power=1)"
    assert s["norms"]["norm"]["mean"] == pytest.approx(norms.mean())
    assert (s["norms"]["power"], s["norms"]["kind"]) == (1, "torch.float32")
    assert s["plan"]["asked"] == ["mine:Norms(power=1)"]
    assert "norms_each" in Path("x.csv").read_text().splitlines()[0]
    assert newest(run, "figures/*/norms.png").is_file()
    page = newest(run, "report*.html").read_text()
    section = page.partition('id="answer-norms"')[2].partition("</section>")[0]
    mentions(
        section,
        "Norms",
        "how many pixels are white",
        "A norm is a &lt;sum&gt;.",
        "Two data.",
    )
    assert "One norm is long." in page.partition("<aside")[2].partition("</aside>")[0]


def test_what_cannot_be_asked(refused, run, mine):
    mentions(
        refused("evaluate", run, "--ask", "gap"), "--ask gap is unknown", "mean gaps?"
    )
    mentions(
        refused("evaluate", run, "--ask", "gaps(stes=3)"), "no argument stes", "steps?"
    )
    mentions(
        refused("evaluate", run, "--ask", "gaps(steps=0)"),
        "steps=0 of Gaps",
        "at least 1",
    )
    mentions(refused("evaluate", run, "--ask", "ood"), "ood needs data")
    mentions(
        refused("evaluate", run, "--ask", "nowhere:Thing"),
        "nowhere:Thing cannot be imported",
    )
    mentions(
        refused("evaluate", run, "--ask", "json:JSONDecoder"), "subclass of Question"
    )
    mentions(
        refused("evaluate", run, "--ask", "refined", "--adaptive"),
        "weighted in one way",
    )


def test_a_question_without_an_answer_loses_no_other(call, run, mine):
    raising = OWN.replace(
        "done(len(data))", 'raise InputError("these data have no norm")'
    )
    Path("mine.py").write_text("from pyro_vae import InputError\n" + raising)
    said = call("evaluate", run, *QUICK, "--ask", mine, "--ask", "gaps(steps=2)")
    assert said.code == 2
    mentions(
        said.err,
        "the evaluation is done and written to",
        "mine:Norms(power=2) has no answer",
    )
    mentions(said.err, "these data have no norm")
    s, arrays = evaluation(run)
    assert "norms" not in s
    assert s["gaps"]["L[q]"]["mean"] == pytest.approx(s["elbo"]["mean"], abs=5)
    assert len(arrays["values"]) == N


def test_a_column_without_a_number_for_each_datum(call, run, mine):
    Path("mine.py").write_text(OWN.replace('"each": norms', '"each": norms[1:]'))
    said = call("evaluate", run, *QUICK, "--ask", mine)
    assert said.code == 2
    mentions(
        said.err, "mine:Norms(power=2) has no answer", f"shape ({N - 1},) for {N} data"
    )


def test_an_evaluation_of_an_earlier_version_is_still_shown(call, run):
    assert call("evaluate", run, "--num-particles", 20).code == 0
    path = run / "evaluation.json"
    s = json.loads(path.read_text())
    old = {
        "mean": -26.5,
        "data_standard_error": 0.25,
        "monte_carlo_standard_error": 0.0125,
    }
    s |= {"gaps": {"inference": old, "L[q]": old}, "ais": {**old, "num_chains": 16}}
    s["latents"] = {"active_units": 3, "active_interval": [2, 3], "collapsed": False}
    s["latents"] |= {
        "kl": {"value": 1.5, "standard_error": 0.5},
        "verdict": "3 are active.",
    }
    s["plan"] = {k: v for k, v in s["plan"].items() if k != "asked"} | {"gaps": True}
    del s["warnings"], s["weighting"]
    path.write_text(json.dumps(s))
    page = report(run)
    mentions(page, "3 are active.", "−26.500", "Inference", "L[q]", "Num chains")
    assert call("evaluate", run, "--num-particles", 20).code == 0
    assert "gaps" in json.loads(path.read_text())  # which holds more


def test_results_of_shards_add_up():
    values = torch.tensor([1.0, 2.0, math.nan, 4.0])
    errors = torch.tensor([0.3, 0.4, 0.5, 0.0])
    whole = PerDatum(values, errors)
    parts = PerDatum(values[:1], errors[:1]) + PerDatum(values[1:], errors[1:])
    assert len(parts) == 4
    assert parts.mean == whole.mean == pytest.approx(7 / 3)
    assert parts.monte_carlo_standard_error == pytest.approx(0.5 / 3)
    kept = np.array([1.0, 2.0, 4.0])
    assert parts.data_standard_error == pytest.approx(kept.std(ddof=1) / math.sqrt(3))
    low, high = parts.interval()
    reach = (
        4.302653 * parts.data_standard_error
    )  # Student's t with 2 degrees of freedom
    assert (low, high) == pytest.approx(
        (parts.mean - reach, parts.mean + reach), rel=1e-6
    )
    plain = PerDatum(values, None)
    assert math.isnan(plain.monte_carlo_standard_error)
    assert (plain + plain).standard_errors is None
    assert plain.estimate == Estimate(plain.mean, plain.data_standard_error)
    with pytest.raises(InputError, match="standard_errors"):
        whole + plain


def test_a_second_opinion_that_is_higher_is_told():
    def data(mean, error):
        return PerDatum(torch.full((100,), mean), torch.full((100,), error))

    asked = Evaluated(torch.zeros(100), np.arange(100), log_marginal=data(-10.0, 0.3))
    noise = 3 * math.hypot(0.03, 0.04)  # of the means, 3 standard errors
    assert asked.exceeded("AIS", data(-10 + noise - 0.01, 0.4)) == []
    (sentence,) = asked.exceeded("AIS", data(-10 + noise + 0.01, 0.4))
    mentions(sentence, "AIS finds 0.16 nats more", "log p(x) is higher")
    assert (
        asked.exceeded("AIS", PerDatum(torch.full((100,), -9.95), None)) == []
    )  # of no matter


def test_rows_are_aligned_by_what_they_are():
    answer = Answer(
        title="Two kinds",
        rows={
            "a": Estimate(1.5, 0.25),
            "bb": Estimate(-12.0, None, 0.125),
            "c": {"n": 3, "kind": "few", "hidden": 1},
        },
        heads={"n": "count", "kind": "kind"},
    )
    assert str(answer).splitlines() == [
        "Two kinds",
        "nats per datum      mean  ± data  ± Monte Carlo",
        "a                 1.5000  0.2500",
        "bb              -12.0000                 0.1250",
        "   count  kind",
        "c      3   few",
    ]
    assert answer.to_dict()["c"] == {"n": 3, "kind": "few", "hidden": 1}


def test_a_question_is_abstract():
    with pytest.raises(TypeError, match="abstract"):
        Question()
