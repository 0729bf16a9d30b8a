"""Thresholds for anomalies: their false-positive rate by simulation, and `--ask anomalies()` on runs."""

import json
import math
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from scipy.stats import norm

from conftest import SMALL
from pyro_vae import InputError
from pyro_vae.evaluation.anomalies import threshold

pytestmark = pytest.mark.usefixtures("in_a_folder_of_its_own", "blank_figures")


@pytest.mark.parametrize(
    ("n", "rate"), [(19, 0.05), (99, 0.1), (57, 0.05), (200, 0.01)]
)
def test_so_many_ordinary_data_are_above_the_threshold(n, rate):
    torch.manual_seed(0)
    repeats, size = 4000, 50
    known, new = torch.randn(repeats, n).double(), torch.randn(repeats, size).double()
    shares = torch.stack(
        [
            threshold(a, b, rate=rate).flagged.double().mean()
            for a, b in zip(known, new, strict=True)
        ]
    )
    first = threshold(known[0], new[0], rate=rate)
    truth = 1 - first.rank / (n + 1)
    assert truth <= rate + 1e-12
    assert abs(shares.mean() - truth) < 4 * shares.std() / math.sqrt(repeats)

    # The rate of a threshold, over all new data, lies in the interval for 95 % of thresholds.
    exact = np.array(
        [
            norm.sf(threshold(a, b, rate=rate).value)
            for a, b in zip(known, new, strict=True)
        ]
    )
    low, high = first.interval
    assert abs(((exact > low) & (exact < high)).mean() - 0.95) < 0.02


def test_p_values_are_by_their_definition():
    torch.manual_seed(0)
    known, scores = torch.randn(30).double(), torch.randn(40).double().mul(2)
    scores[3], scores[4], scores[5] = math.nan, math.inf, known[7]
    found = threshold(known, scores, rate=0.1)
    above = (known[None] >= scores[:, None].nan_to_num(math.inf)).sum(1)
    torch.testing.assert_close(found.p_values, (1 + above).double() / 31)
    assert torch.equal(found.flagged, found.p_values <= 0.1)
    assert found.flagged[3]


def test_too_few_data_for_a_rate_are_refused():
    for n, rate in ((18, 0.05), (98, 0.01)):
        with pytest.raises(
            InputError,
            match=f"takes {n + 1} validation data or more, and there are {n}",
        ):
            threshold(torch.zeros(n), torch.zeros(3), rate=rate)
        threshold(torch.zeros(n + 1), torch.zeros(3), rate=rate)
    for rate in (0.0, 1.0, -1, 2):
        with pytest.raises(InputError, match="rate"):
            threshold(torch.zeros(50), torch.zeros(3), rate=rate)


@pytest.fixture
def run(call):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 1)) + 0.3 * rng.normal(size=(400, 3))
    pandas.DataFrame(x, columns=list("abc")).to_csv("data.csv", index=False)
    options = (
        "--dataset",
        "data.csv",
        "--validation-fraction",
        0.2,
        *SMALL,
        "--latent-dim",
        1,
    )
    said = call("train", *options, "--epochs", 10, "--output", "run")
    assert (said.code, said.err) == (0, "")
    odd = x[:10].copy()
    odd[:5, 0] += 6.0
    pandas.DataFrame(odd, columns=list("abc")).to_csv("new.csv", index=False)
    return "run"


@pytest.mark.parametrize("score", ["log_px", "elbo", "regret"])
def test_odd_rows_of_new_data_are_found(run, call, score):
    ask = f"anomalies(score='{score}', steps=20)"
    options = (
        "--data",
        "new.csv",
        "--num-particles",
        100,
        "--ask",
        ask,
        "--csv",
        "s.csv",
    )
    said = call("evaluate", run, *options)
    assert (said.code, said.err) == (0, "")
    table = pandas.read_csv("s.csv")
    assert table["anomalies_anomaly"].tolist()[:5] == [True] * 5
    assert table["anomalies_anomaly"].sum() <= 7
    assert (table["anomalies_p_value"][:5] < 0.02).all()


def test_the_threshold_is_kept_and_needs_no_data(run, call):
    options = (
        "--data",
        "new.csv",
        "--num-particles",
        50,
        "--ask",
        "anomalies(rate=0.1)",
    )
    first = call("evaluate", run, *options)
    assert (first.code, first.err) == (0, "")
    kept = json.loads(Path("run/thresholds.json").read_text())
    assert [len(values) for values in kept.values()] == [64]
    Path("data.csv").unlink()
    again = call("evaluate", run, *options)
    assert again.code == 0, again.err
    wanted = [line for line in first.out.splitlines() if line.startswith("threshold")]
    assert wanted == [
        line for line in again.out.splitlines() if line.startswith("threshold")
    ]
    refused = call(
        "evaluate", run, *options[:-1], "anomalies(score='elbo')", "--seed", 1
    )
    assert refused.code == 2
    assert len(refused.err.splitlines()) == 1


def test_a_rate_for_which_there_are_too_few_data_is_refused_before_any_work(run, call):
    said = call(
        "evaluate", run, "--num-particles", 50, "--ask", "anomalies(rate=0.001)"
    )
    assert said.code == 2
    assert "rate=0.001 takes 999 validation data or more, and there are 64" in said.err
    assert not list(Path("run").glob("evaluation*"))
