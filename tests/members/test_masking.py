"""Values that are missing because of what they are: against integrals on a grid, in one latent."""

import pytest
import torch
from torch.nn.functional import logsigmoid

from holed import SMALL, holed, written
from pyro_vae import (
    MLP,
    VAE,
    Bernoulli,
    Gaussian,
    InputError,
    MeanField,
    Spec,
    StandardNormal,
    build,
    draws_given,
    fit,
    imputations,
    load,
    log_marginal,
    save,
)
from pyro_vae.models.likelihoods import Poisson, SelfMasking
from pyro_vae.networks import Linear

pytestmark = pytest.mark.usefixtures("blank_figures")

NAN = torch.nan
NOISE = 0.5
Z = torch.linspace(-8, 8, 1601).double()
X = torch.linspace(-14, 14, 4001).double()


class Told:
    """`x_i | z ~ N(w_i z + m_i, NOISE^2)`, seen with probability `sigmoid(a_i + b_i x_i)`: not-MIWAE, linear."""

    w = torch.tensor([1.0, 1.5]).double()
    m = torch.tensor([0.5, -0.3]).double()
    a = torch.tensor([0.4, -0.2]).double()
    b = torch.tensor([-1.5, 0.8]).double()

    def __init__(self):
        likelihood = SelfMasking(
            (2,), likelihood=lambda shape: Gaussian(shape, scale=NOISE)
        )
        decoder, encoder = Linear((1,), (1, 2)), MLP((2,), hidden=(8,))
        guide = MeanField(encoder, 1)
        self.vae = VAE(
            StandardNormal(1), decoder, likelihood, guide, missing=True
        ).double()
        with torch.no_grad():
            decoder.layers[0].weight.copy_(self.w[:, None])
            decoder.layers[0].bias.copy_(self.m)
            likelihood.mask_bias.copy_(self.a)
            likelihood.mask_slope.copy_(self.b)
            guide.head.weight.zero_()
            guide.head.bias.zero_()  # the prior as proposal

    def of_element(self, i, x):
        """`log p(x_i, seen | z)`, or that it was not seen, for each z of the grid."""
        normal = torch.distributions.Normal(self.w[i] * Z + self.m[i], NOISE)
        if not x.isnan():
            return normal.log_prob(x) + logsigmoid(self.a[i] + self.b[i] * x)
        density = normal.log_prob(X[:, None]).exp()
        unseen = torch.sigmoid(-(self.a[i] + self.b[i] * X))[:, None]
        return torch.trapezoid(density * unseen, X, dim=0).log()

    def joint(self, row):
        """`p(z, x_seen, mask)` on the grid of z."""
        prior = torch.distributions.Normal(torch.zeros(()).double(), 1.0).log_prob(Z)
        return (prior + self.of_element(0, row[0]) + self.of_element(1, row[1])).exp()

    def moments(self, row, i):
        """Mean and standard deviation of `x_i` that was not seen, given all that is known of its row."""
        normal = torch.distributions.Normal(self.w[i] * Z + self.m[i], NOISE)
        tilted = normal.log_prob(X[:, None]).exp()
        tilted = tilted * torch.sigmoid(-(self.a[i] + self.b[i] * X))[:, None]
        tilted = tilted / torch.trapezoid(tilted, X, dim=0)
        density = torch.trapezoid(tilted * self.joint(row), Z, dim=1)
        density = density / torch.trapezoid(density, X)
        mean = torch.trapezoid(density * X, X)
        return mean, torch.trapezoid(density * (X - mean).square(), X).sqrt(), density


ROWS = torch.tensor([[0.3, -1.0], [NAN, 1.2], [2.0, NAN], [NAN, NAN]]).double()


def test_log_marginal_is_that_of_values_and_mask():
    told = Told()
    torch.manual_seed(0)
    found = log_marginal(told.vae.model, told.vae.guide, ROWS, num_particles=100_000)
    truth = torch.stack([torch.trapezoid(told.joint(row), Z) for row in ROWS]).log()
    assert ((found.values - truth).abs() < 4.5 * found.standard_errors + 1e-5).all()


def test_imputations_know_why_a_value_is_missing():
    told = Told()
    hidden = ROWS.clone()
    hidden[1, 0], hidden[2, 1] = 2.5, 0.7
    torch.manual_seed(0)
    found = imputations(told.vae, ROWS, num_particles=20_000, draws=4000, hidden=hidden)
    for row, i in ((1, 0), (2, 1), (3, 0), (3, 1)):
        mean, std, density = told.moments(ROWS[row], i)
        error = 4.5 * std / found.ess[row] ** 0.5
        assert abs(found.mean[row, i] - mean) < error
        assert abs(found.std[row, i] - std) < error
        drawn = found.draws[:, row, i]
        assert abs(drawn.mean() - mean) < error + 4.5 * std / 4000**0.5
        assert abs(drawn.std() - std) < error + 4.5 * std / 4000**0.5
        if row < 3:
            at = (X - hidden[row, i]).abs().argmin()
            assert abs(found.log_hidden[row] - density[at].log()) < 0.1


def test_bits_are_summed_exactly():
    likelihood = SelfMasking((1,), likelihood=Bernoulli).double()
    with torch.no_grad():
        likelihood.mask_bias.fill_(0.3)
        likelihood.mask_slope.fill_(-2.0)
    p = likelihood.partly(likelihood(torch.full((1, 1), 0.8).double()))
    probability, seen = torch.tensor([0.8]).double().sigmoid(), [0.3, 0.3 - 2.0]
    told = [torch.tensor(v, dtype=torch.float64).sigmoid() for v in seen]
    every = [(1 - probability) * told[0], probability * told[1]]
    for x, mass in zip((0.0, 1.0, NAN), (*every, 1 - sum(every)), strict=True):
        found = p.log_prob(torch.tensor([x]).double())
        torch.testing.assert_close(found, mass.log().squeeze(), rtol=1e-10, atol=1e-10)
    one = probability * (1 - told[1]) / (1 - sum(every))
    torch.testing.assert_close(likelihood.unseen(p).mean, one, rtol=1e-10, atol=1e-10)


def test_a_mean_that_is_told_too_low_is_corrected():
    """High values of the first column are not told: the mean of what is told is low, and so is that of MAR."""
    torch.manual_seed(0)
    z = torch.randn(4000, 1)
    x = torch.cat([z, z, z], 1) + 0.4 * torch.randn(4000, 3)
    truth = x[:, 0].mean()
    x[torch.rand(4000) < torch.sigmoid(4 * x[:, 0]), 0] = NAN
    means = []
    for likelihood in ("gaussian", "selfmasking"):
        torch.manual_seed(0)
        spec = Spec((3,), 1, network="linear", likelihood=likelihood, missing=True)
        vae = build(spec)
        fit(vae, x, epochs=30, learning_rate=1e-2)
        means.append(imputations(vae, x[:1000], num_particles=100).mean[:, 0].mean())
    told = x[:, 0].nanmean()
    assert told < truth - 0.4
    assert abs(means[1] - truth) < 0.08
    assert abs(means[1] - truth) < abs(means[0] - truth)
    slope = vae.model.likelihood.mask_slope[0] / vae.model.likelihood.inner.spread[0]
    assert -6 < slope < -2.5


def test_it_is_kept_and_what_it_cannot_take_is_refused(tmp_path):
    vae = build(
        Spec((3,), 1, likelihood="selfmasking(likelihood=bernoulli)", missing=True)
    )
    save(vae, tmp_path / "vae.safetensors")
    assert isinstance(
        load(tmp_path / "vae.safetensors").model.likelihood.inner, Bernoulli
    )
    with pytest.raises(InputError, match="must be Gaussian or Bernoulli"):
        SelfMasking((3,), likelihood=Poisson)
    with pytest.raises(InputError, match="not one that is not given"):
        draws_given(vae, torch.tensor([1.0, NAN, 0.0]))


def test_a_run_with_a_mask_is_compared_with_none_without(tmp_path, call):
    file = written(tmp_path / "x.csv", holed())
    runs = [tmp_path / "at-random", tmp_path / "not"]
    for run, likelihood in zip(runs, ("gaussian", "selfmasking"), strict=True):
        options = (
            "--dataset",
            file,
            "--missing",
            "keep",
            "--likelihood",
            likelihood,
            *SMALL,
        )
        assert call("train", *options, "--epochs", 2, "--output", run).code == 0
        assert call("evaluate", run, "--num-particles", 20).code == 0
        assert call("impute", run, "--num-particles", 20).code == 0
    said = call("compare", *runs)
    assert said.code == 2
    assert "of the values and of which of them were seen" in said.err
