"""Data with missing values: densities of what was seen against closed forms, and what an encoder is given of them."""

import numpy as np
import pytest
import torch
from torch.distributions import MultivariateNormal

from example import example
from ppca import PPCA
from pyro_vae import (
    MLP,
    VAE,
    Bernoulli,
    Gaussian,
    InputError,
    MeanField,
    Spec,
    StandardNormal,
    annealed_importance_sampling,
    build,
    draws_given,
    fit,
    imputations,
    load,
    log_marginal,
    log_marginal_adaptive,
    log_marginal_refined,
    save,
    variants,
)
from pyro_vae.data.inputs import moments
from pyro_vae.data.representation import Representation
from pyro_vae.models.likelihoods import (
    Categorical,
    DiscretizedLogisticMixture,
    Likelihood,
    Ordinal,
)
from pyro_vae.networks import ConvNet, Standardised, with_mask
from pyro_vae.networks.views import Seen, View

pytestmark = pytest.mark.usefixtures("blank_figures")

NAN = torch.nan


def with_holes(x, share=0.4, seed=0):
    """Data of which some elements were not seen."""
    generator = torch.Generator().manual_seed(seed)
    return x.masked_fill(torch.rand(x.shape, generator=generator) < share, NAN)


class HoledPPCA(PPCA):
    """`PPCA` that takes missing values; the guide fills in their mean, so that it is wrong and wide."""

    def __init__(self, *, widen=1.8, **options):
        super().__init__(widen=widen, **options)
        model, guide = self.vae.model, self.vae.guide
        guide.encoder = guide.encoder.body
        self.vae = VAE(
            model.prior, model.decoder, model.likelihood, guide, missing=True
        ).double()
        guide.encoder.fill.copy_(self.b)

    def log_prob(self, x):
        """`log p(x_seen)`, `(N,)`: the marginal of a Gaussian is a Gaussian."""
        return torch.stack([self._seen(row) for row in x])

    def _seen(self, row):
        seen = ~row.isnan()
        if not seen.any():
            return row.new_zeros(())
        covariance = self.marginal.covariance_matrix[seen][:, seen]
        return MultivariateNormal(self.b[seen], covariance).log_prob(row[seen])

    def conditional(self, row):
        """Mean and covariance of `p(x_missing | x_seen)`."""
        seen, s = ~row.isnan(), self.marginal.covariance_matrix
        gain = s[~seen][:, seen] @ torch.linalg.inv(s[seen][:, seen])
        mean = self.b[~seen] + gain @ (row[seen] - self.b[seen])
        return mean, s[~seen][:, ~seen] - gain @ s[seen][:, ~seen]


# --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "estimate",
    [
        lambda pair, x: log_marginal(*pair, x, num_particles=4000),
        lambda pair, x: log_marginal_refined(pair, x, num_particles=4000, steps=20),
        lambda pair, x: log_marginal_adaptive(pair, x, num_particles=1000, steps=20)[0],
        lambda pair, x: annealed_importance_sampling(
            pair[0], x, num_chains=64, num_temperatures=60
        ),
    ],
    ids=["weights", "refined", "adaptive", "annealed"],
)
def test_log_marginal_is_that_of_what_was_seen(estimate):
    ppca = HoledPPCA()
    x = with_holes(ppca.sample(12))
    x[5] = NAN
    torch.manual_seed(0)
    found, truth = estimate(ppca.pair, x), ppca.log_prob(x)
    assert truth[5] == 0
    error = found.standard_errors.double()
    assert ((found.values - truth).abs() < 4.5 * error + 1e-3).all()


def test_what_is_whole_has_the_density_that_it_has_without_missing_values():
    ppca, holed = PPCA(), HoledPPCA()
    x = ppca.sample(5)
    z = torch.randn(5, 2).double()
    whole, partly = ppca.vae.decode(z), holed.vae.decode(z)
    torch.testing.assert_close(
        partly.log_prob(x), whole.log_prob(x), rtol=1e-12, atol=0
    )
    assert torch.equal(partly.mean, whole.mean)
    assert torch.equal(partly.variance, whole.variance)


AT_RANDOM = [cls for name, cls in variants(Likelihood).items() if name != "SelfMasking"]


@pytest.mark.parametrize("cls", AT_RANDOM, ids=lambda c: c.__name__)
def test_each_likelihood_counts_the_elements_that_were_seen(cls):
    """As that of each element alone, whose parameters all start alike."""
    torch.manual_seed(0)
    likelihood, alone = cls((4,)).double(), cls((1,)).double()
    h = torch.randn(3, *likelihood.output_shape).double().requires_grad_()
    x = with_holes(example(likelihood.support, 3, 4))
    x[0] = NAN
    found = likelihood.partly(likelihood(h)).log_prob(x)
    found.sum().backward()
    assert h.grad.isfinite().all()
    expected = torch.zeros(3).double()
    for i in range(4):
        each = alone(h[..., i : i + 1]).log_prob(x[:, i : i + 1].nan_to_num(0.5))
        expected += each.where(~x[:, i].isnan(), 0.0)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_a_likelihood_of_elements_that_hang_together_is_refused():
    with pytest.raises(InputError, match="several elements of x one density"):
        VAE(
            StandardNormal(2),
            MLP((2,), (20, 3, 4, 4)),
            DiscretizedLogisticMixture((3, 4, 4)),
            MeanField(MLP((3, 4, 4)), 2),
            missing=True,
        ).decode(torch.zeros(1, 2))


# --------------------------------------------------------------------------------------------------------------------


def test_an_encoder_sees_the_fill_and_the_mask():
    body = torch.nn.Identity()
    body.in_shape = (4,)
    encoder = Standardised(body, (2,), 4, missing=True)
    mean, spread = torch.tensor([10.0, 20.0]), torch.tensor([2.0, 4.0])
    encoder.count_in(mean, spread, mean)
    seen = encoder(torch.tensor([[12.0, NAN], [NAN, 16.0]]))
    assert seen.tolist() == [[1, 0, 1, 0], [0, -1, 0, 1]]


@pytest.mark.parametrize(("shape", "place"), [((5, 6), 0), ((3, 5, 6), slice(0, 3))])
def test_a_convolution_sees_the_mask_as_further_channels(shape, place):
    encoder = Standardised(ConvNet(with_mask(shape)), shape, 7, missing=True)
    x = torch.randn(2, 4, *shape)
    x[..., 1, 2] = NAN
    seen = encoder.standardise(x)
    assert seen.shape == (2, 4, *with_mask(shape))
    channels = seen[:, :, place]
    assert torch.equal(channels, x.nan_to_num(0.0))
    assert torch.equal(
        seen[:, :, 1 if place == 0 else slice(3, 6)], (~x.isnan()).float()
    )
    assert encoder(x).isfinite().all()


def test_an_encoder_of_mixed_columns_sees_categories_that_are_missing_by_their_shares():
    view = View([Seen("number"), Seen("category", 3), Seen("log")], (3,))
    x = torch.tensor([[1.0, 0, 1], [NAN, 2, 4], [3, 2, NAN], [5, NAN, NAN]])
    shift, spread, mean = view.units(x)
    assert shift.tolist()[:4] == [3, 0, 0, 0]
    assert spread[0].item() == pytest.approx(np.std([1, 3, 5]))
    torch.testing.assert_close(mean[1:4], torch.tensor([1 / 3, 0, 2 / 3]))
    encoder = Standardised(MLP((8,)), (3,), 200, view, missing=True)
    encoder.count_in(shift, spread, mean)
    seen = encoder.standardise(x)
    assert seen.isfinite().all()
    torch.testing.assert_close(seen[3, 1:4], mean[1:4])
    assert seen[:, 5:].tolist() == (~x.isnan()).tolist()


def test_an_encoder_of_another_shape_is_refused():
    with pytest.raises(InputError, match=r"reads data of shape \(3,\).*come as \(4,\)"):
        Standardised(MLP((3,)), (2,), 200, missing=True)


def test_without_missing_values_nothing_is_filled_or_masked():
    vae = build(Spec((4,), 2, likelihood="gaussian"))
    assert vae.guide.encoder.body.in_shape == (4,)
    assert "fill" not in dict(vae.guide.encoder.named_buffers())
    assert not vae.model.likelihood.missing


# --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1000, 7])
def test_moments_are_those_of_what_was_seen(batch, monkeypatch):
    monkeypatch.setattr("pyro_vae.data.inputs.CHUNK", 3 * batch)
    x = with_holes(torch.randn(50, 3).double() * 5 + 2)
    x[:20, 1] = NAN
    mean, std = moments(x)
    np.testing.assert_allclose(mean, np.nanmean(x, 0), rtol=1e-12)
    np.testing.assert_allclose(std, np.nanstd(x, 0), rtol=1e-12)


def test_what_numbers_are_is_told_by_those_that_were_seen():
    bits = torch.tensor([[0.0, NAN], [1.0, 1.0]])
    assert Representation.of(bits) is Representation.BINARY
    assert Representation.of(bits * 7) is Representation.COUNTS
    assert Representation.of(torch.full((2, 2), NAN)) is Representation.REAL


@pytest.mark.parametrize("cls", [Categorical, Ordinal])
def test_shares_of_levels_are_those_of_what_was_seen(cls):
    likelihood = cls((1,), levels=3)
    x = torch.tensor([0.0, 1, 1, 2, 2, 2, NAN, NAN])[:, None]
    likelihood.meet(x)
    h = likelihood.starting_output(torch.zeros(1), torch.ones(1))
    shares = likelihood(h).log_prob(torch.arange(3.0)[:, None]).exp()
    torch.testing.assert_close(shares, torch.tensor([1.5, 2.5, 3.5]) / 7.5)


def test_a_pair_says_whether_it_takes_missing_values():
    x = torch.tensor([[0.0, 1.0], [1.0, NAN]])
    with pytest.raises(InputError, match=r"missing in datum 1 .*missing=True"):
        fit(build(Spec((2,), 1)), x, epochs=1)
    takes = build(Spec((2,), 1, missing=True))
    fit(takes, x, epochs=1)
    with pytest.raises(
        InputError, match="data holds values that Bernoulli does not accept"
    ):
        fit(takes, x * 3, epochs=1)
    with pytest.raises(InputError, match="infinite"):
        fit(takes, x / 0, epochs=1)


def test_a_data_frame_may_have_blanks():
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame({"a": [0, 1, 1], "b": [1, None, 0]})
    vae = build(Spec((2,), 1, missing=True))
    fit(vae, table, epochs=1)
    whole = log_marginal(vae.model, vae.guide, table, num_particles=5).values
    assert whole.isfinite().all()
    with pytest.raises(
        InputError, match="column 'b' of data holds a value that is missing"
    ):
        fit(build(Spec((2,), 1)), table, epochs=1)


def test_a_fit_finds_how_columns_hang_together_in_spite_of_holes():
    """Columns that are one number and noise: log p(x_seen) above that of independent columns, near the truth."""
    ppca = HoledPPCA(latent_dim=1, dims=4, noise=0.5)
    x, held_out = (
        with_holes(ppca.sample(2000), 0.5),
        with_holes(ppca.sample(500, seed=1), 0.5),
    )
    torch.manual_seed(0)
    small = {"network": "mlp(hidden=(32,))", "likelihood": "gaussian(scale='element')"}
    vae = build(Spec((4,), 1, missing=True, **small)).double()
    fit(vae, x, epochs=30, learning_rate=3e-3)
    found = log_marginal(vae.model, vae.guide, held_out, num_particles=300).mean
    mean, std = moments(x)
    normal = torch.distributions.Normal(mean, std, validate_args=False)
    apart = normal.log_prob(held_out).nansum(1).mean()
    truth = ppca.log_prob(held_out).mean()
    assert truth - found < 0.1 * (truth - apart)


def test_a_pair_that_takes_missing_values_is_kept(tmp_path):
    vae = build(Spec((4,), 2, missing=True, likelihood="gaussian"))
    x = with_holes(torch.randn(60, 4))
    fit(vae, x, epochs=1)
    save(vae, tmp_path / "pair.safetensors")
    again = load(tmp_path / "pair.safetensors")
    torch.manual_seed(0)
    first = vae.reconstruct(x)
    torch.manual_seed(0)
    assert torch.equal(again.reconstruct(x), first)
    assert first.isfinite().all()


def test_a_pair_made_by_hand():
    vae = VAE(
        StandardNormal(1),
        MLP((1,), (1, 2)),
        Bernoulli((2,)),
        MeanField(MLP(with_mask((2,))), 1),
        missing=True,
    )
    assert vae.guide.encoder.masked
    only_filled = VAE(
        StandardNormal(1),
        MLP((1,), (1, 2)),
        Gaussian((2,)),
        MeanField(MLP((2,)), 1),
        missing=True,
    )
    assert not only_filled.guide.encoder.masked
    for pair in (vae, only_filled):
        x = torch.tensor([[0.0, NAN], [1.0, 1.0]])
        assert pair.encode(x).mean.isfinite().all()


# --------------------------------------------------------------------------------------------------------------------


def test_imputations_are_those_of_the_closed_form():
    """Means, standard deviations, draws, and the density of what was hidden; the intervals cover it."""
    ppca = HoledPPCA(widen=4.0)
    whole = ppca.sample(200)
    x = with_holes(whole)
    x[7] = NAN
    torch.manual_seed(0)
    found = imputations(ppca.vae, x, num_particles=4000, draws=400, hidden=whole)
    assert torch.equal(found.missing, x.isnan())
    assert torch.equal(found.mean[~found.missing], x[~found.missing])
    assert torch.equal(
        found.draws[:, ~found.missing], x[~found.missing].expand(400, -1)
    )
    torch.testing.assert_close(found.log_seen, ppca.log_prob(x), rtol=0, atol=0.2)
    off, spread, log_hidden, inside = [], [], [], []
    for i, row in enumerate(x):
        m = row.isnan()
        if not m.any():
            assert found.log_hidden[i].abs() < 1e-12
            continue
        mean, covariance = ppca.conditional(row)
        std = covariance.diagonal().sqrt()
        off.append((found.mean[i, m] - mean) / std)
        spread.append(found.std[i, m] / std)
        log_hidden.append(
            found.log_hidden[i]
            - MultivariateNormal(mean, covariance).log_prob(whole[i, m])
        )
        low, high = found.draws[:, i, m].quantile(
            torch.tensor([0.05, 0.95]).double(), dim=0
        )
        inside.append((low <= whole[i, m]) & (whole[i, m] <= high))
        drawn = found.draws[:, i, m].mean(0)
        errors = (drawn - found.mean[i, m]) / found.std[i, m] * 400**0.5
        assert (errors.abs() < 5.5).all()
    enough = 2 / found.ess.min().sqrt()  # of a standard deviation
    assert torch.cat(off).abs().max() < 3 * enough
    assert torch.cat(spread).sub(1).abs().max() < 3 * enough
    assert torch.stack(log_hidden).abs().max() < 0.3
    assert torch.stack(log_hidden).mean().abs() < 0.02
    covered = torch.cat(inside).double()
    assert abs(covered.mean() - 0.9) < 4 * (0.09 / len(covered)) ** 0.5


def test_imputations_do_not_depend_on_the_memory():
    ppca = HoledPPCA()
    x = with_holes(ppca.sample(20))
    torch.manual_seed(0)
    one = imputations(ppca.vae, x, num_particles=3000)
    two = imputations(ppca.vae, x, num_particles=3000, memory=2**22)
    assert (one.mean - two.mean).abs().max() < 0.3
    assert two.ess.shape == (20,)


@pytest.mark.parametrize("cls", variants(Likelihood).values(), ids=lambda c: c.__name__)
def test_every_likelihood_is_imputed_within_what_it_takes(cls):
    torch.manual_seed(0)
    vae = build(Spec((4,), 2, likelihood=cls.__name__, missing=True)).double()
    x = with_holes(example(vae.model.likelihood.support, 9, 4))
    x[2] = NAN
    found = imputations(vae, x, num_particles=50, draws=3)
    for values in (found.point, *found.draws):
        assert values.isfinite().all()
        assert torch.equal(values[~x.isnan()], x[~x.isnan()])
    vae.model.likelihood.check(found.draws)
    if cls.__name__ in ("Bernoulli", "Categorical", "Ordinal"):
        vae.model.likelihood.check(found.point)


def test_the_most_probable_category_stands_for_the_others():
    """Of a mixture of two latents: 0.6 (0.5, 0.4, 0.1) + 0.4 (0.1, 0.2, 0.7) has 0.34, 0.32, 0.34 + ..."""
    likelihood = Categorical((1,), levels=3)
    masses = torch.tensor([[0.5, 0.4, 0.1], [0.1, 0.2, 0.7]])
    p = likelihood.partly(likelihood(masses.log()[:, None, :, None]))
    weights = torch.tensor([[0.5], [0.5]])  # 0.3, 0.3, 0.4
    assert likelihood.point(p, weights).tolist() == [[2]]
    assert likelihood.point(p, torch.tensor([[0.9], [0.1]])).tolist() == [[0]]


def test_what_cannot_be_imputed_is_refused():
    x = torch.tensor([[0.0, NAN]])
    with pytest.raises(InputError, match=r"takes no missing values.*missing=True"):
        imputations(build(Spec((2,), 1)), x)
    with pytest.raises(InputError, match="Delta has none"):
        imputations(build(Spec((2,), 1, guide="delta", missing=True)), x)
    with pytest.raises(InputError, match="draws"):
        imputations(build(Spec((2,), 1, missing=True)), x, draws=10**13)


# --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", [True, False])
def test_draws_given_a_part_are_those_of_the_closed_form(missing):
    """From the guide where it takes missing values, and else from the prior."""
    ppca = HoledPPCA(widen=4.0) if missing else PPCA()
    known = ppca.sample(1)[0]
    known[[1, 3, 4]] = NAN
    mean, covariance = HoledPPCA().conditional(known)
    torch.manual_seed(0)
    found = draws_given(ppca.vae, known, 4000, num_particles=40_000)
    rest = found.draws[:, [1, 3, 4]]
    assert torch.equal(found.draws[:, [0, 2]], known[[0, 2]].expand(4000, 2))
    error = covariance.diagonal().sqrt() * (1 / 4000 + 1 / found.ess) ** 0.5
    assert ((rest.mean(0) - mean).abs() < 4.5 * error).all()
    spread = covariance.diagonal().unsqueeze(1) * covariance.diagonal()
    off = (torch.cov(rest.T) - covariance).abs() / spread.sqrt()
    assert off.max() < 4.5 * 2 * (1 / 4000 + 1 / found.ess) ** 0.5
    truth = HoledPPCA().log_prob(known[None])[0]
    assert abs(found.log_known - truth) < 5 / found.ess**0.5


def test_what_no_draw_bears_weight_for_is_refused():
    ppca = PPCA(noise=0.01)
    known = torch.tensor([1e4, NAN, NAN, NAN, NAN]).double()
    with pytest.raises(InputError, match="no draws can be made"):
        draws_given(ppca.vae, known, num_particles=1000)
    for wrong in (torch.zeros(5), torch.full((5,), NAN), torch.zeros(4)):
        with pytest.raises(InputError, match=r"one datum of shape \(5,\)"):
            draws_given(ppca.vae, wrong)
    with pytest.raises(InputError, match="Bernoulli does not accept"):
        draws_given(build(Spec((2,), 1)), torch.tensor([0.5, NAN]))
