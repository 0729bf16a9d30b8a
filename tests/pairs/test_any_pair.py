"""Pairs that are written with Pyro alone: the numbers of `pyro.infer.SVI`, compiled or not."""

import copy
import functools
import gc
import threading
import warnings
import weakref

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.distributions import constraints
from pyro.distributions.testing.fakes import NonreparameterizedNormal
from pyro.infer import RenyiELBO, Trace_ELBO, TraceEnum_ELBO, TraceGraph_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule, PyroParam, PyroSample
from torch import nn

from benchmarks.zoo import PAIRS, regression, regression_data
from pyro_vae import ELBO, IWAE, SVI, CompileWarning, Spec, build
from pyro_vae.engine import compiled
from pyro_vae.engine.bindings import Bindings
from pyro_vae.engine.compiled import Compiled, trace
from pyro_vae.engine.readings import ReadingError, Readings
from pyro_vae.foundation.errors import InputError

ADAM = {"lr": 0.01}


@pytest.fixture
def interpreted(monkeypatch):
    """Graphs run operation by operation, which are made in a moment."""
    monkeypatch.setattr(compiled, "LARGE", 0)


def number(loss):
    return tuple(map(float, loss)) if isinstance(loss, tuple) else float(loss)


def losses(engine, pair, steps, optim=None, args=None):
    """The losses of some steps from the same start, and what took them."""
    pyro.set_rng_seed(0)
    svi = engine(pair.model, pair.guide, optim or pyro.optim.Adam(ADAM), pair.loss)
    args = [pair.args] * steps if args is None else args
    return [number(svi.step(*a)) for a in args], svi


def both(make, steps, engine=SVI, **options):
    """Losses of Pyro's SVI and of ours, each from a store of its own."""
    pyro.clear_param_store()
    theirs, _ = losses(pyro.infer.SVI, make(), steps, **options)
    pyro.clear_param_store()
    ours, svi = losses(engine, make(), steps, **options)
    return theirs, ours, svi


def compiling(*args):
    """An SVI that compiles, and fails where it cannot."""
    svi = SVI(*args)
    svi.compile(warn=pytest.fail)
    return svi


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", list(PAIRS))
def test_losses_are_those_of_pyro(name):
    theirs, ours, _ = both(PAIRS[name], 5)
    assert ours == theirs


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", list(PAIRS))
def test_graphs_give_the_losses_of_pyro(interpreted, name):
    theirs, ours, svi = both(PAIRS[name], 12, compiling)
    assert svi.compiled
    torch.testing.assert_close(
        torch.tensor(ours), torch.tensor(theirs), rtol=1e-4, atol=1e-3
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "name",
    [
        "regression, AutoNormal",
        "regression, AutoMultivariateNormal",
        "gamma poisson wake sleep",
        "bayesian network",
        "discrete guide TraceGraph ELBO",
        "subsampled data",
        "VAE by hand",
    ],
)
def test_machine_code_gives_the_losses_of_pyro(name):
    theirs, ours, svi = both(PAIRS[name], 25, compiling)
    assert svi.compiled
    torch.testing.assert_close(
        torch.tensor(ours), torch.tensor(theirs), rtol=1e-4, atol=1e-3
    )


@pytest.mark.parametrize("compiler", [True, False])
@pytest.mark.parametrize(
    "name", ["regression, AutoNormal", "discrete guide Trace ELBO"]
)
def test_a_large_graph_becomes_machine_code_when_that_is_repaid(
    interpreted, monkeypatch, name, compiler
):
    """After calls by which interpreting took as long as compiling takes; where no compiler is, it goes on as it is."""
    monkeypatch.setattr(compiled, "REPAID", 7)
    if not compiler:
        monkeypatch.setattr(compiled, "compile_graph", lambda graph: 1 / 0)
    ways = []

    def engine(*args):
        svi = compiling(*args)
        step = svi.step

        def watched(*data):
            loss = step(*data)
            ways.append([entry.machine for entry in svi._compiled._graphs.values()])
            return loss

        svi.step = watched
        return svi

    theirs, ours, _ = both(PAIRS[name], 12, engine)
    assert ours == pytest.approx(theirs, rel=1e-4)
    assert ways == [[], *[[False]] * 6, *[[compiler]] * 5]


# ---------------------------------------------------------------------------------------------------------------------
# Parameters


def normal(x):
    m = pyro.sample("m", dist.Normal(0.0, 10.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(m, 1.0), obs=x)


def location(x):
    pyro.sample("m", dist.Normal(pyro.param("loc", torch.tensor(0.0)), 1.0))


def point(x):
    """A model with a parameter alone."""
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(pyro.param("m", torch.tensor(0.0)), 1.0), obs=x)


def nothing(*_, **__):
    pass


class Located(PyroModule):
    def __init__(self):
        super().__init__()
        self.loc = PyroParam(torch.tensor(0.0))
        self.scale = PyroParam(torch.tensor(1.0), constraint=constraints.positive)

    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(self.loc, self.scale), obs=x)


class ByParam(PyroModule):
    def forward(self, x):
        pyro.sample("m", dist.Normal(pyro.param("loc", torch.tensor(0.0)), 1.0))


class Plain(nn.Module):
    """A torch module that calls both `pyro.param` and `pyro.module`."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(1, 1)

    def forward(self, x):
        sd = pyro.param("sd", torch.tensor(1.0), constraint=constraints.positive)
        pyro.module("net", self.net)
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(self.net(x[:, None])[:, 0], sd), obs=3 * x)


class Bound:
    def __init__(self):
        self.net = nn.Sequential(nn.Dropout(0.5), nn.Linear(1, 1))

    def model(self, x):
        pyro.module("net", self.net)
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(self.net(x[:, None])[:, 0], 1.0), obs=3 * x)


def called(module):
    def model(x):
        module(x)

    return model


WAYS = {
    "pyro.param": lambda: (point, nothing),
    "pyro.param in a Pyro module": lambda: (normal, ByParam()),
    "Pyro module": lambda: (Located(), nothing),
    "scaled Pyro module": lambda: (poutine.scale(Located(), scale=0.1), nothing),
    "Pyro module in a function": lambda: (called(Located()), nothing),
    "partial": lambda: (functools.partial(lambda m, x: m(x), Located()), nothing),
    "torch module with pyro.param": lambda: (Plain(), nothing),
    "bound method": lambda: (Bound().model, nothing),
    "AutoGuide": lambda: (normal, AutoNormal(normal)),
    "two Pyro modules with the same names": lambda: (Observed(), Drawn()),
}


class Drawn(PyroModule):
    """A model or guide with parameters of the names that others of the class have."""

    def __init__(self):
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(2))
        self.scale = PyroParam(torch.ones(2), constraint=constraints.positive)
        self.z = PyroSample(lambda self: dist.Normal(self.loc, self.scale).to_event(1))

    def forward(self, x):
        m, s = self.z.unbind(-1)
        return m, s.exp()


class Observed(Drawn):
    def forward(self, x):
        m, s = super().forward(x)
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Cauchy(m, s), obs=x)


class Zoo:
    def __init__(self, model, guide, args, loss=None):
        self.model, self.guide, self.args, self.loss = (
            model,
            guide,
            args,
            loss or Trace_ELBO(),
        )


X = torch.randn(20, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("way", list(WAYS))
def test_every_parameter_that_pyro_trains_is_trained(way):
    def make():
        torch.manual_seed(1)
        return Zoo(*WAYS[way](), (X,))

    theirs, ours, _ = both(make, 30)
    assert ours == theirs
    assert len(set(ours)) > 20


def test_parameters_of_plain_modules_are_trained_without_being_announced():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.loc = nn.Parameter(torch.tensor(0.0))

        def forward(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Normal(self.loc, 1.0), obs=x)

    model = Model()
    svi = SVI(model, nothing, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
    for _ in range(200):
        svi.step(X + 5)
    assert model.loc.item() == pytest.approx((X + 5).mean().item(), abs=0.01)


@pytest.mark.filterwarnings("ignore:weight was not registered")
def test_frozen_parameters_stay_and_released_ones_move():
    net = nn.Linear(1, 1)

    def model(x):
        pyro.module("net", net)
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(net(x[:, None])[:, 0], 1.0), obs=x)

    svi = SVI(model, nothing, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
    net.weight.requires_grad_(False)
    before = net.weight.clone()
    svi.step(X)
    assert torch.equal(net.weight, before)
    net.weight.requires_grad_(True)
    svi.step(X)
    assert not torch.equal(net.weight, before)


@pytest.mark.parametrize("engine", [SVI, compiling])
def test_a_store_that_is_set_back_is_followed(interpreted, engine):
    def run(engine):
        pyro.clear_param_store()
        svi = engine(point, nothing, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
        for _ in range(5):
            svi.step(X)
        state = pyro.get_param_store().get_state()
        kept = copy.deepcopy(state)
        for _ in range(5):
            svi.step(X)
        pyro.get_param_store().set_state(kept)
        return [float(svi.step(X)) for _ in range(5)]

    assert run(engine) == pytest.approx(run(pyro.infer.SVI), rel=1e-5)


@pytest.mark.parametrize("engine", [SVI, compiling])
def test_a_store_that_is_cleared_starts_anew(interpreted, engine):
    svi = engine(point, nothing, pyro.optim.SGD({"lr": 0.001}), Trace_ELBO())
    first = [float(svi.step(X)) for _ in range(4)]
    pyro.clear_param_store()
    assert [float(svi.step(X)) for _ in range(4)] == pytest.approx(first, rel=1e-5)


# ---------------------------------------------------------------------------------------------------------------------
# Optimizers

OPTIMIZERS = {
    "clipped norm": lambda: pyro.optim.SGD({"lr": 1e-3}, {"clip_norm": 1.0}),
    "clipped value": lambda: pyro.optim.Adam({"lr": 1e-2}, {"clip_value": 0.5}),
    "ClippedAdam": lambda: pyro.optim.ClippedAdam({"lr": 1e-2, "lrd": 0.9}),
    "AdagradRMSProp": lambda: pyro.optim.AdagradRMSProp({}),
    "by name": lambda: pyro.optim.Adam(
        lambda name: {"lr": 0.1 if "loc" in name else 0.001}
    ),
    "amsgrad": lambda: pyro.optim.Adam({"lr": 0.1, "amsgrad": True}),
}


@pytest.mark.parametrize("engine", [SVI, compiling])
@pytest.mark.parametrize("optim", list(OPTIMIZERS))
def test_optimizers_of_pyro_do_what_they_do_in_pyro(interpreted, engine, optim):
    make = PAIRS["subsampled data"]
    pyro.clear_param_store()
    theirs, _ = losses(pyro.infer.SVI, make(), 20, optim=OPTIMIZERS[optim]())
    pyro.clear_param_store()
    ours, _ = losses(engine, make(), 20, optim=OPTIMIZERS[optim]())
    assert ours == pytest.approx(theirs, rel=1e-4)


@pytest.mark.parametrize("engine", [SVI, compiling])
def test_rates_follow_a_schedule(interpreted, engine):
    def run(engine):
        pyro.clear_param_store()
        options = {
            "optimizer": torch.optim.SGD,
            "optim_args": {"lr": 1e-3},
            "gamma": 0.1,
        }
        optim = pyro.optim.ExponentialLR(options)
        svi = engine(point, nothing, optim, Trace_ELBO())
        for _ in range(5):
            svi.step(X + 100)
            optim.step()
        return pyro.param("m").item()

    assert run(engine) == pytest.approx(run(pyro.infer.SVI), rel=1e-6)


@pytest.mark.parametrize("engine", [SVI, compiling])
def test_the_state_of_an_optimizer_is_saved_and_loaded_by_name(
    interpreted, engine, tmp_path
):
    def steps(engine, optim, count):
        svi = engine(point, nothing, optim, Trace_ELBO())
        return [float(svi.step(X + 3)) for _ in range(count)]

    whole = steps(engine, pyro.optim.Adam({"lr": 0.1}), 12)
    pyro.clear_param_store()
    optim = pyro.optim.Adam({"lr": 0.1})
    first = steps(engine, optim, 6)
    assert list(optim.get_state()) == ["m"]
    optim.save(tmp_path / "state.pt")
    again = pyro.optim.Adam({"lr": 0.1})
    again.load(tmp_path / "state.pt")
    assert first + steps(engine, again, 6) == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize("engine", [SVI, compiling])
def test_gradients_that_wait_are_added(interpreted, engine):
    def run(engine):
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        svi = engine(normal, location, pyro.optim.Adam(ADAM), Trace_ELBO())
        values = []
        for step in range(12):
            if step % 3 == 0:
                svi.loss_and_grads(normal, location, X - 100)
            values.append(float(svi.step(X + step)))
        return values

    torch.testing.assert_close(run(engine), run(pyro.infer.SVI), rtol=1e-6, atol=0)


def test_two_svis_share_the_moments_of_one_optimizer():
    def run(engine):
        pyro.clear_param_store()
        optim = pyro.optim.Adam({"lr": 0.1})
        one, other = (engine(point, nothing, optim, Trace_ELBO()) for _ in range(2))
        for i in range(10):
            (one if i % 2 else other).step(X if i % 2 else -X)
        return pyro.param("m").item()

    assert run(SVI) == run(pyro.infer.SVI)


@pytest.mark.parametrize("engine", [SVI, compiling])
def test_momentum_moves_what_a_batch_does_not_use(interpreted, engine):
    """As in Pyro: its gradient is zero there, not absent."""

    def run(engine):
        pyro.clear_param_store()
        torch.manual_seed(0)
        a, b = nn.Linear(1, 1), nn.Linear(1, 1)

        def model(x, kind):
            pyro.module("a", a)
            pyro.module("b", b)
            with pyro.plate("data", len(x)):
                pyro.sample(
                    "x", dist.Normal((a if kind else b)(x)[:, 0], 1.0), obs=x[:, 0]
                )

        svi = engine(model, nothing, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
        return [float(svi.step(X[:, None], i % 2)) for i in range(8)]

    assert run(engine) == pytest.approx(run(pyro.infer.SVI), rel=1e-5)


def test_a_torch_optimizer_with_nothing_to_train_is_refused():
    """Networks in a closure that no `pyro.module` names: `pyro.infer.SVI` steps for ever and trains nothing."""
    network = torch.nn.Linear(1, 1)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            loc = network(z[..., None]).squeeze(-1)
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 1.0))

    svi = SVI(model, guide, lambda p: torch.optim.Adam(p, lr=0.1), ELBO())
    with pytest.raises(
        InputError, match=r"no parameter that can be trained.*pyro\.module"
    ):
        svi.step(torch.zeros(3))


def test_a_torch_optimizer_gets_parameters_that_appear_late():
    svi = SVI(point, nothing, lambda p: torch.optim.SGD(p, lr=1e-3), Trace_ELBO())
    with pytest.raises(InputError, match="made at the first step"):
        _ = svi.optimizer
    first = float(svi.step(X + 3))
    assert float(svi.step(X + 3)) < first
    assert len(svi.optimizer.param_groups[0]["params"]) == 1


@pytest.mark.parametrize("engine", [SVI, compiling])
def test_a_torch_optimizer_gets_what_a_later_kind_of_batch_uses(interpreted, engine):
    """The graph of the first kind is there already; the store is set back in between, too."""

    def model(x, kind):
        with pyro.plate("data", len(x)):
            pyro.sample(
                "x", dist.Normal(pyro.param(f"m{kind}", torch.tensor(0.0)), 1.0), obs=x
            )

    svi = engine(model, nothing, lambda p: torch.optim.SGD(p, lr=1e-2), Trace_ELBO())
    for kind in (0, 0, 0, 1, 1, 1):
        svi.step(X + 3, kind)
    assert pyro.param("m1").item() == pyro.param("m0").item() != 0
    pyro.get_param_store().set_state(copy.deepcopy(pyro.get_param_store().get_state()))
    before = pyro.param("m0").item()
    svi.step(X + 3, 0)
    assert pyro.param("m0").item() > before


@pytest.mark.parametrize("engine", [SVI, compiling])
@pytest.mark.parametrize("own", [True, False])
def test_a_torch_optimizer_of_a_part_trains_that_part_alone(interpreted, engine, own):
    """Two take turns, one for each part; neither leaves the other gradients."""
    torch.manual_seed(0)
    vae = build(Spec((4,), 2, network="mlp(hidden=(8,))"))
    loss = ELBO() if own else TraceGraph_ELBO()
    x = torch.ones(10, 4)
    parts = [list(vae.model.parameters()), list(vae.guide.parameters())]
    svis = [
        engine(vae.model, vae.guide, torch.optim.SGD(p, lr=1e-3), loss) for p in parts
    ]
    for _ in range(3):
        for i, svi in enumerate(svis):
            before = [[p.clone() for p in part] for part in parts]
            svi.step(x)
            assert any(
                not torch.equal(p, q) for p, q in zip(parts[i], before[i], strict=True)
            )
            others = zip(parts[1 - i], before[1 - i], strict=True)
            assert all(torch.equal(p, q) for p, q in others)
            assert all(p.grad is None for part in parts for p in part)


def test_weight_decay_is_the_torch_optimizers():
    with pytest.raises(InputError, match=r"pyro\.optim\.AdamW"):
        SVI(point, nothing, pyro.optim.Adam(ADAM), Trace_ELBO(), weight_decay=0.1)


def test_an_objective_is_held_against_a_pair_before_the_first_step():
    svi = SVI(normal, location, pyro.optim.Adam(ADAM), ELBO())
    with pytest.raises(InputError, match="'m'"):
        svi.check(X)


def test_an_optimizer_of_pyro_is_not_one_torch_optimizer():
    svi = SVI(point, nothing, pyro.optim.Adam(ADAM), Trace_ELBO())
    with pytest.raises(InputError, match=r"see svi\.optim"):
        _ = svi.optimizer


# ---------------------------------------------------------------------------------------------------------------------
# What code does with a pyro.infer.SVI


def test_deprecated_arguments_of_pyros_svi_are_taken():
    with pytest.warns(FutureWarning, match="no effect"):
        svi = SVI(
            normal, location, pyro.optim.Adam(ADAM), Trace_ELBO(), num_samples=100
        )
    svi.step(X)


def test_attributes_of_pyros_svi_are_there():
    optim = pyro.optim.Adam(ADAM)
    svi, theirs = (
        e(point, nothing, optim, Trace_ELBO()) for e in (SVI, pyro.infer.SVI)
    )
    svi.step(X)
    assert svi.optim is optim
    assert svi.loss(point, nothing, X) == theirs.loss(point, nothing, X)
    assert svi.loss_and_grads(point, nothing, X) == theirs.loss_and_grads(
        point, nothing, X
    )
    assert svi.evaluate_loss(X) == theirs.evaluate_loss(X)
    assert float(svi.loss_and_grads(X)[0]) == svi.evaluate_loss(X)
    with pytest.raises(InputError, match="Predictive"):
        svi.run(X)
    expected = theirs.evaluate_loss(X)
    assert f"{svi.step(X):.3f}" == f"{expected:.3f}"


def test_a_validation_loss_of_an_enumerated_model():
    pair = PAIRS["bayesian network"]()
    svi = SVI(pair.model, pair.guide, pyro.optim.Adam(ADAM), pair.loss)
    assert svi.evaluate_loss(*pair.args) == pytest.approx(
        float(svi.step(*pair.args)), rel=1e-5
    )


@pytest.mark.parametrize(
    "loss", [Trace_ELBO(), TraceEnum_ELBO(strict_enumeration_warning=False)]
)
@pytest.mark.filterwarnings("ignore")
def test_a_step_without_a_parameter_is_a_step(loss):
    net = nn.Linear(2, 3)

    def model(x, y=None):
        pyro.module("net", net)
        with pyro.plate("data"):
            if y is not None:
                pyro.sample("y", dist.Categorical(logits=net(x)), obs=y)

    svi = SVI(model, nothing, pyro.optim.Adam(ADAM), loss)
    x, y = torch.randn(5, 2), torch.zeros(5).long()
    svi.step(x, y)
    assert float(svi.step(x)) == 0


def test_a_pair_without_any_tensor_says_so_and_steps(interpreted):
    svi = SVI(nothing, nothing, pyro.optim.Adam(ADAM), Trace_ELBO(), compile=True)
    with pytest.warns(CompileWarning, match="neither a parameter nor a tensor"):
        assert [float(svi.step()) for _ in range(3)] == [0, 0, 0]


def test_what_is_drawn_and_not_used_is_drawn_in_graphs(interpreted):
    def model(x):
        torch.randperm(10)
        normal(x)

    def guide(x):
        torch.randn(3)
        pyro.sample("m", dist.Normal(pyro.param("loc", torch.tensor(0.0)), 1.0))

    theirs, ours, svi = both(lambda: Zoo(model, guide, (X,)), 12, compiling)
    assert svi.compiled
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=0)


def test_validation_is_as_the_user_set_it():
    def model(x):
        logits = pyro.param("logits", torch.tensor(0.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Bernoulli(logits=logits), obs=x)

    grey = torch.full((5,), 0.3)
    svi = SVI(model, nothing, pyro.optim.Adam(ADAM), Trace_ELBO())
    with pyro.validation_enabled(False):
        svi.step(grey)
    with (
        pyro.validation_enabled(True),
        pytest.raises(ValueError, match="log_prob at site 'x'"),
    ):
        svi.step(grey)


@pytest.mark.parametrize("engine", [SVI, compiling])
def test_data_outside_the_support_are_refused_in_every_step(interpreted, engine):
    def model(x):
        rate = pyro.param("rate", torch.tensor(1.0), constraint=constraints.positive)
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Poisson(rate), obs=x)

    svi = engine(model, nothing, pyro.optim.Adam(ADAM), Trace_ELBO())
    for _ in range(4):
        svi.step(torch.ones(10))
    before = pyro.param("rate").clone()
    with pytest.raises(ValueError, match="log_prob at site 'x'"):
        svi.step(torch.full((10,), -0.5))
    assert torch.equal(pyro.param("rate"), before)


def test_mean_divides_by_the_data_of_a_tuple():
    def model(batch):
        x, y = batch
        with pyro.plate("data", len(x)):
            pyro.sample(
                "x", dist.Normal(y + pyro.param("m", torch.tensor(0.0)), 1.0), obs=x
            )

    batch = (X, X + 1)
    losses = {}
    for reduction in ("sum", "mean"):
        pyro.clear_param_store()
        sgd = pyro.optim.SGD({"lr": 0.0})
        svi = SVI(model, nothing, sgd, Trace_ELBO(), reduction=reduction)
        losses[reduction] = float(svi.step(batch))
    assert losses["mean"] == pytest.approx(losses["sum"] / len(X))
    with pytest.raises(InputError, match="no argument is a batch"):
        SVI(
            normal,
            location,
            pyro.optim.Adam(ADAM),
            lambda *_: torch.zeros(()),
            reduction="mean",
        ).step()


@pytest.mark.parametrize("objective", [ELBO(), IWAE(num_particles=3)])
def test_objectives_train_pairs_of_functions_with_pyros_optimizers(objective):
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(pyro.param("m"), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        """The exact posterior: every bound is log p(x), whose best m is the mean."""
        pyro.param("m", torch.tensor(0.0))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal((x + pyro.param("m").detach()) / 2, 0.5**0.5))

    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), objective)
    for _ in range(400):
        svi.step(X + 5)
    assert pyro.param("m").item() == pytest.approx((X + 5).mean().item(), abs=0.2)


# ---------------------------------------------------------------------------------------------------------------------
# What a graph must not fix


def test_a_batch_in_a_global_or_an_attribute_is_read_anew(interpreted):
    class Holder:
        batch = None

    holder, store = Holder(), {"batch": None}
    holder.batch = store["batch"] = torch.zeros(10)

    def model():
        m = pyro.param("m", torch.tensor(0.0))
        with pyro.plate("data", 10):
            pyro.sample("x", dist.Normal(m, 1.0), obs=holder.batch)
            pyro.sample("y", dist.Normal(m, 1.0), obs=store["batch"])

    def run(engine):
        pyro.clear_param_store()
        svi, found = (
            engine(model, nothing, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO()),
            [],
        )
        for i in range(8):
            holder.batch, store["batch"] = (
                torch.full((10,), float(i)),
                torch.full((10,), 2.0 * i),
            )
            found.append(float(svi.step()))
        return found

    assert run(compiling) == pytest.approx(run(pyro.infer.SVI), rel=1e-5)


def test_keywords_and_objects_are_arguments(interpreted):
    class Batch:
        def __init__(self, x):
            self.x, self.parts = x, {"half": [x / 2]}

    def model(batch, *, scale):
        with pyro.plate("data", len(batch.x)):
            m = pyro.param("m", torch.tensor(0.0))
            pyro.sample(
                "x", dist.Normal(m, scale), obs=batch.x + batch.parts["half"][0]
            )

    svi = compiling(model, nothing, pyro.optim.SGD({"lr": 0.0}), Trace_ELBO())
    alive = []
    for i in range(6):
        batch, scale = Batch(torch.full((10,), float(i))), torch.tensor(1.0 + i)
        alive.append(weakref.ref(batch))
        truth = -10 * dist.Normal(0.0, 1.0 + i).log_prob(torch.tensor(1.5 * i)).item()
        assert float(svi.step(batch, scale=scale)) == pytest.approx(truth, rel=1e-5)
    del batch
    gc.collect()
    assert not [reference for reference in alive if reference() is not None]


def test_a_mode_of_a_module_that_is_a_methods_is_noticed(interpreted):
    pair = Bound()
    svi = compiling(pair.model, nothing, pyro.optim.SGD({"lr": 0.0}), Trace_ELBO())
    assert len({float(svi.step(X)) for _ in range(5)}) == 5
    pair.net.eval()
    assert len({float(svi.step(X)) for _ in range(5)}) == 1


def test_a_mask_that_changes_leaves_the_graph(interpreted):
    """Data left out by an index of truths: another batch has another number of them."""

    def model(x, seen):
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        pyro.factor(
            "x", dist.Normal(m.expand(len(x))[seen], 1.0).log_prob(x[seen]).sum()
        )

    def make():
        return Zoo(model, lambda x, seen: location(x), ())

    torch.manual_seed(0)
    masks = [torch.rand(50) < p for p in (0.5, 0.5, 0.1, 0.9, 0.5, 0.3)]
    told = []

    def engine(*args):
        svi = SVI(*args)
        svi.compile(warn=told.append)
        return svi

    x = torch.randn(50)
    theirs, ours, svi = both(make, 0, engine, args=[(x, mask) for mask in masks])
    assert ours == pytest.approx(theirs, rel=1e-5)
    assert not svi.compiled
    assert "changes from call to call" in told[0]
    theirs, ours, svi = both(make, 0, engine, args=[(x, masks[0])] * 8)
    assert ours == pytest.approx(theirs, rel=1e-5)
    assert svi.compiled  # one mask for ever is no hindrance


def test_what_nobody_can_watch_is_noticed_and_said(interpreted):
    def counter():
        n = 0.0
        while True:
            n += 1.0
            yield n

    ticks = counter()

    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample(
                "x", dist.Normal(pyro.param("m", torch.tensor(0.0)), next(ticks)), obs=x
            )

    told = []
    svi = SVI(model, nothing, pyro.optim.Adam(ADAM), Trace_ELBO())
    svi.compile(warn=told.append)
    for _ in range(6):
        svi.step(X)
    assert not svi.compiled
    assert len(told) == 1
    assert "other numbers than Python" in told[0]


def test_a_pair_that_changes_itself_is_not_compiled(interpreted):
    class Counting:
        def __init__(self):
            self.steps = 0

        def model(self, x):
            self.steps += 1
            point(x)

    pair, told = Counting(), []
    svi = SVI(pair.model, nothing, pyro.optim.Adam(ADAM), Trace_ELBO())
    svi.compile(warn=told.append)
    for _ in range(5):
        svi.step(X)
    assert "the pair itself changes 'steps' in a step" in told[0]
    before = pair.steps
    svi.step(X)
    assert pair.steps == before + 1


def averaged_guide(x):
    """A guide whose score function has a decaying average as baseline, which Pyro keeps in its store."""
    loc = pyro.param("loc", torch.tensor(0.0))
    baseline = {"use_decaying_avg_baseline": True, "baseline_beta": 0.9}
    pyro.sample("m", NonreparameterizedNormal(loc, 1.0), infer={"baseline": baseline})


@pytest.mark.parametrize("engine", [SVI, compiling])
def test_what_a_step_sets_in_the_store_is_set_by_graphs(interpreted, engine):
    pair = Zoo(normal, averaged_guide, (X,), TraceGraph_ELBO())
    pyro.clear_param_store()
    theirs, _ = losses(pyro.infer.SVI, pair, 15)
    expected = {name: value.item() for name, value in pyro.get_param_store().items()}
    pyro.clear_param_store()
    ours, svi = losses(engine, pair, 15)
    found = {name: value.item() for name, value in pyro.get_param_store().items()}
    assert ours == pytest.approx(theirs, rel=1e-6)
    assert found == pytest.approx(expected, rel=1e-5)
    assert svi.compiled == (engine is compiling)
    assert len(svi._pair.parameters()) == 2


def test_a_torch_optimizer_is_not_given_what_a_step_sets_in_the_store():
    pyro.clear_param_store()
    svi = SVI(
        normal,
        averaged_guide,
        lambda p: torch.optim.Adam(p, lr=0.01),
        TraceGraph_ELBO(),
    )
    for _ in range(4):
        svi.step(X)
    assert [len(group["params"]) for group in svi.optimizer.param_groups] == [1]


def test_what_a_backward_pass_waits_for_is_not_written_to(interpreted):
    """A tensor that a model keeps with what it was computed from, as caches of `pyro.contrib.tracking` do."""

    class Cache(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.eye(2))
            self.kept = self.weight @ self.weight

    def make():
        cache = Cache()

        def model(x):
            m = pyro.param("m", torch.ones(2)) @ cache.kept @ cache.kept
            pyro.sample("x", dist.Normal(m, 1.0).to_event(1), obs=x)

        return Zoo(model, nothing, (X[:2],), Trace_ELBO(retain_graph=True))

    theirs, ours, svi = both(make, 12, compiling)
    assert svi.compiled
    assert ours == pytest.approx(theirs, rel=1e-5)


def test_one_tensor_in_two_places_is_not_two(interpreted):
    """A graph that was made where both are one knows one."""

    def model(x, y):
        with pyro.plate("data", len(x)):
            m = pyro.param("m", torch.tensor(0.0))
            pyro.sample("x", dist.Normal(m, 1.0), obs=x)
            pyro.sample("y", dist.Normal(2 * m, 1.0), obs=y)

    both_kinds = [(X, X)] * 3 + [(X, X + 1)] * 3 + [(X, X)]
    theirs, ours, svi = both(
        lambda: Zoo(model, nothing, ()), 0, compiling, args=both_kinds
    )
    assert svi.compiled
    assert ours == pytest.approx(theirs, rel=1e-5)


def test_what_changes_the_loss_alone_is_noticed(interpreted):
    ticks = iter(range(100))

    def model(x):
        pyro.factor("tick", torch.tensor(float(next(ticks))))
        point(x)

    told = []
    svi = SVI(model, nothing, pyro.optim.Adam(ADAM), Trace_ELBO())
    svi.compile(warn=told.append)
    for _ in range(6):
        svi.step(X)
    assert "other numbers than Python" in told[0]


def test_a_listener_to_a_pair_of_this_package_hears_every_step(interpreted):
    vae = build(Spec((4,), 2, network="mlp(hidden=(8,))"))
    svi = compiling(
        vae.model, vae.guide, torch.optim.Adam(vae.parameters(), lr=1e-3), ELBO()
    )
    x, heard = torch.ones(10, 4), []
    svi.step(x)
    next(vae.guide.parameters()).register_hook(lambda g: heard.append(g.norm().item()))
    for _ in range(3):
        svi.step(x)
    assert len(heard) == 3


def test_a_listener_to_gradients_hears_every_step(interpreted):
    heard = []
    svi = compiling(point, nothing, pyro.optim.Adam(ADAM), Trace_ELBO())
    svi.step(X)
    pyro.get_param_store()._params["m"].register_hook(lambda g: heard.append(g.item()))
    for _ in range(3):
        svi.step(X)
    assert len(heard) == 3


@pytest.mark.parametrize(
    ("argument", "words"), [(iter([1]), "cannot follow"), (X.numpy(), "NumPy array")]
)
def test_arguments_that_no_graph_can_follow_are_named(argument, words):
    def model(_):
        pyro.sample("x", dist.Normal(pyro.param("m", torch.tensor(0.0)), 1.0), obs=X[0])

    svi = SVI(model, nothing, pyro.optim.Adam(ADAM), Trace_ELBO(), compile=True)
    svi.step(argument)
    with pytest.warns(CompileWarning, match=words):
        svi.step(argument)


def test_memory_does_not_grow_with_ways_to_be_called():
    function = Compiled(lambda x: ([x + 1], None), state=lambda: ([], None))
    for i in range(1, 2000):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CompileWarning)
            function(torch.zeros(i % 1500 + 2))
    assert len(function._visits) <= compiled.MOST_WAYS
    assert len(function._graphs) == 1


def test_the_graph_that_waited_longest_is_dropped(monkeypatch):
    monkeypatch.setattr(compiled, "PATIENCE", 1)
    monkeypatch.setattr(compiled, "LARGE", 0)
    function = Compiled(lambda x: ([x + 1], None), state=lambda: ([], None))
    for i in range(1, 12):
        assert torch.equal(function(torch.zeros(i))[0][0], torch.ones(i))
    function(torch.zeros(4))
    function(torch.zeros(12))
    shapes = [key[1][0][0][0] for key in function._graphs]
    assert shapes == [*range(6, 12), 4, 12]
    assert not function.failed


def test_two_threads_train_two_pairs(interpreted):
    found = {}

    def train(name):
        def model(x):
            with pyro.plate("data", len(x)):
                pyro.sample(
                    "x", dist.Normal(pyro.param(name, torch.tensor(0.0)), 1.0), obs=x
                )

        svi = compiling(model, nothing, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
        for _ in range(100):
            svi.step(X + 2)
        found[name] = pyro.param(name).item()

    threads = [threading.Thread(target=train, args=(f"m{i}",)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(found.values()) == pytest.approx([(X + 2).mean().item()] * 2, abs=0.05)


# ---------------------------------------------------------------------------------------------------------------------
# Parts


def test_readings_become_assumptions():
    p, n = torch.tensor([1.0, 2.0]), torch.tensor(2)

    def function(p, n):
        total = p.sum() * (2 if (p > 0).all() else 1)
        for _ in range(int(n)):
            total = total + p.sum().item()
        return [total + p[p > 1.5].sum()], None

    graph = trace(function, [], [p, n], (p, n))
    assert graph.assumed
    value, holds = graph.module(p, n, *graph.others)
    assert value.item() == 2 * 3 + 2 * 3 + 2
    assert holds
    for other in (
        (-p, n),
        (p, n + 1),
        (p + 1, n),
    ):  # a branch, a length, an index of truths
        assert not graph.module(*other, *graph.others)[1]
    assert graph.module(p * 1.1, n, *graph.others)[1]


@pytest.mark.parametrize(
    "same", [torch.equal, torch.Tensor.equal, torch.allclose, torch.Tensor.allclose]
)
def test_that_two_tensors_are_the_same_is_assumed(same):
    one = torch.tensor([1.0, 2.0])

    def function(one, other):
        return [one.sum() if same(one, other) else other.sum()], None

    for other in (one.clone(), one + 1):
        graph = trace(function, [], [one, other], (one, other))
        assert torch.equal(graph.module(one, other)[0], function(one, other)[0][0])
        assert graph.module(one, other)[1]
        assert not graph.module(one, 2 * one + 1 - other)[1]


@pytest.mark.parametrize(
    "index",
    [
        lambda n, m: n,
        lambda n, m: (n, m),
        lambda n, m: (..., n),
        lambda n, m: (slice(None), n, None),
        lambda n, m: (None, n, ..., m),
        lambda n, m: (n, torch.tensor([0, 2])),
        lambda n, m: (torch.tensor([0, 2]), m.int()),
        lambda n, m: (n, torch.tensor([True, False, True])),
    ],
)
def test_an_index_by_a_number_in_a_tensor_is_followed(index):
    table = torch.arange(27.0).reshape(3, 3, 3).requires_grad_()

    def function(n, m):
        entries = table[index(n, m)]
        (gradient,) = torch.autograd.grad((entries**2).sum(), table)
        return [entries, gradient], None

    numbers = torch.tensor(0), torch.tensor(1)
    graph = trace(function, [], [*numbers], numbers)
    for n, m in ((0, 1), (2, 0), (-1, -2)):
        numbers = torch.tensor(n), torch.tensor(m)
        found = graph.module(*numbers, *graph.others)
        for mine, theirs in zip(found[:2], function(*numbers)[0], strict=True):
            assert mine.shape == theirs.shape
            assert torch.equal(mine, theirs)


def test_a_draw_that_is_an_index_is_followed(interpreted):
    def model(x):
        means = pyro.param("means", torch.tensor([-1.0, 1.0]))
        for i in pyro.plate("data", len(x)):
            k = pyro.sample(f"k_{i}", dist.Bernoulli(0.5)).long()
            pyro.sample(f"x_{i}", dist.Normal(means[k], 1.0), obs=x[i])

    def guide(x):
        for i in pyro.plate("data", len(x)):
            pyro.sample(
                f"k_{i}", dist.Bernoulli(pyro.param(f"p_{i}", torch.tensor(0.5)))
            )

    theirs, ours, svi = both(lambda: Zoo(model, guide, (X[:3],)), 12, compiling)
    assert svi.compiled
    assert ours == pytest.approx(theirs, rel=1e-5)


@pytest.mark.parametrize("read", [float, torch.Tensor.numpy, torch.Tensor.tolist])
def test_real_numbers_cannot_go_into_python(read):
    with Readings(), pytest.raises(ReadingError):
        read(torch.tensor(1.5))


def test_bindings_are_found_where_programs_read_them():
    factor, table = torch.ones(3), {"a": [torch.zeros(2)]}

    class Own:
        def __init__(self):
            self.rate, self.data = 0.5, torch.ones(1)

        def program(self, x, scale=torch.ones(4)):  # noqa: B008
            return factor * self.data + table["a"][0].sum() * self.rate

    own = Own()
    found = Bindings(own.program)
    assert {t.numel() for t in found.tensors()} == {3, 1, 2}
    before = found.plain()
    own.rate = 0.7
    assert found.plain() != before
    assert found.changed(before) == "rate"
    own.data = torch.zeros(5)
    assert 5 in {t.numel() for t in found.tensors()}


def test_regression_reaches_least_squares():
    """The posterior means of a nearly flat prior are the coefficients of least squares."""
    x, y = regression_data()
    guide = AutoNormal(regression)
    svi = SVI(regression, guide, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO())
    for _ in range(1500):
        svi.step(x, y)
    design = torch.cat([x, torch.ones(len(x), 1)], 1)
    best = torch.linalg.lstsq(design, y[:, None]).solution[:, 0]
    found = guide.median(x, y)
    torch.testing.assert_close(found["w"], best[:3], atol=0.05, rtol=0)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("engine", [SVI, compiling])
@pytest.mark.parametrize(
    "loss",
    [Trace_ELBO(), TraceGraph_ELBO(), RenyiELBO(alpha=0.5, num_particles=3)],
    ids=["Trace_ELBO", "TraceGraph_ELBO", "RenyiELBO"],
)
@pytest.mark.parametrize("optim", ["clipped norm", "ClippedAdam", "by name"])
def test_pairs_of_this_package_take_every_loss_and_optimizer(
    interpreted, engine, loss, optim
):
    def run(engine):
        torch.manual_seed(0)
        vae = build(Spec((4,), 2, network="mlp(hidden=(8,))")).double()
        pyro.set_rng_seed(0)
        svi = engine(vae.model, vae.guide, OPTIMIZERS[optim](), loss)
        return [float(svi.step(x)) for _ in range(8)]

    x = torch.ones(10, 4, dtype=torch.float64)
    if optim == "by name":  # Pyro's own has no names for parameters outside its store
        assert len(set(run(engine))) == 8
    else:
        assert run(engine) == pytest.approx(run(pyro.infer.SVI), rel=1e-6)
