"""The same as Pyro: equal losses, gradients and weights; and pairs that know nothing of this package."""

import copy
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from pyro.nn import PyroModule, PyroParam
from torch import nn

from pyro_vae import (
    ELBO,
    IWAE,
    MLP,
    SVI,
    VAE,
    Bernoulli,
    FullRank,
    InputError,
    MeanField,
    StandardNormal,
    log_marginal,
    terms,
)


def make_vae(seed=0, guide=MeanField):
    torch.manual_seed(seed)
    encoder, decoder = MLP((6,), hidden=(8,)), MLP((3,), (1, 6), hidden=(8,))
    return VAE(StandardNormal(3), decoder, Bernoulli((6,)), guide(encoder, 3)).double()


def data(n=10):
    return torch.rand(n, 6, generator=torch.Generator().manual_seed(1)).round().double()


def handwritten(vae):
    """The same pair as in Pyro's tutorial: functions, `pyro.module`, the global store."""

    def model(x):
        pyro.module("decoder", vae.model.decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(3), x.new_ones(3)).to_event(1))
            pyro.sample(
                "x",
                dist.Bernoulli(logits=vae.model.decoder(z).squeeze(-2)).to_event(1),
                obs=x,
            )

    def guide(x):
        pyro.module("encoder", vae.guide.encoder)
        pyro.module("head", vae.guide.head)
        with pyro.plate("data", len(x)):
            loc, log_scale = vae.guide.head(vae.guide.encoder(x)).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

    return model, guide


def same_weights(a, b):
    for (name, p), q in zip(a.named_parameters(), b.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-10, msg=name)


@pytest.mark.parametrize("loss", [ELBO(), Trace_ELBO()], ids=["ELBO", "Trace_ELBO"])
def test_twenty_steps_equal_pyro_on_the_same_pair_by_hand(loss):
    ours, theirs, x = make_vae(), make_vae(), data()
    svi = SVI(ours.model, ours.guide, lambda p: torch.optim.Adam(p, lr=0.01), loss)
    torch.manual_seed(7)
    losses = [svi.step(x).item() for _ in range(20)]
    with pyro.get_param_store().scope():
        reference = pyro.infer.SVI(
            *handwritten(theirs), pyro.optim.Adam({"lr": 0.01}), Trace_ELBO()
        )
        torch.manual_seed(7)
        expected = [reference.step(x) for _ in range(20)]
    torch.testing.assert_close(losses, expected, rtol=0, atol=1e-10)
    same_weights(ours, theirs)


@pytest.mark.parametrize("guide", [MeanField, FullRank])
def test_gradients_equal_pyro(guide):
    ours, theirs, x = make_vae(guide=guide), make_vae(guide=guide), data()
    torch.manual_seed(7)
    loss, _ = SVI(ours.model, ours.guide, torch.optim.Adam, ELBO()).differentiate(x)
    torch.manual_seed(7)
    expected = Trace_ELBO()(theirs.model, theirs.guide)(x)
    expected.backward()
    torch.testing.assert_close(loss, expected.detach(), rtol=0, atol=1e-10)
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=0, atol=1e-10)


def test_our_objective_works_in_pyros_svi():
    ours, theirs, x = make_vae(), make_vae(), data()
    svi = SVI(
        ours.model, ours.guide, pyro.optim.Adam({"lr": 0.01}), IWAE(num_particles=3)
    )
    reference = pyro.infer.SVI(
        theirs.model, theirs.guide, pyro.optim.Adam({"lr": 0.01}), IWAE(num_particles=3)
    )
    torch.manual_seed(7)
    losses = [svi.step(x).item() for _ in range(5)]
    torch.manual_seed(7)
    torch.testing.assert_close(
        losses, [reference.step(x) for _ in range(5)], rtol=0, atol=1e-10
    )
    same_weights(ours, theirs)
    assert len(pyro.get_param_store()) == 0


@pytest.mark.parametrize("engine", ["ours", "pyro"])
def test_a_second_vae_in_the_same_process_trains(engine):
    x = data()
    for seed in (1, 2):
        vae = make_vae(seed)
        before = copy.deepcopy(vae.state_dict())
        kind = SVI if engine == "ours" else pyro.infer.SVI
        svi = kind(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
        for _ in range(3):
            svi.step(x)
        for name, value in vae.state_dict().items():
            assert (value - before[name]).abs().max() > 1e-3, (
                f"{name} of VAE {seed} did not move"
            )
    assert len(pyro.get_param_store()) == 0


def test_tracing_two_vaes_mixes_nothing():
    first, second, x = make_vae(1), make_vae(2), data()
    before = copy.deepcopy(second.state_dict())
    poutine.trace(first.model).get_trace(x)
    poutine.trace(second.model).get_trace(x)
    for name, value in second.state_dict().items():
        assert torch.equal(value, before[name])


def test_the_mean_reduction_is_the_sum_over_the_batch_size():
    x = data(10)
    summed, mean = make_vae(), make_vae()
    torch.manual_seed(7)
    loss, _ = SVI(summed.model, summed.guide, torch.optim.Adam, ELBO()).differentiate(x)
    torch.manual_seed(7)
    per_datum, _ = SVI(
        mean.model, mean.guide, torch.optim.Adam, ELBO(), reduction="mean"
    ).differentiate(x)
    torch.testing.assert_close(loss, 10 * per_datum)
    for p, q in zip(summed.parameters(), mean.parameters(), strict=True):
        torch.testing.assert_close(p.grad, 10 * q.grad)


def test_a_pair_of_functions_trains_and_is_evaluated():
    """`z ~ N(0, 1)`, `x ~ N(z, 1)`: the posterior is N(x/2, 1/2) and log p(x) = log N(x; 0, 2)."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        slope = pyro.param("slope", torch.tensor(0.0).double())
        scale = pyro.param(
            "scale", torch.tensor(1.0).double(), constraint=dist.constraints.positive
        )
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(slope * x, scale))

    with pyro.get_param_store().scope():
        torch.manual_seed(0)
        x = 2**0.5 * torch.randn(200).double()
        svi = SVI(
            model,
            guide,
            lambda p: torch.optim.Adam(p, lr=0.02),
            ELBO(),
            reduction="mean",
        )
        for _ in range(400):
            svi.step(x)
        assert abs(pyro.param("slope").item() - 0.5) < 0.03
        assert abs(pyro.param("scale").item() - 0.5**0.5) < 0.03
        result = log_marginal(model, guide, x, num_particles=200)
        truth = dist.Normal(0.0, 2**0.5).log_prob(x)
        assert abs(
            result.mean - truth.mean()
        ) < 3 * result.monte_carlo_standard_error + abs(result.bias)


def test_a_pair_of_plain_pyro_modules_trains_twice():
    class P(PyroModule):
        def __init__(self):
            super().__init__()
            self.decoder = nn.Linear(1, 2).double()

        def forward(self, x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)

    class Q(PyroModule):
        def __init__(self):
            super().__init__()
            self.encoder = nn.Linear(2, 1).double()
            self.scale = PyroParam(torch.ones(1).double(), dist.constraints.positive)

        def forward(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(self.encoder(x), self.scale).to_event(1))

    x = torch.randn(20, 2, generator=torch.Generator().manual_seed(0)).double()
    for _ in range(2):
        model, guide = P(), Q()
        before = [p.detach().clone() for m in (model, guide) for p in m.parameters()]
        svi = SVI(model, guide, lambda p: torch.optim.Adam(p, lr=0.05), ELBO())
        for _ in range(3):
            svi.step(x)
        after = [p for m in (model, guide) for p in m.parameters()]
        assert all(
            (p - q).abs().max() > 1e-3 for p, q in zip(before, after, strict=True)
        )


def test_analytic_kl_of_pyro_has_the_same_expectation():
    vae, x = make_vae(), data()
    torch.manual_seed(0)
    svi = SVI(vae.model, vae.guide, torch.optim.Adam, TraceMeanField_ELBO())
    analytic = torch.stack([svi.evaluate_loss(x) for _ in range(400)])
    svi = SVI(vae.model, vae.guide, torch.optim.Adam, ELBO())
    sampled = torch.stack([svi.evaluate_loss(x) for _ in range(400)])
    error = (analytic.var() / 400 + sampled.var() / 400).sqrt()
    assert abs(analytic.mean() - sampled.mean()) < 4 * error


def gaussian_from_switch(x, logit):
    """A latent that cannot be reparameterised: `z ~ Bernoulli(0.3)`, `x ~ N(2 z, 1)`, `q(z=1) = sigmoid(logit)`."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(x.new_tensor(0.3)))
            pyro.sample("x", dist.Normal(2 * z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Bernoulli(logits=logit.expand(len(x))))

    return model, guide


@pytest.mark.parametrize(
    "objective", [ELBO(num_particles=2), IWAE(num_particles=2)], ids=["ELBO", "IWAE"]
)
def test_score_function_gradient_against_enumeration(objective):
    x = torch.tensor(0.8).double()
    logit = torch.tensor(-0.4).double().requires_grad_()
    values = torch.tensor([0.0, 1.0]).double()
    log_w = dist.Bernoulli(x.new_tensor(0.3)).log_prob(values) + dist.Normal(
        2 * values, 1.0
    ).log_prob(x)
    log_q = dist.Bernoulli(logits=logit).log_prob(values)
    expected = 0.0
    for i in range(2):
        for j in range(2):
            pair = torch.stack([log_w[i] - log_q[i], log_w[j] - log_q[j]])
            bound = (
                pair.mean()
                if isinstance(objective, ELBO)
                else pair.logsumexp(0) - math.log(2)
            )
            expected = expected + (log_q[i] + log_q[j]).exp() * bound
    (expected_gradient,) = torch.autograd.grad(expected, logit)

    torch.manual_seed(0)
    batch = x.expand(20_000)
    gradients = []
    for _ in range(20):
        bound = objective.differentiable_loss(
            *gaussian_from_switch(batch, logit), batch
        )
        (gradient,) = torch.autograd.grad(-bound / len(batch), logit)
        gradients.append(gradient)
    gradients = torch.stack(gradients)
    assert abs(gradients.mean() - expected_gradient) < 4 * gradients.std() / 20**0.5


def test_several_latent_sites_are_summed():
    def model(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(x.new_zeros(()), 1.0))
            b = pyro.sample("b", dist.Normal(a, 1.0))
            pyro.sample("x", dist.Normal(b, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample(
                "a", dist.Normal(x / 3, (2 / 3) ** 0.5)
            )  # the exact posterior of a, then of b
            pyro.sample("b", dist.Normal((a + x) / 2, 0.5**0.5))

    x = torch.tensor([0.3, -1.2]).double()
    t = terms(model, guide, x, num_particles=4)
    torch.testing.assert_close(
        t.log_weight, dist.Normal(0.0, 3**0.5).log_prob(x).expand(4, 2)
    )


def outside_plate(x):
    pyro.sample("w", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)


def undeclared(x):
    with pyro.plate("data", 3, dim=-1):
        pyro.sample("x", dist.Normal(0.0, 1.0).expand([4, 3]), obs=torch.zeros(4, 3))


def scaled(x):
    with pyro.plate("data", len(x)):
        with poutine.scale(scale=0.1):
            pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
        pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)


def plain(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))


def observed_only(x):
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(x.new_zeros(()), 1.0), obs=x)


@pytest.mark.parametrize(
    ("model", "guide", "words"),
    [
        (outside_plate, lambda x: None, "outside the data plate"),
        (undeclared, lambda x: None, r"site 'x'.*shape \(4, 3\).*to_event"),
        (scaled, plain, "scaled differently"),
        (plain, lambda x: None, "'z' of the model does not stand in the guide"),
        (observed_only, plain, "'z' of the guide does not stand in the model"),
        (lambda x: None, lambda x: None, "no sample sites"),
    ],
)
def test_pairs_that_cannot_be_weighted_are_refused(model, guide, words):
    with pytest.raises(InputError, match=words):
        terms(model, guide, torch.zeros(2))


def test_a_plate_that_subsamples_scales_the_loss_and_not_the_weights():
    def model(x, size):
        with pyro.plate("data", size, subsample_size=len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x, size):
        with pyro.plate("data", size, subsample_size=len(x)):
            pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))

    x = torch.tensor([0.3, -1.2]).double()
    loss = IWAE(num_particles=3).differentiable_loss(model, guide, x, 10)
    torch.testing.assert_close(loss, -5 * dist.Normal(0.0, 2**0.5).log_prob(x).sum())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"loss": "elbo"}, "loss must be"),
        ({"optim": 3}, "optim must be"),
        ({"reduction": "max"}, "reduction='max'"),
    ],
)
def test_svi_refuses_what_it_cannot_use(arguments, words):
    vae = make_vae()
    given = {"optim": torch.optim.Adam, "loss": ELBO(), **arguments}
    with pytest.raises(InputError, match=words):
        SVI(vae.model, vae.guide, **given)


@pytest.mark.parametrize("guide", [MeanField, FullRank])
def test_a_step_reads_nothing_back_to_the_host(guide):
    """After the first step, which validates, no number leaves the device: on a GPU each would be a stall."""
    from torch.utils._python_dispatch import TorchDispatchMode

    read = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func.overloadpacket in (
                torch.ops.aten._local_scalar_dense,
                torch.ops.aten.nonzero,
            ):
                read.append(str(func))
            return func(*args, **(kwargs or {}))

    vae, x = make_vae(guide=guide), data()
    svi = SVI(
        vae.model,
        vae.guide,
        lambda p: torch.optim.Adam(p, lr=0.01, fused=True),
        IWAE(num_particles=3),
    )
    svi.step(x)
    with Watch():
        svi.step(x)
    assert read == []
    svi = SVI(
        vae.model,
        vae.guide,
        lambda p: torch.optim.Adam(p, lr=0.01, fused=True),
        Trace_ELBO(),
    )
    with Watch():
        svi.step(x)
    assert read  # and the watch does see what Pyro's own ELBO reads
