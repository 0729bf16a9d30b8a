"""The average of the weights: what it is, who reads it, and that a run that was stopped goes on with it."""

import math
import os
import signal
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from safetensors.torch import load_file

from pyro_vae import ELBO, SVI, InputError, Spec, StandardNormal, build, fit
from pyro_vae.engine import compiled
from pyro_vae.inference.averaging import Average
from pyro_vae.inference.em import EM
from pyro_vae.inference.fit import Turn, run_epochs
from pyro_vae.priors import GaussianMixture
from reading import TINY, assert_same_run, rows, same, weights

DECAY = 0.8


@pytest.fixture
def interpreted(monkeypatch):
    """Graphs without a compiler: every operation of them by PyTorch."""
    monkeypatch.setattr(compiled, "compile_graph", lambda graph: graph.module)


def bits(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, 4, generator=generator).round().double()


def make(**parts):
    torch.manual_seed(0)
    network = {"network": "mlp(hidden=(5,), norm='batch')"}
    return build(Spec((4,), 2, **network | parts)).double()


def an_svi(vae, **options):
    return SVI(
        vae.model,
        vae.guide,
        lambda p: torch.optim.Adam(p, lr=0.05, fused=True),
        ELBO(),
        reduction="mean",
        **options,
    )


def numbers(vae):
    """All that a checkpoint keeps of a pair, copied."""
    return {k: v.clone() for k, v in vae.state_dict().items() if v.is_floating_point()}


def by_hand(states):
    """`(1 - d) sum_s d^(t - s) w_s / (1 - d^t)`, added up."""
    shares = [DECAY ** (len(states) - 1 - s) for s in range(len(states))]
    total = sum(shares)
    return {
        k: sum(c * state[k] for c, state in zip(shares, states, strict=True)) / total
        for k in states[0]
    }


def assert_close(found, wanted):
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, msg=name)


@pytest.mark.parametrize("compile", [False, True], ids=["eager", "compiled"])
def test_the_average_is_that_of_the_recorded_weights(interpreted, compile):
    """Running means and variances of batch normalisation with them."""
    vae, states = make(), []
    svi = an_svi(vae, average=DECAY, compile=compile)
    for _ in range(12):
        svi.step(bits(20))
        states.append(numbers(vae))
        with svi.averaged():
            assert_close(numbers(vae), by_hand(states))
        assert same(numbers(vae), states[-1])
    assert svi.compiled is compile
    changed = {k for k in states[0] if not torch.equal(states[0][k], states[-1][k])}
    assert any("running_mean" in name for name in changed)


def test_the_steps_are_the_same_with_an_average():
    plain, averaged = make(), make()
    for vae, options in ((plain, {}), (averaged, {"average": DECAY})):
        svi = an_svi(vae, **options)
        torch.manual_seed(1)
        for _ in range(5):
            svi.step(bits(20))
            with svi.averaged():
                pass
    assert same(numbers(plain), numbers(averaged))


@pytest.mark.parametrize("compile", [False, True], ids=["eager", "compiled"])
def test_validation_is_of_the_average_and_fit_leaves_it(interpreted, compile):
    """Truth: the validation of a run that begins with the average and takes no step."""
    vae = make()
    torch.manual_seed(3)
    history = fit(
        vae,
        bits(40),
        epochs=3,
        batch_size=10,
        learning_rate=0.05,
        average=DECAY,
        validation=bits(30, seed=1),
        compile=compile,
    )
    still = SVI(
        vae.model,
        vae.guide,
        lambda p: torch.optim.SGD(p, lr=0.0),
        ELBO(),
        reduction="mean",
    )
    with torch.no_grad():
        for module in vae.modules():  # which a step without a rate would still move
            if hasattr(module, "momentum"):
                module.momentum = 0.0
    (epoch,) = run_epochs(
        still, bits(40), epochs=1, learning_rate=0.0, validation=bits(30, seed=1)
    )
    assert epoch.validation_elbo == pytest.approx(history[-1].validation_elbo)
    without = make()
    torch.manual_seed(3)
    plain = fit(
        without,
        bits(40),
        epochs=3,
        batch_size=10,
        learning_rate=0.05,
        validation=bits(30, seed=1),
    )
    assert [e.loss for e in plain] == pytest.approx([e.loss for e in history])
    assert plain[-1].validation_elbo != pytest.approx(history[-1].validation_elbo)


def test_it_begins_anew_where_weights_are_set_outright():
    """As where the parts of p(z) are sought among the codes: what was before them is no noise."""
    vae, states = make(network="mlp(hidden=(5,))"), []
    svi = an_svi(vae, average=DECAY)
    take = svi.step_and_record

    def recorded(*args):
        found = take(*args)
        states.append(numbers(vae))
        return found

    def jump():
        with torch.no_grad():
            vae.model.decoder.layers[-1].bias.add_(5.0)

    svi.step_and_record = recorded
    turn = Turn(after=2, take=jump)
    options = {"epochs": 3, "batch_size": 10, "learning_rate": 0.05, "turn": turn}
    list(run_epochs(svi, bits(30), **options, remark=lambda said: None))
    assert len(states) == 9
    with svi.averaged():
        assert_close(numbers(vae), by_hand(states[6:]))


def test_a_second_prior_is_averaged_and_nothing_else_moves():
    vae = make()
    fit(vae, bits(20), epochs=1)
    second = vae.with_prior(GaussianMixture(2, components=3))
    before = numbers(second)
    fit(second, bits(40), epochs=2, only="prior", average=DECAY, start=False)
    after = numbers(second)
    moved = {k for k in before if not torch.equal(before[k], after[k])}
    assert moved
    assert all(name.startswith("model.prior.") for name in moved)


def test_parameters_in_pyros_store_are_averaged(interpreted):
    """A pair of functions, trained by Pyro's rules."""
    x = torch.randn(30, generator=torch.Generator().manual_seed(0)) + 3

    def model(x):
        loc = pyro.sample("loc", dist.Normal(0.0, 10.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x)

    def guide(x):
        loc = pyro.param("q_loc", torch.tensor(0.0))
        scale = pyro.param("q_scale", torch.tensor(1.0), dist.constraints.positive)
        pyro.sample("loc", dist.Normal(loc, scale))

    for by_graph in (False, True):
        pyro.clear_param_store()
        svi = SVI(
            model,
            guide,
            lambda p: torch.optim.SGD(p, lr=0.01),
            pyro.infer.Trace_ELBO(),
            average=DECAY,
            compile=by_graph,
        )
        states = []
        for _ in range(8):
            svi.step(x)
            store = pyro.get_param_store()
            state = {k: v.detach().clone() for k, v in store._params.items()}
            states.append(state)
        with svi.averaged():
            found = {k: v.detach().clone() for k, v in store._params.items()}
        assert_close(found, by_hand(states))


def test_nothing_happens_before_the_first_step():
    vae = make()
    before = numbers(vae)
    with an_svi(vae, average=DECAY).averaged():
        assert same(numbers(vae), before)
    assert fit(make(), bits(8), epochs=0, average=DECAY) == []


@pytest.mark.parametrize("bad", [0, 1, -0.1, 2, math.nan, "a", True])
def test_senseless_decays_are_refused(bad):
    with pytest.raises(InputError, match=r"average=.* of fit must be a number"):
        fit(make(), bits(8), epochs=1, average=bad)
    with pytest.raises(InputError, match=r"average=.* of SVI must be a number"):
        an_svi(make(), average=bad)
    with pytest.raises(InputError, match=r"decay=.* of Average must be a number"):
        Average(bad)


def test_em_has_no_steps_to_average():
    parts = {"network": "linear", "guide": "exact", "likelihood": "gaussian"}
    vae = make(**parts)
    assert isinstance(vae.model.prior, StandardNormal)
    with pytest.raises(InputError, match=r"average=0\.8 goes with gradients"):
        fit(vae, torch.rand(20, 4).double(), epochs=1, optimizer=EM, average=DECAY)


# The programs

AVERAGED = (*TINY, "--average", 0.9, "--learning-rate", 0.01)


@pytest.mark.usefixtures("in_a_folder_of_its_own", "blank_figures")
@pytest.mark.parametrize(
    "options",
    [
        ("--network", "mlp(hidden=(8,), norm='batch')"),
        ("--optimizer", "adamnormgrad"),
        ("--prior", "gaussianmixture(components=3, start=3)"),
        ("--guide", "codebook(size=8)", "--prior", "codes"),
    ],
    ids=["batch norm", "normalised", "sought", "codebook"],
)
def test_a_resumed_run_is_the_uninterrupted_one(call, train, options):
    """Interrupted inside an epoch, and between two."""
    taken, take_step = 0, SVI.step_and_record

    def interrupted(*args, **kwargs):
        nonlocal taken
        taken += 1
        if taken == 20:
            os.kill(os.getpid(), signal.SIGINT)
        return take_step(*args, **kwargs)

    whole = train("whole", "--epochs", 5, *AVERAGED, *options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SVI, "step_and_record", interrupted)
        stopped = call("train", "--epochs", 5, *AVERAGED, *options, "--output", "parts")
    assert stopped.code == 130
    assert call("train", "--resume", "parts").code == 0
    assert_same_run(whole, Path("parts"))


@pytest.mark.usefixtures("in_a_folder_of_its_own", "blank_figures")
def test_a_run_keeps_the_average(call, train):
    run = train("run", "--epochs", 4, *AVERAGED)
    last, state = weights(run), load_file(run / "last.safetensors")
    own = {k: v for k, v in state.items() if k.startswith("training.")}
    assert {k.removeprefix("training.") for k in own} == {
        k.removeprefix("model.") for k, v in last.items() if v.is_floating_point()
    }
    assert not same(last, {k.replace("training.", "model."): v for k, v in own.items()})
    best = max(rows(run), key=lambda row: float(row["validation_elbo"]))
    assert best["epoch"] == "4"
    assert same(weights(run, "best"), last)
    assert not any(
        k.startswith("training.") for k in load_file(run / "best.safetensors")
    )
    plain = train("plain", "--epochs", 4, *TINY, "--learning-rate", 0.01)
    names = {k.removeprefix("model.") for k in last}
    raw = weights(plain)
    assert all(torch.equal(raw[f"model.{k}"], own[f"training.{k}"]) for k in names)


@pytest.mark.usefixtures("in_a_folder_of_its_own", "blank_figures")
def test_the_program_says_which_weights_it_keeps(call):
    said = call("train", "--epochs", 1, *AVERAGED, "--output", "run")
    assert (
        "average    of the weights over about the last 10 steps, decay 0.9: what is validated and kept"
        in said.out
    )
    assert "after epoch 1, of averaged weights" in said.out
    assert "average = 0.9" in Path("run/config.toml").read_text()
    second = call(
        "train",
        "--from",
        "run",
        "--prior",
        "gaussianmixture",
        "--epochs",
        1,
        "--average",
        0.5,
        "--output",
        "second",
    )
    assert second.code == 0, second.err
    assert "decay 0.5" in second.out
    kept, before = weights(Path("second"), "best"), weights(Path("run"), "best")
    assert all(torch.equal(kept[k], v) for k, v in before.items() if "prior" not in k)
    em = ("--network", "linear", "--guide", "exact", "--likelihood", "gaussian")
    refused = call("train", *em, "--optimizer", "em", "--average", 0.9)
    assert (refused.code, refused.err) == (
        2,
        "pyro_vae.train: --average 0.9 goes with gradients, and --optimizer em takes none: leave it out\n",
    )


@pytest.mark.parametrize("bad", [0, 1, 1.5, -1, "nan"])
def test_a_senseless_average_names_the_option(call, bad):
    said = call("train", "--average", bad)
    assert said.code == 2
    wanted = f"--average {float(bad):g} must lie between 0 and 1, both left out, as 0.999 does"
    assert said.err == f"pyro_vae.train: {wanted}\n"
