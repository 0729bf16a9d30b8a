"""What a prompt and a notebook show: one line, and HTML that is whole, escaped and takes the colours of its page."""

import math
import re
from xml.etree import ElementTree

import pandas
import pytest
import torch

import pyro_vae
from pyro_vae import (
    Answer,
    Estimate,
    PerDatum,
    Spec,
    Table,
    build,
    fit,
    load_data,
    log_marginal,
    open_run,
)
from pyro_vae.data import Bridge, Data, DataSet
from pyro_vae.evaluation.question import Shown
from pyro_vae.evaluation.results import LogMarginal
from pyro_vae.foundation.html import HEIGHT, MARGIN, WIDTH, card, curve, facts, grid
from pyro_vae.inference.epochs import Epoch, History

HOSTILE = "<script>alert('x')</script>"


def epoch(number, elbo, validation=math.nan):
    found = elbo if math.isnan(validation) else validation
    return Epoch(number, elbo, -1, 1, 1, validation, -1, 1, found, 0.001, 1.0, 60.0)


def parsed(shown):
    """The HTML as a tree, which it must be."""
    return ElementTree.fromstring(shown._repr_html_())


def descendants(cls):
    return {c for child in cls.__subclasses__() for c in {child, *descendants(child)}}


def test_no_result_writes_out_its_tensors():
    results = descendants(Shown)
    assert len(results) > 20
    assert {cls.__repr__ for cls in results} == {Shown.__repr__}


@pytest.fixture(scope="module")
def vae():
    torch.manual_seed(0)
    return build(Spec((4,), 2, network="mlp(hidden=(5,))"))


def test_a_result_says_its_mean_and_errors_in_a_line(vae):
    x = torch.rand(30, 4).round()
    found = log_marginal(vae, x, num_particles=20)
    errors = found.data_standard_error, found.monte_carlo_standard_error
    assert repr(found) == (
        "LogMarginal(log p(x) by importance weighting, 20 particles on 30 data: log p(x) "
        f"{found.mean:.3f} ± {errors[0]:.3f} (data) ± {errors[1]:.3f} (Monte Carlo))"
    )
    texts = [cell.text for cell in parsed(found).iter("td")]
    assert texts[:2] == ["log p(x)", f"{found.mean:.4f}"]
    whole = "".join(parsed(found).itertext())
    sentences = found.told().sentences
    assert sentences
    assert all(sentence in whole for sentence in sentences)


def test_results_without_a_number_are_said():
    nothing = torch.full((3,), math.nan)
    columns = dict.fromkeys(
        ("ess", "pareto_k", "elbo", "reconstruction", "kl"), nothing
    )
    lost = LogMarginal(nothing, nothing, **columns, num_particles=5)
    for result in (lost, PerDatum(nothing, None)):
        assert "3 data" in repr(result)
        assert "no finite value" in "".join(parsed(result).itertext())


def test_text_is_escaped_wherever_it_comes_from():
    answer = Answer(
        HOSTILE,
        HOSTILE,
        rows={HOSTILE: Estimate(1.0, 0.1), "b": {HOSTILE: HOSTILE}},
        unit=HOSTILE,
        sentences=[HOSTILE],
        warnings=[HOSTILE],
        parts={"more": Answer(HOSTILE)},
    )
    data = load_data("digits")
    named = DataSet(**{**vars(data), "name": HOSTILE, "notes": (HOSTILE,)})
    fields = Data({HOSTILE: torch.ones(3, 2)})
    table = Table(pandas.DataFrame({HOSTILE: [1.0, 2.5, 3.0]}))
    for shown in (answer, named, fields, table):
        assert "<script" not in shown._repr_html_()
        assert HOSTILE in "".join(parsed(shown).itertext())


def test_a_notebook_takes_no_colour_from_here(vae):
    """Nothing but half-clear lines: text and background are those of the page, light or dark."""
    history = History([epoch(1, -5.0, -6.0), epoch(2, -4.0, -5.0)])
    for shown in (vae, history, load_data("digits")):
        page = shown._repr_html_()
        colours = re.findall(
            r"(?:color|background|fill|stroke)(?:: ?|=\")([^;\"]+)", page
        )
        assert {*colours} <= {"inherit", "transparent", "none", "currentColor"}
        assert not re.search(r"https?:|src=|<style|<script", page)


def test_a_curve_lies_where_its_numbers_do():
    drawn = ElementTree.fromstring(
        curve({"a": [0.0, 3.0, 4.0], "b": [math.nan, 2.0, 1.0]}, mark=1)
    )
    lines = [
        [tuple(map(float, p.split(","))) for p in line.get("points").split()]
        for line in drawn.iter("polyline")
    ]
    height = HEIGHT - 2 * MARGIN
    middle = WIDTH / 2
    assert lines[0] == [
        (MARGIN, HEIGHT - MARGIN),
        (middle, MARGIN + height / 4),
        (WIDTH - MARGIN, MARGIN),
    ]
    assert lines[1][0] == (middle, MARGIN + height / 2)
    dot = drawn.find("circle")
    assert (float(dot.get("cx")), float(dot.get("cy"))) == lines[1][0]
    assert curve({"a": [1.0]}) is None
    assert curve({"a": [math.nan, math.inf]}) is None
    assert "nan" not in curve({"a": [2.0, 2.0]})


def test_a_history():
    history = History(
        [epoch(1, -5.0, -6.0), epoch(2, -4.0, -5.0), epoch(3, -3.5, -5.5)]
    )
    assert repr(history) == (
        "History(3 epochs, 3.0 s; ELBO -3.500; best epoch 2, validation ELBO -5.000)"
    )
    rows = [[c.text for c in row] for row in parsed(history).iter("tr")]
    assert [row[0] for row in rows] == ["epoch", "first, 1", "best, 2", "last, 3"]
    assert rows[2][rows[0].index("validation ELBO")] == "-5"
    assert len([*parsed(history).iter("polyline")]) == 2
    alone = History([epoch(1, -5.0)])
    assert "1 epoch, " in repr(alone)
    assert not [*parsed(alone).iter("svg")]
    assert repr(History()) == "History(0 epochs)"
    assert parsed(History()).tag == "div"


def test_a_pair_says_formula_members_and_sizes(vae):
    assert repr(vae) == (
        "VAE: p(z) p(x|z); q(z|x)\n"
        "  prior       StandardNormal()\n"
        "  likelihood  Bernoulli()\n"
        "  guide       MeanField()\n"
        "  encoder     MLP(hidden=(5,))\n"
        "  decoder     MLP(hidden=(5,))\n"
        "  x (4,); latents z 2; parameters 88, float32 on cpu"
    )
    assert sum(p.numel() for p in vae.parameters()) == 88
    assert "(decoder): MLP(" in repr(vae.model)
    rows = [["".join(c.itertext()) for c in row] for row in parsed(vae).iter("tr")]
    assert ["encoder", "MLP(hidden=(5,))"] in rows


def test_pairs_of_any_parts_say_something():
    plain = pyro_vae.VAE(
        pyro_vae.StandardNormal(2),
        torch.nn.Linear(2, 4),
        pyro_vae.Bernoulli((4,)),
        pyro_vae.MeanField(torch.nn.Linear(4, 3), 2, features=3),
    )
    assert "Linear(in_features=2, out_features=4, bias=True)" in repr(plain)
    fixed = pyro_vae.VAE(
        pyro_vae.StandardNormal(2),
        torch.nn.Sequential(torch.nn.Flatten()),
        pyro_vae.Bernoulli((2,)),
        torch.nn.Flatten(),
    )
    assert "Sequential()" in repr(fixed)
    assert "p(z) p(x|z); q(?)" in repr(fixed)
    assert repr(fixed).endswith("parameters 0")
    labelled = build(Spec((4,), 2, structure="labelled(classes=3)"))
    assert "p(y) p(z) p(x|z,y); q(y|x) q(z|x,y)" in repr(labelled)
    assert "classes 3" in repr(labelled)
    given = build(Spec((4,), 2, context=5))
    assert "condition 5" in repr(given)


def test_data_say_what_they_are(vae):
    digits = load_data("digits")
    assert repr(digits).startswith("DataSet(digits: train ")
    split = digits.split("train", Bridge.kinds()["none"](16, None))
    assert f"{len(split):,} of shape (8, 8), in memory" in repr(split)
    assert parsed(split).tag == "div"
    both = Data({"x": torch.ones(7, 2), "y": torch.ones(7), "n": 3})
    assert (
        repr(both)
        == "Data(x: 7 of shape (2,), in memory; y: 7 of shape (), in memory; n: int)"
    )


def test_a_run_and_what_it_is_read_back_as(trained):
    run = open_run(trained)
    assert "p(z) p(x|z); q(z|x)" in repr(run)
    assert len(repr(run).splitlines()) == 1
    assert "StandardNormal()" in "".join(parsed(run).itertext())


def test_fit_gives_a_history_that_shows_itself(vae):
    found = fit(vae, torch.rand(20, 4).round(), epochs=2, batch_size=20)
    assert re.fullmatch(
        r"History\(2 epochs, .* s; ELBO .*; best epoch \d, ELBO .*\)", repr(found)
    )


def test_cells_that_are_empty_are_left_out():
    shown = card(
        "title", "", facts({"a": "", "b": None, "c": 0}), grid(["", "x"], [["r", 1]])
    )
    assert [c.text for c in ElementTree.fromstring(shown).iter("th")] == [
        "c",
        None,
        "x",
    ]
