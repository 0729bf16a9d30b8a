"""What `fit` does while it trains: its bar, what it is told to stop by, and what it leaves behind."""

import io
import re
import signal

import numpy as np
import pytest
import torch

from pyro_vae import InputError, Spec, build, fit, log_marginal
from pyro_vae.inference.fit import NonFiniteLossError

X = torch.rand(60, 4, generator=torch.Generator().manual_seed(0)).round()
USUAL = {"batch_size": 20, "learning_rate": 0.01}


def make():
    torch.manual_seed(0)
    return build(Spec((4,), 2, network="mlp(hidden=(5,))"))


def weights(vae):
    return {name: value.clone() for name, value in vae.state_dict().items()}


def after(epochs, **options):
    """The weights of a training of so many epochs that nothing disturbs."""
    vae = make()
    torch.manual_seed(1)
    fit(vae, X, epochs=epochs, **USUAL, **options)
    return weights(vae)


def same(first, second):
    return all(torch.equal(first[name], second[name]) for name in second)


@pytest.mark.parametrize("yes", [True, np.True_])
def test_a_report_that_returns_true_ends_training(yes):
    vae, seen = make(), []
    torch.manual_seed(1)

    def report(epoch):
        seen.append(epoch.epoch)
        return yes if epoch.epoch == 3 else None

    history = fit(vae, X, epochs=9, report=report, **USUAL)
    assert seen == [1, 2, 3] == [epoch.epoch for epoch in history]
    assert same(weights(vae), after(3))


def test_a_report_that_returns_anything_else_ends_nothing():
    for other in (1, "yes", [0], torch.ones(()), False):
        assert len(fit(make(), X, epochs=2, report=lambda e: other, **USUAL)) == 2  # noqa: B023


class PrunedError(Exception):
    """As of a search that gives a trial up."""


@pytest.mark.parametrize("average", [None, 0.5])
def test_what_a_report_raises_is_raised_and_the_pair_stays_usable(average):
    vae = make()
    torch.manual_seed(1)

    def report(epoch):
        if epoch.epoch == 2:
            raise PrunedError

    with pytest.raises(PrunedError):
        fit(vae, X, epochs=9, report=report, average=average, **USUAL)
    assert same(weights(vae), after(2, average=average))
    assert len(fit(vae, X, epochs=1, **USUAL)) == 1


def interrupting(at):
    """A schedule that sends the signal of Ctrl-C once, in the step at this share of the run."""
    sent = []

    def schedule(t):
        if armed and t >= at and not sent:
            sent.append(t)
            signal.raise_signal(signal.SIGINT)
        return 1.0

    armed = []
    return schedule, armed


@pytest.mark.parametrize("keep", ["last", "best"])
def test_an_interrupt_says_how_far_training_came(keep):
    """In the second step of the third of four epochs of three steps."""
    vae = make()
    torch.manual_seed(1)
    schedule, armed = interrupting(7 / 12)
    with pytest.raises(KeyboardInterrupt) as stop:
        fit(
            vae,
            X,
            epochs=4,
            schedule=schedule,
            keep=keep,
            validation=X,
            report=armed.append,
            **USUAL,
        )
    said = str(stop.value)
    assert "epoch 3 of 4, after 20 of 60 data" in said
    assert ("epoch 2, the best" in said) == (keep == "best")
    if keep == "best":
        assert same(weights(vae), after(2, validation=X))
    assert log_marginal(vae, X, num_particles=10).values.isfinite().all()
    assert len(fit(vae, X, epochs=1, **USUAL)) == 1


def test_after_a_loss_that_is_not_finite_the_best_weights_are_there():
    vae, broken = make(), []

    def report(epoch):
        if epoch.epoch == 2:
            broken.append(weights(vae))
            with torch.no_grad():
                next(vae.model.decoder.parameters()).fill_(torch.inf)

    with pytest.raises(NonFiniteLossError):
        fit(vae, X, epochs=9, report=report, keep="best", validation=X, **USUAL)
    assert same(weights(vae), broken[0])


def test_patience_without_validation_goes_by_the_training_elbo():
    vae = make()
    history = fit(vae, X, epochs=40, batch_size=20, learning_rate=0.0, patience=3)
    scores = [epoch.score for epoch in history]
    assert scores == [epoch.elbo for epoch in history]
    assert len(history) == history.best.epoch + 3 < 40


def test_patience_and_the_best_weights():
    vae, seen = make(), {}
    history = fit(
        vae,
        X[:20],
        epochs=300,
        batch_size=20,
        learning_rate=0.1,
        validation=X[20:],
        patience=2,
        keep="best",
        report=lambda e: seen.update({e.epoch: weights(vae)}),
    )
    assert len(history) == history.best.epoch + 2
    assert same(weights(vae), seen[history.best.epoch])
    assert not same(weights(vae), seen[len(history)])


def watched(monkeypatch):
    """What is written to a terminal of 120 columns, once a test runs."""
    screen = io.StringIO()
    screen.isatty = lambda: True
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setenv("COLUMNS", "120")
    return screen


def test_the_bar_names_epoch_elbo_validation_and_speed(monkeypatch):
    terminal = watched(monkeypatch)
    history = fit(make(), X, epochs=3, validation=X, **USUAL)
    last = terminal.getvalue().rstrip().rpartition("\r")[2]
    elbo, validation = history[-1].elbo, history[-1].validation_elbo
    assert last.startswith("epoch 3/3 100%")
    assert re.search(r"data/s|s/ data", last)
    assert f"ELBO {elbo:.2f}, validation {validation:.2f}" in last


def test_the_bar_of_a_training_that_ends_early_ends_where_it_is(monkeypatch):
    terminal = watched(monkeypatch)
    fit(make(), X, epochs=30, report=lambda e: e.epoch == 2, **USUAL)
    last = terminal.getvalue().rstrip().rpartition("\r")[2]
    assert last.startswith("epoch 2/30 100%")


def test_the_bar_is_there_where_it_is_seen_or_asked_for(monkeypatch):
    terminal = watched(monkeypatch)
    fit(make(), X, epochs=2, progress=False, **USUAL)
    assert not terminal.getvalue()
    monkeypatch.setattr(terminal, "isatty", lambda: False)
    fit(make(), X, epochs=2, **USUAL)
    assert not terminal.getvalue()
    fit(make(), X, epochs=2, progress=True, **USUAL)
    assert "epoch 2/2" in terminal.getvalue()


def test_nothing_is_left_of_the_bar_of_a_training_that_is_refused(monkeypatch):
    terminal = watched(monkeypatch)
    with pytest.raises(InputError, match="compile"):
        fit(make(), X, epochs=3, compile="perhaps", **USUAL)
    assert not terminal.getvalue().rpartition("\r")[2].strip()
    assert not terminal.getvalue().endswith("\n")


def test_a_fit_inside_another_shows_no_bar_of_its_own(monkeypatch):
    terminal = watched(monkeypatch)

    def report(epoch):
        fit(make(), X[:20], epochs=7, batch_size=20)

    history = fit(make(), X, epochs=2, report=report, **USUAL)
    assert len(history) == 2
    assert "/2 " in terminal.getvalue()
    assert "/7 " not in terminal.getvalue()
    fit(make(), X, epochs=5, **USUAL)
    assert "epoch 5/5" in terminal.getvalue()


def test_the_bar_changes_no_number():
    quiet = after(3, progress=False)
    assert same(after(3, progress=True), quiet)


def test_a_bar_that_is_no_yes_or_no():
    with pytest.raises(InputError, match="progress='yes' of fit"):
        fit(make(), X, epochs=1, progress="yes")
