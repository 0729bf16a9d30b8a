"""Pyro pairs of every kind, as in Pyro's tutorials and examples: what `benchmarks.pairs` times and the tests compare.

Each entry of `PAIRS` makes a model, a guide, a loss and the arguments of a step, on small data from a fixed seed.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions import constraints
from pyro.infer import (
    JitTrace_ELBO,
    RenyiELBO,
    ReweightedWakeSleep,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
    config_enumerate,
)
from pyro.infer import autoguide as auto
from pyro.nn import PyroModule, PyroSample
from torch import Tensor, nn


class Pair(NamedTuple):
    """What a step is made of."""

    model: Callable[..., Any]
    guide: Callable[..., Any]
    loss: Any
    args: tuple[Any, ...]


PAIRS: dict[str, Callable[[], Pair]] = {}


def pair(make: Callable[[], Pair]) -> Callable[[], Pair]:
    """Add to `PAIRS` under the name of the function."""
    PAIRS[make.__name__.replace("_", " ")] = make
    return make


def regression_data() -> tuple[Tensor, Tensor]:
    torch.manual_seed(3)
    x = torch.randn(100, 3)
    return x, x @ torch.tensor([1.0, 2.0, -1.0]) + 0.1 * torch.randn(100)


def regression(x: Tensor, y: Tensor) -> None:
    """Linear regression with three weights, an intercept and a scale."""
    w = pyro.sample("w", dist.Normal(0.0, 10.0).expand([3]).to_event(1))
    b = pyro.sample("b", dist.Normal(0.0, 10.0))
    s = pyro.sample("s", dist.HalfCauchy(1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal(x @ w + b, s), obs=y)


def with_autoguide(name: str, **options: Any) -> None:
    """Add linear regression with an AutoGuide."""

    def make() -> Pair:
        guide = getattr(auto, name)(regression, **options)
        return Pair(regression, guide, Trace_ELBO(), regression_data())

    PAIRS[f"regression, {name}"] = make


for autoguide, options in {
    "AutoDelta": {},
    "AutoNormal": {},
    "AutoDiagonalNormal": {},
    "AutoMultivariateNormal": {},
    "AutoLowRankMultivariateNormal": {},
    "AutoGaussian": {},
    "AutoIAFNormal": {"hidden_dim": [8]},
    "AutoLaplaceApproximation": {},
    "AutoStructured": {"conditionals": {"w": "normal", "b": "delta", "s": "normal"}},
}.items():
    with_autoguide(autoguide, **options)  # type: ignore[arg-type]


def with_loss(name: str, loss: Callable[[], Any]) -> None:
    """Add linear regression with another loss."""

    def make() -> Pair:
        return Pair(regression, auto.AutoNormal(regression), loss(), regression_data())

    PAIRS[f"regression, {name}"] = make


def own_loss(
    model: Callable[..., Any], guide: Callable[..., Any], *args: Any
) -> Tensor:
    """The negative ELBO, as a function in the place of a loss of Pyro's."""
    q = poutine.trace(guide).get_trace(*args)
    p = poutine.trace(poutine.replay(model, q)).get_trace(*args)
    return q.log_prob_sum() - p.log_prob_sum()  # type: ignore[no-any-return]


with_loss("TraceMeanField_ELBO", TraceMeanField_ELBO)
with_loss("TraceGraph_ELBO", TraceGraph_ELBO)
with_loss("JitTrace_ELBO", lambda: JitTrace_ELBO(ignore_jit_warnings=True))
with_loss("RenyiELBO", lambda: RenyiELBO(alpha=0.5, num_particles=3))
with_loss("four particles", lambda: Trace_ELBO(num_particles=4))
with_loss("a function as loss", lambda: own_loss)


@pair
def regression_of_modules() -> Pair:
    class Regression(PyroModule):
        def __init__(self) -> None:
            super().__init__()
            self.linear = PyroModule[nn.Linear](3, 1)
            self.linear.weight = PyroSample(
                dist.Normal(0.0, 1.0).expand([1, 3]).to_event(2)
            )
            self.linear.bias = PyroSample(
                dist.Normal(0.0, 10.0).expand([1]).to_event(1)
            )

        def forward(self, x: Tensor, y: Tensor) -> None:
            sigma = pyro.sample("sigma", dist.Uniform(0.0, 10.0))
            mean = self.linear(x).squeeze(-1)
            with pyro.plate("data", len(x)):
                pyro.sample("y", dist.Normal(mean, sigma), obs=y)

    model = Regression()
    return Pair(model, auto.AutoDiagonalNormal(model), Trace_ELBO(), regression_data())


@pair
def eight_schools() -> Pair:
    y = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
    sigma = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])

    def model(y: Tensor, sigma: Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
        tau = pyro.sample("tau", dist.HalfCauchy(25.0))
        with pyro.plate("schools", 8):
            eta = pyro.sample("eta", dist.Normal(0.0, 1.0))
            pyro.sample("y", dist.Normal(mu + tau * eta, sigma), obs=y)

    return Pair(model, auto.AutoNormal(model), Trace_ELBO(), (y, sigma))


@pair
def horseshoe() -> Pair:
    torch.manual_seed(1)
    x = torch.randn(200, 20)
    y = 3 * x[:, 0] + torch.randn(200)

    def model(x: Tensor, y: Tensor) -> None:
        tau = pyro.sample("tau", dist.HalfCauchy(1.0))
        with pyro.plate("weights", 20):
            shrinkage = pyro.sample("lambda", dist.HalfCauchy(1.0))
            beta = pyro.sample("beta", dist.Normal(0.0, shrinkage * tau))
        s = pyro.sample("s", dist.LogNormal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(x @ beta, s), obs=y)

    return Pair(model, auto.AutoNormal(model), Trace_ELBO(), (x, y))


@pair
def mixed_effects() -> Pair:
    torch.manual_seed(2)
    group = torch.arange(60) % 6
    y = torch.randn(60) + group

    def model(group: Tensor, y: Tensor) -> None:
        m = pyro.sample("m", dist.Normal(0.0, 5.0))
        t = pyro.sample("t", dist.HalfNormal(2.0))
        s = pyro.sample("s", dist.HalfNormal(2.0))
        with pyro.plate("groups", 6):
            a = pyro.sample("a", dist.Normal(m, t))
        with pyro.plate("data", 60):
            pyro.sample("y", dist.Normal(a[group], s), obs=y)

    return Pair(model, auto.AutoNormal(model), Trace_ELBO(), (group, y))


@pair
def stochastic_volatility() -> Pair:
    torch.manual_seed(5)
    y = 0.1 * torch.randn(100)

    def model(y: Tensor) -> None:
        sigma = pyro.sample("sigma", dist.Exponential(50.0))
        nu = pyro.sample("nu", dist.Exponential(0.1))
        with pyro.plate("steps", len(y)):
            v = pyro.sample("v", dist.Normal(0.0, 1.0))
        h = torch.cumsum(v * sigma, -1)
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.StudentT(nu + 2.0, 0.0, 0.1 * h.exp()), obs=y)

    return Pair(model, auto.AutoNormal(model), Trace_ELBO(), (y,))


@pair
def gamma_poisson() -> Pair:
    torch.manual_seed(4)
    y = torch.poisson(torch.full((50,), 4.0))

    def model(y: Tensor) -> None:
        with pyro.plate("data", 50):
            rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
            pyro.sample("y", dist.Poisson(rate), obs=y)

    def guide(y: Tensor) -> None:
        a = pyro.param("a", torch.ones(50), constraint=constraints.positive)
        b = pyro.param("b", torch.ones(50), constraint=constraints.positive)
        with pyro.plate("data", 50):
            pyro.sample("rate", dist.Gamma(a, b))

    return Pair(model, guide, Trace_ELBO(), (y,))


@pair
def gamma_poisson_wake_sleep() -> Pair:
    return gamma_poisson()._replace(loss=ReweightedWakeSleep(num_particles=3))


@pair
def subsampled_data() -> Pair:
    torch.manual_seed(2)
    x = torch.randn(100) + 2

    def model(x: Tensor) -> None:
        m = pyro.sample("m", dist.Normal(0.0, 10.0))
        with pyro.plate("data", 100, subsample_size=10) as rows:
            pyro.sample("x", dist.Normal(m, 1.0), obs=x[rows])

    def guide(x: Tensor) -> None:
        loc = pyro.param("loc", torch.tensor(0.0))
        scale = pyro.param("scale", torch.tensor(1.0), constraint=constraints.positive)
        pyro.sample("m", dist.Normal(loc, scale))

    return Pair(model, guide, Trace_ELBO(), (x,))


@pair
def masks_scales_and_factors() -> Pair:
    torch.manual_seed(6)
    x, seen = torch.randn(5, 40), torch.rand(5, 40) < 0.7

    def model(x: Tensor, seen: Tensor) -> None:
        m = pyro.sample("m", dist.Normal(0.0, 10.0))
        pyro.deterministic("twice", 2 * m)
        with pyro.plate("rows", 5, dim=-2), pyro.plate("columns", 40, dim=-1):
            with poutine.mask(mask=seen), poutine.scale(scale=0.5):
                pyro.sample("x", dist.Normal(m, 1.0), obs=x)
            pyro.sample("y", dist.Normal(m, 2.0), obs=x, obs_mask=seen)
        pyro.factor("penalty", -m.abs())

    def guide(x: Tensor, seen: Tensor) -> None:
        loc = pyro.param("loc", torch.tensor(0.0))
        pyro.sample("m", dist.Normal(loc, pyro.param("scale", torch.tensor(0.5))))
        with pyro.plate("rows", 5, dim=-2), pyro.plate("columns", 40, dim=-1):
            pyro.sample("y_unobserved", dist.Normal(loc, 1.0))

    return Pair(model, guide, Trace_ELBO(), (x, seen))


@pair
def bayesian_network() -> Pair:
    torch.manual_seed(7)
    x = torch.bernoulli(torch.full((100,), 0.4))

    @config_enumerate
    def model(x: Tensor) -> None:
        p = pyro.param("p", torch.tensor(0.3), constraint=constraints.unit_interval)
        table = torch.tensor([[0.1, 0.6], [0.7, 0.95]])
        q = pyro.param("q", table, constraint=constraints.unit_interval)
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Bernoulli(p)).long()
            b = pyro.sample("b", dist.Bernoulli(0.5)).long()
            pyro.sample("x", dist.Bernoulli(q[a, b]), obs=x)

    return Pair(model, nothing, TraceEnum_ELBO(max_plate_nesting=1), (x,))


def hidden_markov(steps: int) -> Pair:
    """Two states, summed out, and a normal observation in each step."""
    torch.manual_seed(8)
    x = torch.randn(steps)

    @config_enumerate
    def model(x: Tensor) -> None:
        start = torch.full((2, 2), 0.5)
        transitions = pyro.param("transitions", start, constraint=constraints.simplex)
        m = pyro.param("m", torch.tensor([-1.0, 1.0]))
        z: Any = 0
        for t in pyro.markov(range(len(x))):
            z = pyro.sample(f"z{t}", dist.Categorical(transitions[z]))
            pyro.sample(f"x{t}", dist.Normal(m[z], 1.0), obs=x[t])

    return Pair(model, nothing, TraceEnum_ELBO(max_plate_nesting=0), (x,))


@pair
def hidden_Markov_model() -> Pair:  # noqa: N802
    return hidden_markov(8)


@pair
def hidden_Markov_model_of_60_steps() -> Pair:  # noqa: N802
    return hidden_markov(60)


@pair
def random_walk_of_60_steps() -> Pair:
    torch.manual_seed(8)
    x = torch.randn(60).cumsum(0)

    def model(x: Tensor) -> None:
        z = torch.zeros(())
        for t in range(len(x)):
            z = pyro.sample(f"z{t}", dist.Normal(z, 1.0))
            pyro.sample(f"x{t}", dist.Normal(z, 1.0), obs=x[t])

    def guide(x: Tensor) -> None:
        loc = pyro.param("loc", torch.zeros(60))
        scale = pyro.param("scale", torch.ones(60), constraint=constraints.positive)
        for t in range(len(x)):
            pyro.sample(f"z{t}", dist.Normal(loc[t], scale[t]))

    return Pair(model, guide, Trace_ELBO(), (x,))


@pair
def mixture_of_normals() -> Pair:
    torch.manual_seed(9)
    x = torch.cat([torch.randn(50) - 3, torch.randn(50) + 3])

    @config_enumerate
    def model(x: Tensor) -> None:
        w = pyro.sample("w", dist.Dirichlet(0.5 * torch.ones(2)))
        s = pyro.sample("s", dist.LogNormal(0.0, 2.0))
        with pyro.plate("components", 2):
            m = pyro.sample("m", dist.Normal(0.0, 10.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Categorical(w))
            pyro.sample("x", dist.Normal(m[z], s), obs=x)

    guide = auto.AutoDelta(poutine.block(model, expose=["w", "s", "m"]))
    return Pair(model, guide, TraceEnum_ELBO(max_plate_nesting=1), (x,))


def discrete(loss: Any) -> Pair:
    torch.manual_seed(10)
    x = torch.randn(20)

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(0.3))
            pyro.sample("x", dist.Normal(2 * z, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample(
                "z", dist.Bernoulli(logits=pyro.param("logits", torch.zeros(20)))
            )

    return Pair(model, guide, loss, (x,))


@pair
def discrete_guide_Trace_ELBO() -> Pair:  # noqa: N802
    return discrete(Trace_ELBO())


@pair
def discrete_guide_TraceGraph_ELBO() -> Pair:  # noqa: N802
    return discrete(TraceGraph_ELBO())


@pair
def VAE_by_hand() -> Pair:  # noqa: N802
    torch.manual_seed(2)
    norm = nn.BatchNorm1d(32)
    encoder = nn.Sequential(
        nn.Linear(20, 32), norm, nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 4)
    )
    decoder = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 20))
    x = torch.bernoulli(torch.full((64, 20), 0.3))

    def model(x: Tensor) -> None:
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("encoder", encoder)
        h = encoder(x)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(h[:, :2], h[:, 2:].exp()).to_event(1))

    return Pair(model, guide, Trace_ELBO(), (x,))


def nothing(*args: Any) -> None:
    """The guide of a model whose latents are all summed out."""
