"""Linear-Gaussian pairs and finite mixtures: exact posteriors and EM, against closed forms and scikit-learn."""

import itertools
import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from sklearn.datasets import load_iris
from sklearn.decomposition import PCA, FactorAnalysis
from sklearn.mixture import GaussianMixture
from torch.distributions import MultivariateNormal

from ppca import assert_gradient_of
from pyro_vae import (
    MLP,
    SVI,
    VAE,
    Bernoulli,
    Gaussian,
    InputError,
    Spec,
    StandardNormal,
    build,
    elbo,
    fit,
    imputations,
    log_marginal,
)
from pyro_vae.guides import Exact
from pyro_vae.inference.em import EM
from pyro_vae.inference.terms import terms
from pyro_vae.models.program import formula
from pyro_vae.networks import Linear
from pyro_vae.objectives import ELBO
from pyro_vae.priors import Flow

X, D, K = 6, 2, 3
MIXTURE = "p(y) p(x|y); q(y|x)"


def pair(structure="Vae()", **options):
    """A pair with an exact guide and random weights, in float64."""
    classes = 0 if structure == "Vae()" else K
    context = classes + options.pop("condition", 0)
    given = {"network": "linear", "likelihood": "gaussian", "guide": "exact"} | options
    if structure == MIXTURE:
        structure = f"formula(text={MIXTURE!r}, classes=3, uniform=False)"
    vae = build(Spec((X,), D, structure=structure, context=context, **given)).double()
    torch.manual_seed(1)
    with torch.no_grad():
        for p in vae.parameters():
            p.copy_(0.5 * torch.randn_like(p))
    return vae


STRUCTURES = {
    "pca": pair,
    "factor analysis": lambda **o: pair(likelihood="gaussian(scale='element')", **o),
    "shared loadings": lambda **o: pair("labelled(classes=3, uniform=False)", **o),
    "factor analysers": lambda **o: pair(
        "labelled(classes=3, uniform=False)", network="linear(interaction=True)", **o
    ),
    "mixture": lambda **o: pair(MIXTURE, likelihood="gaussian(scale='network')", **o),
}
structures = pytest.mark.parametrize("name", STRUCTURES)


def parts(vae, c):
    """log p(y) of each class, and `p(x|y)` as a normal of full covariance, by the model's own arithmetic."""
    model, found = vae.model, []
    for k in range(max(vae.classes, 1)):
        y = torch.eye(K).double()[k : k + 1]
        context = [y] if vae.classes else []
        context += [c] if c is not None else []
        context = (torch.cat(context, -1),) if context else ()
        size = model.latent_dim
        zero = model.given(torch.zeros(1, size).double(), *context)
        mean = zero.mean[0]
        unit = [
            model.given(torch.eye(size).double()[i : i + 1], *context).mean[0] - mean
            for i in range(size)
        ]
        w = torch.stack(unit, -1) if unit else mean.new_zeros(X, 0)
        covariance = w @ w.T + torch.diag(zero.variance[0].expand(X))
        found.append((mean, covariance))
    logits = model.class_prior().logits if vae.classes else torch.zeros(1).double()
    return logits, found


def truth(vae, x, c=None):
    """`log p(x)` of each datum: of those elements that were seen, the classes summed over by hand."""
    logs = []
    for i, row in enumerate(x):
        logits, found = parts(vae, None if c is None else c[i : i + 1])
        seen = ~row.isnan()
        each = [
            MultivariateNormal(mean[seen], covariance[seen][:, seen]).log_prob(
                row[seen]
            )
            for mean, covariance in found
        ]
        logs.append(torch.logsumexp(logits + torch.stack(each), 0))
    return torch.stack(logs)


def with_holes(x):
    holes = torch.rand(x.shape) < 0.3
    holes[:, 0] = False
    return x.masked_fill(holes, math.nan)


@structures
@pytest.mark.parametrize("missing", [False, True], ids=["whole", "missing"])
def test_the_elbo_under_the_exact_guide_is_log_p(name, missing):
    vae = STRUCTURES[name](missing=missing)
    x = torch.randn(7, X).double()
    x = with_holes(x) if missing else x
    t = terms(vae.model, vae.guide, x, num_particles=3)
    weights = t.log_px + t.log_pz - t.log_qz
    torch.testing.assert_close(t.mean(weights), truth(vae, x), rtol=1e-10, atol=1e-10)
    found = log_marginal(vae.model, vae.guide, x, num_particles=20)
    assert max(found.pareto_k) == -math.inf  # all weights are equal


@pytest.mark.parametrize("name", ["pca", "factor analysis", "factor analysers"])
def test_equal_weights_are_told_in_float32(name):
    """Of log p(x), of imputation and of columns, though what is weighed is added up in float64."""
    torch.manual_seed(0)
    vae = STRUCTURES[name](missing=True).float()
    x = with_holes(torch.randn(40, X).double() * 3).float()
    result = log_marginal(vae.model, vae.guide, x, num_particles=200)
    assert result.equal
    assert "the guide is p(z|x) itself" in result.verdict()
    imputed = imputations(vae, x, num_particles=200)
    assert (imputed.pareto_k == -math.inf).all()


def test_a_condition_shifts_or_turns():
    for network in ("linear", "linear(interaction=True)"):
        for encoder_context in (True, False):
            vae = pair(network=network, condition=2, encoder_context=encoder_context)
            x, c = torch.randn(5, X).double(), torch.randn(5, 2).double()
            t = terms(vae.model, vae.guide, x, c=c)
            found = (t.log_px + t.log_pz - t.log_qz)[0]
            torch.testing.assert_close(found, truth(vae, x, c), rtol=1e-10, atol=1e-10)


def test_clusters_have_an_exact_posterior():
    vae = pair("clusters(classes=3)", prior="conditional(hidden=())")
    x = torch.randn(5, X).double()
    bound = elbo(vae.model, vae.guide, x).elbo
    logs = []
    for k in range(K):
        p = vae.model.prior(torch.eye(K).double()[k : k + 1])
        at_zero = vae.model.given(torch.zeros(1, D).double())
        w = (vae.model.given(torch.eye(D).double()).mean - at_zero.mean).T
        covariance = w @ torch.diag(p.variance[0]) @ w.T + torch.diag(
            at_zero.variance[0].expand(X)
        )
        mean = w @ p.mean[0] + at_zero.mean[0]
        logs.append(MultivariateNormal(mean, covariance).log_prob(x) - math.log(K))
    wanted = torch.logsumexp(torch.stack(logs), 0).mean()
    assert bound == pytest.approx(wanted.item())


def test_the_posterior_is_what_differentiation_finds():
    """Newton's method, whose one step is exact where log p(x, z) is quadratic."""
    vae, x = STRUCTURES["factor analysis"](), torch.randn(1, X).double()

    def log_joint(z):
        return vae.model.log_prob({"x": x, "z": z.unsqueeze(0)}).sum()

    z = torch.randn(D).double()
    slope = torch.autograd.functional.jacobian(log_joint, z)
    curvature = torch.autograd.functional.hessian(log_joint, z)
    covariance = -torch.linalg.inv(curvature)
    q = vae.encode(x)
    torch.testing.assert_close(q.mean[0], z + covariance @ slope)
    torch.testing.assert_close(q.covariance_matrix[0], covariance)


@structures
def test_the_gradient_is_that_of_log_p_and_has_no_noise(name):
    vae, x = STRUCTURES[name](), torch.randn(7, X).double()
    assert_gradient_of(vae, x, truth(vae, x).mean())


def iris():
    return torch.from_numpy(load_iris().data)


def linear(scale, size=4, latent_dim=2):
    decoder, guide = (
        Linear((latent_dim,), (1, size)),
        Exact(Linear((size,)), latent_dim),
    )
    likelihood = Gaussian((size,), scale=scale)
    return VAE(StandardNormal(latent_dim), decoder, likelihood, guide).double()


def rises(history):
    """The log-likelihoods of the epochs, which never fall."""
    found = [epoch.elbo for epoch in history]
    assert min(b - a for a, b in itertools.pairwise(found)) > -1e-9
    return found


@pytest.mark.parametrize("batch_size", [50, 1000])
def test_em_finds_principal_components(batch_size):
    torch.manual_seed(0)
    x, vae = iris(), linear("learned", latent_dim=1)
    options = {"epochs": 300, "optimizer": EM, "start": False}
    rises(fit(vae, x, batch_size=batch_size, **options))

    # Tipping and Bishop's maximum; scikit-learn takes the unbiased covariance.
    values = torch.linalg.eigvalsh(torch.cov(x.T, correction=0)).flip(0)
    noise = values[1:].mean()
    best = -0.5 * (4 * math.log(2 * math.pi) + values[0].log() + 3 * noise.log() + 4)
    found = elbo(vae.model, vae.guide, x).elbo
    assert found == pytest.approx(best.item(), abs=1e-6)
    assert found == pytest.approx(PCA(1).fit(x).score(x), abs=1e-3)


def test_em_turns_z_into_the_principal_axes():
    """The codes are scikit-learn's components, the first first, but for scale and sign."""
    torch.manual_seed(0)
    x, vae = iris(), linear("learned")
    fit(vae, x, epochs=400, batch_size=50, optimizer=EM, start=False)
    pca = PCA(D).fit(x)
    found, theirs = vae.encode(x).mean.detach().numpy(), pca.transform(x)
    values = np.linalg.eigvalsh(np.cov(x.T, bias=True))[::-1]
    noise = values[D:].mean()
    shrunk = theirs * np.sqrt(values[:D] - noise) / values[:D]
    signs = np.sign((found * theirs).sum(0))
    np.testing.assert_allclose(found * signs, shrunk, atol=1e-4)


def test_expanded_parameters_save_epochs(monkeypatch):
    """From a b that is far off, beside EM without them: never behind, and there when that is on its way."""

    def history():
        torch.manual_seed(0)
        vae, options = linear("learned"), {"optimizer": EM, "start": False}
        return rises(fit(vae, iris(), epochs=30, batch_size=150, **options))

    expanded = history()
    monkeypatch.setattr(
        "pyro_vae.inference.em._own_axes",
        lambda _, uu, __: (torch.eye(len(uu)).to(uu),) * 2,
    )
    plain = history()
    assert expanded[-1] > plain[-1] + 0.01
    highest = PCA(D).fit(iris()).score(iris())
    assert expanded[-1] == pytest.approx(highest, abs=2e-3)


@pytest.mark.parametrize("each", ["epoch", "batch"])
@pytest.mark.parametrize(
    "name", ["pca", "factor analysis", "shared loadings", "factor analysers"]
)
def test_after_em_the_latents_of_a_datum_are_independent(name, each):
    """And they are the same fit as without turning z, of which the sums of stepwise EM must know."""
    torch.manual_seed(0)
    x = torch.randn(60, X).double() @ torch.randn(X, X).double()
    x[:30] += 3
    vae, straight = STRUCTURES[name](), STRUCTURES[name]()
    options = {"epochs": 5, "batch_size": 20, "start": False}

    def em(p, lr):
        return EM(p, lr, each=each)

    torch.manual_seed(1)
    fit(vae, x, optimizer=em, **options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pyro_vae.inference.em.axes", lambda w, _: torch.eye(D).to(w))
        torch.manual_seed(1)
        fit(straight, x, optimizer=em, **options)
    torch.testing.assert_close(truth(vae, x), truth(straight, x), rtol=0, atol=1e-7)
    y = () if name in ("pca", "factor analysis") else (torch.eye(K).double()[:, None],)
    covariance = vae.guide.linear(*y).posterior(x, missing=False)[1]
    covariance = (covariance @ covariance.mT).flatten(0, -3) if y else covariance
    off = covariance - torch.diag_embed(covariance.diagonal(dim1=-2, dim2=-1))
    assert off.abs().max() < 1e-6
    variances = covariance.diagonal(dim1=-2, dim2=-1)
    assert (variances.diff(dim=-1) >= -1e-9).all()  # what x says most of stands first


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_em_finds_factors():
    torch.manual_seed(0)
    noise = torch.tensor([0.5, 1.0, 0.7, 0.9, 0.6, 0.8]).double()
    x = torch.randn(300, D).double() @ torch.randn(D, X).double()
    x, vae = x + noise * torch.randn(300, X), linear("element", size=X)
    rises(fit(vae, x, epochs=400, batch_size=1000, optimizer=EM))
    theirs = FactorAnalysis(D, tol=1e-8, max_iter=2000, svd_method="lapack").fit(x)
    assert elbo(vae.model, vae.guide, x).elbo == pytest.approx(
        theirs.score(x), abs=1e-3
    )


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_em_is_that_of_a_mixture_of_gaussians():
    """From the same start, step by step, and the log-likelihood at the same parameters."""
    torch.manual_seed(0)
    x, vae = iris()[:, :4], pair_of_mixture(4)
    theirs = GaussianMixture(
        K, covariance_type="diag", reg_covar=0.0, max_iter=1, tol=0.0
    )
    theirs.means_init = x[[0, 60, 120]].numpy()
    theirs.weights_init, theirs.precisions_init = np.ones(K) / K, np.ones((K, 4))
    with torch.no_grad():
        layer = vae.model.decoder.network.layers[0]
        layer.weight.zero_()
        layer.weight[:4] = x[[0, 60, 120]].T
        layer.bias.zero_()
    steps = 7
    rises(fit(vae, x, epochs=steps, batch_size=150, optimizer=EM, start=False))
    theirs.max_iter = steps
    theirs.fit(x)
    p = vae.model.class_prior().probs.detach().numpy()
    np.testing.assert_allclose(p, theirs.weights_, atol=1e-6)
    ours = elbo(vae.model, vae.guide, x).elbo
    assert ours == pytest.approx(theirs.score(x), abs=1e-6)
    shares = vae.predict(x).detach().numpy()
    np.testing.assert_allclose(shares, theirs.predict_proba(x), atol=1e-6)


def pair_of_mixture(size, **options):
    """A mixture of Gaussians with a diagonal covariance for each class."""
    given = {"likelihood": "gaussian(scale='network', min_scale=1e-9)"} | options
    structure = f"formula(text={MIXTURE!r}, classes=3, uniform=False)"
    spec = Spec((size,), structure=structure, context=K, network="linear", **given)
    return build(spec).double()


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        *((name, False) for name in STRUCTURES if name != "factor analysis"),
        ("factor analysers", True),
    ],
)
def test_em_ends_where_the_gradient_of_log_p_is_zero(name, missing):
    torch.manual_seed(0)
    vae = STRUCTURES[name](missing=missing)
    x = torch.randn(60, X).double() @ torch.randn(X, X).double()
    x[:30] += 3
    x = with_holes(x) if missing else x
    options = {"batch_size": 100, "optimizer": EM, "start": False}
    rises(fit(vae, x, epochs=200, **options))
    found = torch.autograd.grad(truth(vae, x).mean(), [*vae.parameters()])
    for p, g in zip(vae.parameters(), found, strict=True):
        assert g.abs().max() < 2e-3, (p.shape, g)


def test_em_learns_with_some_labels_and_a_condition():
    torch.manual_seed(0)
    vae = pair(
        "labelled(classes=3, uniform=False)",
        network="linear(interaction=True)",
        condition=1,
    )
    x, c = torch.randn(50, X).double(), torch.randn(50, 1).double()
    x = x + c
    labels = torch.eye(K).double()[torch.arange(50) % K]
    labels[10:] = math.nan
    data = {"x": x, "c": torch.cat([labels, c], -1)}
    rises(fit(vae, data, epochs=40, batch_size=25, optimizer=EM, start=False))


@pytest.mark.parametrize("likelihood", ["bernoulli", "poisson"])
def test_em_of_a_mixture_of_other_parts(likelihood):
    torch.manual_seed(0)
    rates = torch.tensor(
        [[0.9, 0.1, 0.1, 0.9], [0.1, 0.9, 0.2, 0.8], [0.1, 0.1, 0.9, 0.1]]
    )
    y = torch.randint(3, (600,))
    p = rates[y].double()
    x = p.bernoulli() if likelihood == "bernoulli" else torch.poisson(4 * p)
    vae = pair_of_mixture(4, likelihood=likelihood)
    rises(fit(vae, x, epochs=60, batch_size=600, optimizer=EM))
    found = vae.predict(x).argmax(1)
    pairs = torch.zeros(3, 3)
    pairs.index_put_((y, found), torch.ones(600), accumulate=True)
    assert pairs.amax(0).sum() > 400  # most of a class are together


def test_stepwise_em_comes_near():
    torch.manual_seed(0)
    x, best, vae = iris(), linear("learned"), linear("learned")
    fit(best, x, epochs=300, batch_size=150, optimizer=EM)
    stepwise = lambda p, lr: EM(p, lr, each="batch")  # noqa: E731
    fit(vae, x, epochs=60, batch_size=50, optimizer=stepwise)
    highest = elbo(best.model, best.guide, x).elbo
    assert highest - 0.05 < elbo(vae.model, vae.guide, x).elbo <= highest + 1e-6


def test_classes_begin_as_clusters():
    torch.manual_seed(0)
    x = torch.cat([torch.randn(40, 4) + 6 * i for i in range(3)]).double()
    vae = pair_of_mixture(4)
    fit(vae, x, epochs=20, batch_size=120, optimizer=EM)
    found = vae.predict(x).argmax(1).view(3, 40)
    assert sorted(row.unique().tolist() for row in found) == [[0], [1], [2]]


def test_formulas_without_a_vector():
    vae = build(Spec((X,), 5, structure=MIXTURE, context=10, likelihood="bernoulli"))
    assert formula(vae.model, vae.guide) == MIXTURE
    assert vae.model.latent_dim == 0
    for text, why in (
        ("p(y) p(x); q(y|x)", r"p\(x\|y\)"),
        ("p(y) p(x|y); q(z|x)", "no factor of z|z"),
        ("p(y) p(x|y);", "q has no factor of y"),
    ):
        with pytest.raises(InputError, match=why):
            build(Spec((X,), structure=text, context=10))
    for options in ({"guide": "fullrank"}, {"prior": "flow"}):
        with pytest.raises(InputError, match="leave"):
            build(Spec((X,), structure=MIXTURE, context=10, **options))


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"network": "mlp"}, "MLP makes no map"),
        ({"likelihood": "laplace"}, "Laplace and not Gaussian"),
        ({"likelihood": "gaussian(scale='network')"}, "one scale for all z"),
        ({"prior": "flow"}, "Flow and not Gaussian"),
        ({"structure": "chain(dims=(3, 2))"}, "layer"),
        ({"structure": "labelled(target='real')", "context": 1}, "real number"),
    ],
)
def test_what_has_no_closed_form_is_refused(options, why):
    given = {"network": "linear", "likelihood": "gaussian"} | options
    with pytest.raises(InputError, match=why):
        build(Spec((X,), 4, guide="exact", **given))


def test_maps_of_ones_own_count_as_what_they_do():
    """A module that is affine is taken, one that is not is refused, whatever their classes are called."""

    class Own(torch.nn.Module):
        def __init__(self, bend):
            super().__init__()
            self.layer, self.bend = torch.nn.Linear(D, X), bend

        def forward(self, z):
            h = self.layer(z)
            return (h + self.bend * h.square()).unsqueeze(-2)

    def made(bend):
        guide = Exact(torch.nn.Identity(), D)
        return VAE(StandardNormal(D), Own(bend), Gaussian((X,)), guide).double()

    vae, x = made(0.0), torch.randn(4, X).double()
    found = log_marginal(vae.model, vae.guide, x, num_particles=10)
    torch.testing.assert_close(found.values, truth(vae, x).detach())
    with pytest.raises(InputError, match="makes no map"):
        made(0.1)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"guide": "fullrank"}, "take the guide exact"),
        ({"weight_decay": 0.1}, "weight_decay=0.1 goes with gradients"),
        ({"objective": ELBO(beta=2.0)}, "leave it out"),
        ({"structure": "clusters(classes=3)", "context": 3}, "take standardnormal"),
    ],
)
def test_what_em_cannot_fit_is_refused(change, why):
    given = {"network": "linear", "likelihood": "gaussian", "guide": "exact"}
    of_fit = {k: change.pop(k) for k in ("weight_decay", "objective") if k in change}
    vae = build(Spec((X,), D, **given | change))
    with pytest.raises(InputError, match=why):
        fit(vae, torch.randn(20, X), epochs=1, optimizer=EM, **of_fit)


def test_em_refuses_what_it_cannot_set():
    guide = Exact(MLP((4,)), 2)
    own = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Unflatten(-1, (1, 4)))
    vae = VAE(StandardNormal(2), own, Gaussian((4,)), guide)
    with pytest.raises(InputError, match="needs a linear decoder"):
        fit(vae, torch.randn(20, 4), epochs=1, optimizer=EM)
    with pytest.raises(InputError, match="p\\(x\\|z\\) is Bernoulli"):
        VAE(StandardNormal(2), Linear((2,), (1, 4)), Bernoulli((4,)), guide)


def test_em_says_where_it_would_not_train():
    """A part alone, what is frozen, another pair, and a prior that takes the closed form away."""
    x = torch.randn(20, X)
    given = {"network": "linear", "likelihood": "gaussian", "guide": "exact"}
    vae = build(Spec((X,), D, **given))
    with pytest.raises(InputError, match="names a part"):
        SVI(vae.model, vae.guide, EM, ELBO(), only=vae.model.decoder)
    vae.model.decoder.layers[0].bias.requires_grad_(False)
    with pytest.raises(InputError, match="some of it is frozen"):
        SVI(vae.model, vae.guide, EM, ELBO())
    with pytest.raises(InputError, match="Flow and not Gaussian"):
        vae.with_prior(Flow(D))

    def model(x):
        z = pyro.sample("z", dist.Normal(pyro.param("loc", torch.zeros(())), 1.0))
        pyro.sample("x", dist.Normal(z, 1.0).expand([len(x)]).to_event(1), obs=x)

    def guide(x):
        pyro.sample("z", dist.Normal(pyro.param("at", torch.zeros(())), 1.0))

    pyro.clear_param_store()
    svi = SVI(model, guide, EM, Trace_ELBO())
    with pytest.raises(InputError, match="this pair is another"):
        svi.step(x[:, 0])
