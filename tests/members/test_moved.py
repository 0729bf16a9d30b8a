"""Draws that chains move before the model learns: against closed forms of linear models, and kept exactly."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from sklearn.decomposition import PCA
from torch.distributions import MultivariateNormal

from ppca import PPCA
from pyro_vae import (
    MLP,
    SVI,
    VAE,
    Bernoulli,
    Gaussian,
    InputError,
    MeanField,
    Spec,
    StandardNormal,
    build,
    compare_posterior,
    fit,
    log_marginal,
    terms,
)
from pyro_vae.data.bridges import AsStored
from pyro_vae.data.fields import Split
from pyro_vae.data.streams import Mapped
from pyro_vae.distributions.hamiltonian import hamiltonian_move, normal
from pyro_vae.engine import compiled
from pyro_vae.guides import Categorical, Delta, Moved, SemiAmortized
from pyro_vae.inference.epochs import Progress
from pyro_vae.inference.fit import run_epochs


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def within(found, expected, errors):
    return ((found - expected).abs() < 4.5 * errors).all()


def moved(truth, **options):
    """A pair of pPCA whose exact guide stands inside `Moved`."""
    exact = truth.vae.guide
    guide = Moved(exact.encoder, truth.latent_dim, guide=lambda *_: exact, **options)
    model = truth.vae.model
    return VAE(model.prior, model.decoder, model.likelihood, guide).double()


def unguided(truth, **options):
    """The same without a guide."""
    guide = Moved(MLP((1,)), truth.latent_dim, guide=None, persistent=True, **options)
    model = truth.vae.model
    return VAE(model.prior, model.decoder, model.likelihood, guide).double()


# --- the moves


def test_a_move_leaves_a_normal_as_it_is():
    """Of independent draws each move makes independent draws again; without rejections they would be too wide."""
    place = normal(torch.randn(40_000, 1, 2).double())
    for _ in range(3):
        place, accepted, gain = hamiltonian_move(place, normal, torch.ones(1) * 1.7, 4)
        assert 0.3 < accepted.double().mean() < 0.9
        assert (accepted == (accepted & gain.isfinite())).all()
    z = place.z[:, 0]
    error = len(z) ** -0.5
    assert within(z.mean(0), 0.0, error)
    assert within(z.square().mean(0), 1.0, error * 2**0.5)
    assert within(z.pow(4).mean(0), 3.0, error * 96**0.5)
    assert within(z.prod(1).mean(), 0.0, error)


def test_a_place_that_is_no_number_is_not_taken():
    def edge(z):
        place = normal(z)
        return place._replace(log_density=place[1].where(z[..., 0] < 0, torch.nan))

    place = edge(-torch.rand(200, 1, 2))
    for _ in range(5):
        place, _, _ = hamiltonian_move(place, edge, torch.ones(1), 3)
    assert (place.z[..., 0] < 0).all()


def test_moves_leave_the_posterior_of_the_model_as_it_is():
    truth = PPCA(2, 5)
    x = truth.sample(3)
    vae = moved(truth, moves=4, leapfrogs=3, chains=2000)
    vae.guide.log_step.fill_(math.log(0.55))
    z = vae.guide.move({"x": x})
    acceptance = vae.guide.counted()
    assert 0.3 < acceptance < 0.9
    covariance, size = truth.posterior_covariance, len(z)
    sd = covariance.diagonal().sqrt()
    mean = (x - truth.b) @ truth.gain.T
    assert within(z.mean(0), mean, sd / size**0.5)
    off = z - mean
    found = torch.einsum("cbi,cbj->bij", off, off) / size
    spread = (sd.outer(sd).square() + covariance.square()).sqrt()
    assert within(found, covariance, spread / size**0.5)


def test_chains_from_the_prior_come_to_the_posterior():
    """Errors are those of chains, by their effective number of draws."""
    truth = PPCA(2, 5)
    x = truth.sample(3)
    found = compare_posterior(
        *truth.pair,
        x,
        kernel="hmc",
        num_samples=100,
        warmup_steps=40,
        num_chains=40,
        leapfrogs=3,
    )
    mean, covariance = (x - truth.b) @ truth.gain.T, truth.posterior_covariance
    assert within(found.mean, mean, found.mean_errors)
    assert (found.mean_errors < 0.05 * covariance.diagonal().sqrt()).all()
    off = found.draws - mean[:, None, None]
    products = (off.unsqueeze(-1) * off.unsqueeze(-2)).flatten(-2)
    errors = found._diagnose("mcse", products, method="mean")
    assert within(products.mean((1, 2)), covariance.flatten(), errors)
    assert (errors < 0.15 * covariance.diagonal().min()).all()
    assert found.rhat.max() < 1.05
    assert "by HMC" in str(found)


@pytest.mark.slow
def test_chains_agree_with_nuts():
    decoder = MLP((2,), (1, 6), hidden=(5,))
    guide = MeanField(MLP((6,), hidden=()), 2)
    vae = VAE(StandardNormal(2), decoder, Bernoulli((6,)), guide).double()
    with torch.no_grad():
        decoder.layers[0].weight.mul_(4)
    x = vae.sample(1)
    nuts = compare_posterior(*vae.children(), x, num_samples=120, num_chains=2)
    options = {"num_samples": 150, "warmup_steps": 60, "num_chains": 20}
    chains = compare_posterior(*vae.children(), x, kernel="hmc", **options)
    assert nuts.rhat.max() < 1.05
    errors = (nuts.mean_errors.square() + chains.mean_errors.square()).sqrt()
    assert within(chains.mean, nuts.mean, errors)
    errors = (nuts.sd_errors.square() + chains.sd_errors.square()).sqrt()
    assert within(chains.sd, nuts.sd, errors)


# --- who learns what


def test_the_model_follows_the_gradient_of_log_px():
    """Fisher's identity: `E[grad log p(x, z)] = grad log p(x)` over the posterior, which the moves keep."""
    truth = PPCA(2, 4)
    x = truth.sample(6)
    vae = moved(truth, moves=1, leapfrogs=2, chains=200)
    svi = SVI(vae.model, vae.guide, torch.optim.SGD, build_elbo())
    w, b = vae.model.decoder.layers[0].weight, vae.model.decoder.layers[0].bias
    noise = torch.tensor(0.7).double()
    covariance = w @ w.T + noise**2 * torch.eye(4).double()
    joint = MultivariateNormal(b, covariance).log_prob(x).sum()
    expected = [-g for g in torch.autograd.grad(joint, [w, b])]
    found = []
    for _ in range(30):
        vae.zero_grad()
        svi.differentiate(x)
        found.append([p.grad.clone() for p in (w, b)])
    for each, truth_of in zip(zip(*found, strict=True), expected, strict=True):
        values = torch.stack(each)
        assert within(values.mean(0), truth_of, values.std(0) / len(values) ** 0.5)


def build_elbo():
    from pyro_vae import ELBO

    return ELBO()


def test_the_guide_learns_as_without_moves():
    spec = {"network": "mlp(hidden=(5,))"}
    x = torch.rand(7, 4).double().round()
    records, gradients = [], []
    for guide in ("meanfield", "moved(moves=3)"):
        torch.manual_seed(1)
        vae = build(Spec((4,), 2, guide=guide, **spec)).double()
        svi = SVI(vae.model, vae.guide, torch.optim.SGD, build_elbo())
        torch.manual_seed(2)
        _, record = svi.differentiate(x)
        records.append(record.values)
        gradients.append([p.grad for p in vae.guide.parameters()])
        of_model = [p.grad for p in vae.model.parameters()]
    torch.testing.assert_close(*records, rtol=0, atol=0)
    torch.testing.assert_close(*gradients, rtol=0, atol=0)
    assert all(g.isfinite().all() for g in of_model)


def test_what_is_evaluated_is_the_guide_inside():
    truth = PPCA(2, 5)
    x = truth.sample(20)
    vae = moved(truth)
    found = log_marginal(vae.model, vae.guide, x, num_particles=20)
    torch.testing.assert_close(
        found.values, truth.marginal.log_prob(x), rtol=0, atol=1e-9
    )
    assert type(vae.encode(x)) is type(truth.vae.encode(x))


def test_without_a_guide_chains_make_one_to_evaluate_with():
    """A normal near the posterior: log p(x) by its weights is right within its errors."""
    truth = PPCA(2, 5)
    x = truth.sample(20)
    vae = unguided(truth)
    found = log_marginal(vae.model, vae.guide, x, num_particles=400)
    off = found.mean - truth.marginal.log_prob(x).mean().item()
    assert abs(off) < 4.5 * found.monte_carlo_standard_error + 0.01
    q = vae.encode(x)
    sd = truth.posterior_covariance.diagonal().sqrt()
    assert ((q.mean - (x - truth.b) @ truth.gain.T).abs() < sd).all()
    assert (q.stddev < 2 * sd).all()
    assert (terms(vae.model, vae.guide, x).log_weight.mean() < found.mean).item()


# --- what is learned


def linear(dims, latent_dim, guide, *, noise="learned"):
    decoder = MLP((latent_dim,), (1, dims), hidden=())
    likelihood = Gaussian((dims,), scale=noise)
    return VAE(StandardNormal(latent_dim), decoder, likelihood, guide).double()


def marginal(vae):
    """`log p(x)` of a linear pair, by its parameters."""
    layer = vae.model.decoder.layers[0]
    w, b = layer.weight.detach(), layer.bias.detach()
    noise = scale_of(vae)
    return MultivariateNormal(b, w @ w.T + noise**2 * torch.eye(len(b)).double())


def scale_of(vae):
    return vae.decode(torch.zeros(1, 2).double()).stddev.flatten()[0].item()


def test_em_by_chains_alone_comes_to_the_maximum_of_pca():
    x = PPCA(2, 5).sample(200, seed=3)
    guide = Moved(
        MLP((1,)), 2, guide=None, persistent=True, moves=3, leapfrogs=3, chains=4
    )
    vae = linear(5, 2, guide)
    svi = SVI(vae.model, guide, torch.optim.Adam, build_elbo(), reduction="mean")
    guide.keep(len(x))
    for i in range(160):
        svi.optimizer.param_groups[0]["lr"] = 0.1 * (1 - i / 160) ** 2
        with guide.kept.visited(torch.arange(len(x))):
            svi.step(x)
    expected = PCA(2).fit(x.numpy()).score(x.numpy())
    assert marginal(vae).log_prob(x).mean().item() == pytest.approx(expected, abs=0.01)
    assert 0.4 < guide.counted() < 0.9


@pytest.mark.slow
def test_the_more_moves_the_less_bias():
    """Only the noise is learned, so that no rotation of W makes the posterior independent, as a mean-field guide wants.

    The ELBO is then highest at another noise than log p(x); both are known. The more moves, the nearer is the one that
    is learned to that of log p(x).
    """
    w = torch.tensor([[1.0, 0.9], [1.0, 1.1], [0.9, 1.0], [1.1, 1.0]]).double()
    eye = torch.eye(4).double()
    x = MultivariateNormal(torch.zeros(4).double(), w @ w.T + eye).sample((200,))

    def log_px(noise):
        p = MultivariateNormal(torch.zeros(4).double(), w @ w.T + noise**2 * eye)
        return p.log_prob(x).mean().item()

    def bound(noise):
        precision = torch.eye(2).double() + w.T @ w / noise**2
        return log_px(noise) - 0.5 * (
            precision.diagonal().log().sum() - precision.logdet()
        )

    of_bound, of_px = (
        minimize_scalar(
            lambda s, f=f: -float(f(s)), bounds=(0.3, 3), method="bounded"
        ).x
        for f in (bound, log_px)
    )
    assert of_bound - of_px > 0.1
    learned = {}
    for moves in (0, 1, 5, 20):
        torch.manual_seed(1)
        guide = Moved(MLP((4,), hidden=()), 2, moves=moves, leapfrogs=3, chains=4)
        vae = linear(4, 2, guide)
        layer = vae.model.decoder.layers[0]
        with torch.no_grad():
            layer.weight.copy_(w)
            layer.bias.zero_()
        layer.requires_grad_(False)
        options = {"epochs": 110, "batch_size": 200, "compile": False, "start": False}
        fit(
            vae,
            x,
            learning_rate=0.1,
            schedule=lambda t: (1 - t) ** 2 + 0.02,
            **options,
        )
        learned[moves] = scale_of(vae)
    values = {moves: log_px(noise) for moves, noise in learned.items()}
    assert learned[0] == pytest.approx(of_bound, abs=0.02)
    assert learned[20] == pytest.approx(of_px, abs=0.02)
    assert values[0] < values[1] < values[5] < values[20] + 1e-4
    assert values[20] == pytest.approx(log_px(of_px), abs=1e-3)


# --- kept chains


def trained(epochs, *, progress=None, vae=None, svi=None, stop=lambda: False, **how):
    x = torch.linspace(0, 1, 40).view(10, 4).double().round()
    if vae is None:
        torch.manual_seed(3)
        text = "moved(moves=2, leapfrogs=2, chains=2, persistent=True)"
        vae = build(Spec((4,), 2, guide=text, network="mlp(hidden=(5,))")).double()
        svi = SVI(
            vae.model, vae.guide, torch.optim.Adam, build_elbo(), reduction="mean"
        )
    options = {"epochs": epochs, "batch_size": 4, **how}
    progress = Progress() if progress is None else progress
    list(run_epochs(svi, x, progress=progress, stop=stop, **options))
    return vae, svi, progress


def state(vae):
    return [*vae.state_dict().values(), *vae.guide.training_state().values()]


def test_chains_are_kept_from_epoch_to_epoch():
    vae, svi, progress = trained(1, compile=False)
    kept = vae.guide.kept
    before = kept.z.clone()
    assert before.shape == (10, 2, 2)
    assert kept.steps.isfinite().all()
    assert not any("kept" in name for name in vae.state_dict())
    starts = []
    look = vae.guide._look
    vae.guide._look = lambda data, z: starts.append(z) or look(data, z)
    torch.manual_seed(5)
    order = torch.randperm(10)
    torch.manual_seed(5)
    trained(2, compile=False, vae=vae, svi=svi, progress=progress)
    torch.testing.assert_close(starts[0], before[order[:4]].movedim(1, 0))
    assert len(kept.here) == 0


def test_compiled_steps_with_kept_chains_equal_eager_ones(monkeypatch):
    monkeypatch.setattr(compiled, "compile_graph", lambda graph: graph.module)
    eager, *_ = trained(3, compile=False)
    graph, svi, _ = trained(3, compile=True)
    assert svi.compiled
    for mine, other in zip(state(graph), state(eager), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-8, atol=1e-8)


def test_a_run_goes_on_with_its_own_chains_alone():
    vae, svi, progress = trained(1, compile=False)
    vae.guide.keep(9)
    with pytest.raises(InputError, match=r"chains of 9 training data, and .* with 10"):
        trained(2, compile=False, vae=vae, svi=svi, progress=progress)
    with pytest.raises(InputError, match="does not say which data"):
        svi.step(torch.zeros(4, 4).double())


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda e: Moved(e, 2, guide=None), "give persistent=True"),
        (lambda e: Moved(e, 2, moves=0, persistent=True), "never moves the chains"),
        (lambda e: Moved(e, 2, moves=-1), "moves=-1 of Moved"),
        (lambda e: Moved(e, 2, guide=Delta), "Delta is a point"),
        (lambda e: Moved(e, 2, guide=Moved), "moved already"),
        (lambda e: Moved(e, 10, guide=Categorical), "Categorical are codes"),
        (lambda e: SemiAmortized(e, 2, guide=Moved), "cannot refine Moved"),
        (lambda e: Moved(e, 2).move({"x": torch.zeros(3, 4)}), "put both into a VAE"),
    ],
)
def test_what_cannot_be_moved_is_refused(make, said):
    with pytest.raises(InputError, match=said):
        make(MLP((4,), hidden=()))


@pytest.mark.parametrize(
    ("guide", "objective", "structure", "said"),
    [
        ("moved(guide=None, persistent=True)", "iwae", "vae", "has none"),
        ("moved", "elbo", "labelled(classes=3)", "structure without y"),
        ("moved", "elbo", "chain(dims=(2, 2))", "posterior of one layer alone"),
    ],
)
def test_pairs_that_chains_cannot_move_are_refused(guide, objective, structure, said):
    from pyro_vae.spec import problem

    context = 3 if "classes" in structure else 0
    spec = Spec((4,), 4, guide=guide, structure=structure, context=context)
    assert said in problem(spec, objective)


def test_a_loss_of_ones_own_is_refused():
    vae = build(Spec((4,), 2, guide="moved"))
    with pytest.raises(InputError, match="a loss each"):
        SVI(vae.model, vae.guide, torch.optim.SGD, lambda *_: torch.zeros(()))


def test_chains_of_data_on_disk_are_those_of_data_in_memory(tmp_path):
    x = torch.rand(20, 4).round()
    np.save(tmp_path / "x.npy", x.numpy())
    found = []
    for data in (x, Split(Mapped(tmp_path / "x.npy"), AsStored())):
        torch.manual_seed(0)
        text = "moved(persistent=True, moves=2)"
        vae = build(Spec((4,), 2, guide=text, network="mlp(hidden=(5,))"))
        torch.manual_seed(1)
        fit(vae, data, epochs=2, batch_size=8, compile=False, start=False)
        found.append(vae.guide.kept.z)
    torch.testing.assert_close(*found, rtol=0, atol=0)
