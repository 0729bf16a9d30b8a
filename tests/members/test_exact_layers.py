"""The exact posterior of linear-Gaussian layers, against normals whose moments are added up by hand."""

import math

import pytest
import torch
from torch.distributions import MultivariateNormal

from ppca import assert_gradient_of
from pyro_vae import (
    ELBO,
    SVI,
    InputError,
    Spec,
    annealed_importance_sampling,
    bidirectional_monte_carlo,
    build,
    elbo,
    fit,
    inference_gaps,
    latent_health,
    log_marginal,
    log_marginal_refined,
)
from pyro_vae.guides import ExactLayers
from pyro_vae.inference.em import EM
from pyro_vae.models.program import formula
from pyro_vae.priors import Flow

X = (2, 3)
DIMS = {"2": (4, 2), "3": (4, 3, 2), "5": (6, 5, 4, 3, 2)}
depths = pytest.mark.parametrize("dims", DIMS.values(), ids=DIMS)
skips = pytest.mark.parametrize("skip", [False, True], ids=["next", "skip"])


LINEAR = {"network": "linear", "likelihood": "gaussian(scale='element')"}
LINEAR |= {"guide": "exact", "structure": "chain(dims=(4, 2), scale='element')"}


def pair(dims=(4, 2), *, skip=False, **options):
    """A pair with random weights, in float64."""
    structure = f"chain(dims={dims}, skip={skip}, scale='element')"
    vae = build(Spec(X, **LINEAR | {"structure": structure} | options)).double()
    torch.manual_seed(len(dims))
    with torch.no_grad():
        for p in vae.parameters():
            p.copy_(0.5 * torch.randn_like(p))
    return vae


def joint(vae, c=None):
    """Mean and covariance of all layers and x side by side, the top first, from the weights of the networks."""
    size = vae.model.dims[-1]
    mean = torch.zeros(size).double()
    covariance = torch.eye(size).double()
    layers = [(layer.network, layer.log_scale.exp()) for layer in vae.model.layers]
    read = vae.model.decoder.layers[0].in_features
    p = vae.model.given(torch.zeros(1, read).double(), *as_row(c))
    whole = getattr(p, "whole", p)
    order = [(vae.model.decoder, whole.stddev[0].flatten()), *layers]
    for network, scale in reversed(order):
        w, b = network.layers[0].weight, network.layers[0].bias
        b = b if c is None else b + network.of_context.weight @ c
        w = w[: len(scale)]
        read = w.shape[1]
        # A layer that is not given all above is given the last one.
        w = torch.cat([w.new_zeros(len(w), len(mean) - read), w], 1)
        across = w @ covariance
        own = across @ w.T + torch.diag(scale**2)
        mean = torch.cat([mean, w @ mean + b[: len(scale)]])
        covariance = torch.cat(
            [torch.cat([covariance, across.T], 1), torch.cat([across, own], 1)]
        )
    return mean, covariance


def as_row(c):
    return () if c is None else (c.unsqueeze(0),)


def posterior(vae, x, c=None):
    """`log p(x)` of what was seen of one datum, and mean and covariance of all layers given it."""
    mean, covariance = joint(vae, c)
    size = vae.model.latent_dim
    row = x.flatten()
    seen = ~row.isnan()
    at = torch.cat([torch.zeros(size).bool(), seen])
    of_x = covariance[at][:, at]
    across = covariance[:size][:, at]
    gain = across @ torch.linalg.inv(of_x)
    left = row[seen] - mean[at]
    log_p = MultivariateNormal(mean[at], of_x).log_prob(row[seen])
    return (
        log_p,
        mean[:size] + gain @ left,
        covariance[:size, :size] - gain @ across.T,
    )


@depths
@skips
@pytest.mark.parametrize("missing", [False, True], ids=["whole", "missing"])
def test_every_weight_is_log_p(dims, skip, missing):
    vae = pair(dims, skip=skip, missing=missing)
    x = torch.randn(5, *X).double()
    if missing:
        x[0, 0, 1:] = x[3, 1, 0] = math.nan
    truth = torch.stack([posterior(vae, row)[0] for row in x])
    found = log_marginal(vae.model, vae.guide, x, num_particles=7)
    torch.testing.assert_close(found.values, truth, rtol=1e-9, atol=1e-9)
    assert max(found.pareto_k) == -math.inf  # all weights are equal


@depths
@skips
def test_draws_have_the_moments_of_the_posterior(dims, skip):
    vae, x = pair(dims, skip=skip), torch.randn(2, *X).double()
    z = vae.encode(x).sample((40_000,))
    for i, row in enumerate(x):
        _, mean, covariance = posterior(vae, row)
        factor = torch.linalg.cholesky(covariance)
        white = torch.linalg.solve_triangular(factor, (z[:, i] - mean).T, upper=False)
        assert white.mean(1).abs().max() < 5 / 200  # of 40,000 draws of N(0, 1)
        identity = torch.eye(len(factor)).double()
        torch.testing.assert_close(white.cov(), identity, rtol=0, atol=5 * 2**0.5 / 200)


def test_a_condition_moves_every_layer():
    for in_encoder in (True, False):
        vae = pair((4, 3, 2), context=2, encoder_context=in_encoder)
        x, c = torch.randn(4, *X).double(), torch.randn(4, 2).double()
        truth = [posterior(vae, row, of)[0] for row, of in zip(x, c, strict=True)]
        found = log_marginal(vae.model, vae.guide, x, num_particles=3, c=c)
        torch.testing.assert_close(found.values, torch.stack(truth))


@skips
def test_the_gradient_is_that_of_log_p_and_has_no_noise(skip):
    vae, x = pair((4, 3, 2), skip=skip), torch.randn(6, *X).double()
    log_p = torch.stack([posterior(vae, row)[0] for row in x]).mean()
    assert_gradient_of(vae, x, log_p)


def test_compiled_steps_are_those_that_are_not():
    found = []
    for compiled in (False, True):
        vae = pair((4, 2))
        torch.manual_seed(0)
        svi = SVI(vae.model, vae.guide, torch.optim.Adam, ELBO(), compile=compiled)
        x = torch.randn(8, *X).double()
        found.append([float(svi.step(x)) for _ in range(4)])
    assert found[0] == pytest.approx(found[1])


def test_a_fit_reaches_the_maximum():
    """As many free directions as x has: the best density is the normal with the moments of the data."""
    torch.manual_seed(0)
    x = torch.randn(300, 6).double() @ torch.randn(6, 6).double()
    x = x.unflatten(1, X)
    structure = "chain(dims=(5, 3), scale='element')"
    vae = build(Spec(X, **LINEAR | {"structure": structure})).double()
    fit(vae, x, epochs=300, learning_rate=0.03, batch_size=300)
    rows = x.flatten(1)
    best = MultivariateNormal(rows.mean(0), rows.T.cov(correction=0))
    bound = elbo(vae.model, vae.guide, x).elbo
    assert bound == pytest.approx(best.log_prob(rows).mean().item(), abs=0.05)


def test_every_question_finds_a_guide_without_a_gap():
    vae, x = pair((4, 2)), torch.randn(6, *X).double()
    truth = torch.stack([posterior(vae, row)[0] for row in x])
    refined = log_marginal_refined(vae, x, num_particles=2000, steps=20)
    off = (refined.values - truth).abs()
    assert (off < 4 * refined.standard_errors + 1e-3).all()
    way = {"num_chains": 20, "num_temperatures": 60, "leapfrogs": 5}
    found = bidirectional_monte_carlo(vae.model, 3, x, **way)
    errors = (found.upper_errors**2 + found.lower.standard_errors**2).sqrt()
    assert ((found.upper - found.lower.values).abs() < 4 * errors + 0.05).all()
    annealed = annealed_importance_sampling(vae.model, x, **way)
    off = (annealed.values - truth).abs()
    assert (off < 4 * annealed.standard_errors + 0.05).all()
    gaps = inference_gaps(vae, x)
    for gap in (gaps.amortisation, gaps.approximation):
        assert gap.mean() == pytest.approx(0, abs=1e-6)
    health = latent_health(vae.model, vae.guide, torch.randn(200, *X).double())
    assert [layer.site for layer in health.layers] == ["z2", "z1"]


def test_it_says_what_it_is():
    vae = pair((4, 3, 2))
    assert formula(vae.model, vae.guide) == (
        "p(z3) p(z2|z3) p(z1|z2) p(x|z1); q(z3|x) q(z2|x,z3) q(z1|x,z3,z2)"
    )
    assert isinstance(vae.guide, ExactLayers)
    assert not [*vae.guide.parameters()]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"structure": "chain(dims=(3, 2))"}, r"take the network linear and .*element"),
        ({"network": "linear, z2=mlp"}, r"p\(z1\|z2\) is no Gaussian"),
        ({"network": "mlp, z2=linear"}, "MLP makes no map"),
        ({"prior": "flow"}, r"p\(z2\) is Flow"),
        (
            {"prior": "standardnormal, z1=conditional(components=2)"},
            r"p\(z1\|z2\) is no",
        ),
        ({"guide": "exact, z1=meanfield"}, "leave the guide of z1 out"),
        ({"guide": "meanfield, z2=exact"}, "posterior of one layer alone"),
        ({"likelihood": "bernoulli"}, "Bernoulli and not Gaussian"),
        ({"structure": "ladder(dims=(3, 2), scale='element')"}, "structure chain"),
    ],
)
def test_what_has_no_closed_form_is_refused(options, why):
    with pytest.raises(InputError, match=why):
        build(Spec(X, **LINEAR | options))


def test_what_goes_with_one_vector_alone_is_refused():
    vae = pair((4, 2))
    with pytest.raises(InputError, match="several layers"):
        fit(vae, torch.randn(20, *X), epochs=1, optimizer=EM)
    with pytest.raises(InputError, match="Flow and not Gaussian"):
        vae.with_prior(Flow(2))
    with pytest.raises(InputError, match="put both into a VAE first"):
        ExactLayers((3, 2)).at_all(torch.zeros(1, 4))


def test_layers_with_scales_of_their_own_go_with_other_guides():
    for structure in ("chain", "ladder"):
        text = f"{structure}(dims=(3, 2), scale='element')"
        vae = build(Spec(X, structure=text, likelihood="gaussian"))
        fit(vae, torch.randn(40, *X), epochs=2)
        assert vae.model.layers[0].log_scale.abs().sum() > 0
        assert vae.sample(3).shape == (3, *X)
