"""Validation data one by one: chance is no overfitting, and one wild datum decides nothing."""

import math
import warnings

import numpy as np
import pytest
import torch

from pyro_vae import ELBO, IWAE, InputError, Spec, TrainingWarning, build, fit
from pyro_vae.inference.epochs import Epoch, Progress
from pyro_vae.inference.held import chance, far_down
from pyro_vae.inference.watch import far_below, remarks

pytestmark = pytest.mark.usefixtures("blank_figures")

EPOCHS = 100


def noticed(each, rises=0.05, *, paired=True):
    """The remarks of a run with these validation ELBOs, `(epochs, N)`, whose training ELBO rises."""
    progress, found = Progress(), []
    for i, values in enumerate(each):
        best = None if progress.best_each is None else progress.best_each[0]
        noise = chance(best, values) if paired else math.nan
        held = values.mean().item()
        e = Epoch(
            i + 1,
            -5 + rises * i,
            0.0,
            3.0,
            0.0,
            held,
            0.0,
            0.0,
            held,
            0.1,
            1.0,
            1.0,
            noise,
        )
        progress.close(e, torch.stack([values, values]))
        found += remarks(e, progress, steps=10**4, over=i == len(each) - 1)
    return [remark.kind for remark in found]


def null(n, memory, tails, generator):
    """The same model throughout, but for moves of each datum that average 0 over the population."""
    base = 5 * torch.randn(n, generator=generator)
    moves, now = [], torch.zeros(n)
    for _ in range(EPOCHS):
        fresh = torch.randn(n, generator=generator)
        if tails:
            squares = torch.randn(n, 5, generator=generator).square().mean(1)
            fresh = fresh / squares.sqrt()
        now = memory * now + math.sqrt(1 - memory**2) * fresh
        moves.append(now)
    return base + 1.5 * torch.stack(moves) - 5


@pytest.mark.parametrize("n", [4, 20, 46, 200])
@pytest.mark.parametrize("memory", [0.5, 0.95])
@pytest.mark.parametrize("tails", [False, True])
def test_chance_is_hardly_ever_called_overfitting(n, memory, tails):
    generator = torch.Generator().manual_seed(n)
    runs = [null(n, memory, tails, generator) for _ in range(100)]
    assert sum("overfits" in noticed(run) for run in runs) <= 1
    if n <= 46 and memory > 0.9:
        assert sum("overfits" in noticed(run, paired=False) for run in runs) > 20


@pytest.mark.parametrize("n", [20, 46, 1000])
def test_overfitting_is_told_all_the_same(n):
    """Each datum loses at its own pace, on average 0.03 nats an epoch from epoch 20 on."""
    generator = torch.Generator().manual_seed(1)
    told = 0
    for _ in range(50):
        pace = -0.03 * torch.rand(n, generator=generator) * 2
        since = (torch.arange(EPOCHS) - 20).clamp_min(0)[:, None]
        told += "overfits" in noticed(null(n, 0.5, False, generator) / 3 + pace * since)
    assert told >= 49


def test_chance_is_that_of_paired_differences():
    """Truth: SciPy's t-test."""
    from scipy.stats import ttest_rel

    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 30, generator=generator, dtype=torch.float64)
    shift = chance(a, b) - (a - b).mean()
    assert ttest_rel(a + shift, b, alternative="greater").pvalue == pytest.approx(1e-4)
    assert chance(a, a[:1]) == math.inf
    assert chance(None, b) == pytest.approx(chance(b + math.sqrt(2) * b, b))
    assert far_below(-6.0, -5.0, 0.9)
    assert not far_below(-6.0, -5.0, 1.1)
    assert not far_below(-6.0, -5.0, math.inf)


def test_far_down_is_what_moves_the_mean():
    values = torch.linspace(-5, -4, 101)
    assert not far_down(values).any()
    values[3], values[7], values[9] = -1e20, -math.inf, math.nan
    assert far_down(values).nonzero().flatten().tolist() == [3]
    assert not far_down(torch.full((3,), math.nan)).any()


def reals(wild=()):
    torch.manual_seed(0)
    x = torch.randn(60, 3)
    held = torch.randn(12, 3)
    for row, value in wild:
        held[row] = value
    return x, held


def trained(held, objective=None, *, epochs=6, **options):
    torch.manual_seed(1)
    vae = build(
        Spec((3,), 2, network="mlp(hidden=(8,))", likelihood="gaussian(scale=1.0)")
    )
    return fit(
        vae,
        reals()[0],
        objective,
        epochs=epochs,
        learning_rate=0.03,
        validation=held,
        **options,
    )


@pytest.mark.parametrize(
    "objective", [None, ELBO(), IWAE(num_particles=4)], ids=["default", "elbo", "iwae"]
)
def test_a_wild_datum_is_named_once_and_left_out(objective):
    """The rest is judged as if the datum had never been there."""
    _, held = reals([(4, 1e25)])
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        history = trained(held, objective)
    (text,) = [str(w.message) for w in said if issubclass(w.category, TrainingWarning)]
    assert "datum 4 (counted from 0) of the validation data has no finite ELBO" in text
    assert all(
        math.isfinite(e.validation_elbo) and math.isfinite(e.score) for e in history
    )
    assert history.best.score == max(e.score for e in history)
    calm = trained(reals([(4, 0.0)])[1], objective)
    for e, f in zip(history, calm, strict=True):
        assert e.elbo == f.elbo  # nothing else has changed


def test_patience_goes_by_the_rest():
    _, held = reals([(0, 1e25)])
    with pytest.warns(TrainingWarning, match="wild: datum 0"):
        history = trained(held, epochs=300, patience=3)
    assert len(history) < 300
    assert len(history) - history.best.epoch == 3


def test_a_datum_that_moves_the_mean_is_named_and_kept():
    _, held = reals([(2, 20.0)])
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        history = trained(held)
    (text,) = [str(w.message) for w in said if issubclass(w.category, TrainingWarning)]
    assert "datum 2 (counted from 0) of the validation data has an ELBO so low" in text
    assert history[-1].validation_elbo < -100


def test_when_most_are_lost_training_ends():
    _, held = reals([(i, 1e25) for i in range(7)])
    with pytest.raises(
        InputError, match=r"after epoch 1 is (nan|-inf) for 7 of 12 data"
    ):
        trained(held)


def test_the_best_epoch_is_judged_anew_without_what_is_left_out():
    each = torch.tensor([[-1.0, -9.0], [-2.0, -3.0]], dtype=torch.float64)
    progress = Progress()
    for i, values in enumerate(each):
        mean = values.mean().item()
        e = Epoch(i + 1, -5.0, 0, 3.0, 0, mean, 0, 0, mean, 0.1, 1.0, 1.0)
        progress.close(e, torch.stack([values, values]))
    assert (progress.best_epoch, progress.best) == (2, -2.5)
    progress.leave_out([1])
    assert (progress.best, progress.best_elbo) == (-2.0, -2.0)


def test_a_run_names_the_row_of_the_file_and_goes_on_exactly(call, tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 3))
    splits = {"train": x[:60], "validation": x[60:70].copy(), "test": x[70:]}
    splits["validation"][7] = 1e25
    np.savez(tmp_path / "x.npz", **splits)
    tiny = (
        "--network",
        "mlp(hidden=(8,))",
        "--latent-dim",
        2,
        "--likelihood",
        "gaussian",
    )
    tiny = ("--dataset", tmp_path / "x.npz", *tiny)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    said = call("train", *tiny, "--epochs", 4, "--output", whole)
    assert said.code == 0, said.err
    lines = [line for line in said.out.splitlines() if line.startswith("wild ")]
    assert len(lines) == 1
    assert "row 7 (counted from 0)" in lines[0]
    assert lines[0].endswith("look at that datum")
    assert call("train", *tiny, "--epochs", 2, "--output", parts).code == 0
    again = call("train", "--resume", parts, "--epochs", 4)
    assert again.code == 0
    assert "wild " not in again.out
    rows = [(run / "metrics.csv").read_text().splitlines() for run in (whole, parts)]
    kept = [i for i, name in enumerate(rows[0][0].split(",")) if "second" not in name]
    first, second = ([[line.split(",")[i] for i in kept] for line in r] for r in rows)
    assert first == second
