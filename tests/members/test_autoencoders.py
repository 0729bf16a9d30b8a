"""Autoencoders: against PCA, the Wiener filter, autodiff and hand sums; what corruption touches and what not."""

import math

import pytest
import torch
import torch._inductor.config
from sklearn.decomposition import PCA

from pyro_vae import SVI, VAE, InputError, Spec, build, fit, terms
from pyro_vae.guides import Delta, MeanField
from pyro_vae.inference.corrupting import corrupted, corrupted_data
from pyro_vae.inference.stacking import stack
from pyro_vae.likelihoods import Gaussian
from pyro_vae.networks import MLP, Linear, Mask, Noise, Salt
from pyro_vae.networks.corruptions import Corruption
from pyro_vae.objectives import Autoencoder
from pyro_vae.priors import StandardNormal, VampPrior
from pyro_vae.spec import parse


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def linear(size=6, latent_dim=2):
    """A linear autoencoder with a Gaussian of scale 1, in float64."""
    guide = Delta(Linear((size,)), latent_dim)
    decoder = Linear((latent_dim,), (1, size))
    return VAE(
        StandardNormal(latent_dim), decoder, Gaussian((size,), scale=1.0), guide
    ).double()


def correlated(n=300, size=6):
    x = torch.randn(n, size).double() @ torch.randn(size, size).double()
    return x - x.mean(0)


def test_a_linear_autoencoder_is_pca():
    x, vae = correlated(), linear()
    objective = Autoencoder()
    optimizer = torch.optim.LBFGS(
        vae.parameters(),
        max_iter=2000,
        line_search_fn="strong_wolfe",
        tolerance_grad=1e-10,
        tolerance_change=1e-14,
    )

    def closure():
        optimizer.zero_grad()
        loss = objective.differentiable_loss(vae.model, vae.guide, x) / len(x)
        loss.backward()
        return loss

    optimizer.step(closure)
    pca = PCA(2).fit(x)
    made = torch.from_numpy(pca.inverse_transform(pca.transform(x)))
    ours = (vae.reconstruct(x) - x).square().mean()
    assert ours.item() == pytest.approx((made - x).square().mean().item(), rel=1e-6)


@pytest.mark.slow
def test_a_linear_denoising_autoencoder_is_the_wiener_filter():
    """The best map of rank D is `U_D diag(l / (l + s^2)) U_D^T`, its error `tr S - sum_d l_d^2 / (l_d + s^2)`."""
    x, sigma = correlated(), 0.7
    x = x / x.std()
    vae = linear()
    with corrupted(vae.guide, Noise(scale=sigma)):
        vae.train()
        optimizer = torch.optim.Adam(vae.parameters())
        for step in range(900):
            optimizer.param_groups[0]["lr"] = 0.03 * (1 - step / 900)
            loss = Autoencoder().differentiable_loss(vae.model, vae.guide, x)
            optimizer.zero_grad()
            (loss / len(x)).backward()
            optimizer.step()
    w = vae.model.decoder.layers[0].weight @ vae.guide.head.weight
    s = x.T @ x / len(x)
    off = torch.eye(6).double() - w
    error = (off @ s @ off.T).trace() + sigma**2 * w.square().sum()
    values, vectors = torch.linalg.eigh(s)
    best, u = values[-2:], vectors[:, -2:]
    truth = s.trace() - (best.square() / (best + sigma**2)).sum()
    assert error.item() == pytest.approx(truth.item(), rel=2e-3)
    wiener = u @ torch.diag(best / (best + sigma**2)) @ u.T
    torch.testing.assert_close(w, wiener, rtol=0, atol=0.05)


def pair(latent_dim=3, guide="delta", **options):
    spec = Spec(
        (5,),
        latent_dim,
        guide=guide,
        network="mlp(hidden=(7,), activation='tanh')",
        **options,
    )
    return build(spec).double()


def test_the_contractive_penalty_is_that_of_autodiff():
    vae, x = pair(), torch.rand(4, 5).double().round()
    objective = Autoencoder(contractive=0.3)

    def encode(datum):
        return vae.guide.head(vae.guide.encoder(datum))

    def penalty():
        each = [
            torch.autograd.functional.jacobian(encode, d, create_graph=True) for d in x
        ]
        return 0.3 * torch.stack([j.square().sum() for j in each]).sum()

    t = objective.terms_of(vae.model, vae.guide, x)
    loss = objective.loss_of(t)
    truth = -t.log_px.sum() + penalty()
    torch.testing.assert_close(loss, truth)
    weights = list(vae.parameters())
    ours = torch.autograd.grad(loss, weights, retain_graph=True)
    theirs = torch.autograd.grad(truth, weights)
    torch.testing.assert_close(ours, theirs)


def test_the_contractive_penalty_of_many_latents_is_right_on_average():
    vae, x = pair(20), torch.rand(4, 5).double().round()
    objective = Autoencoder(contractive=1.0)
    truth = torch.stack(
        [
            torch.autograd.functional.jacobian(
                lambda d: vae.guide.head(vae.guide.encoder(d)), d
            )
            .square()
            .sum()
            for d in x
        ]
    )
    drawn = torch.stack(
        [-objective.terms_of(vae.model, vae.guide, x).aim.detach() for _ in range(200)]
    )
    error = drawn.std(0) / len(drawn) ** 0.5
    assert ((drawn.mean(0) - truth).abs() < 4.5 * error).all()


def test_the_contractive_penalty_of_data_with_missing_values_is_that_of_what_was_seen():
    vae, x = pair(likelihood="gaussian", missing=True), torch.rand(4, 5).double()
    x[:, 2] = torch.nan
    objective = Autoencoder(contractive=1.0)
    loss = objective.differentiable_loss(vae.model, vae.guide, x)
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad.isfinite().all() for p in vae.parameters() if p.grad is not None)


def test_the_sparse_penalty_by_hand():
    vae, x = pair(2), torch.rand(4, 5).double().round()
    plain, sparse = Autoencoder(), Autoencoder(sparse=0.5, target=0.1)
    t = plain.terms_of(vae.model, vae.guide, x)
    z = t.sites["z"].value[0].detach()
    penalty = 0.0
    for d in range(2):
        a = sum(1 / (1 + math.exp(-v)) for v in z[:, d].tolist()) / 4
        penalty += 0.1 * math.log(0.1 / a) + 0.9 * math.log(0.9 / (1 - a))
    more = (sparse.loss_of(t) - plain.loss_of(t)).item()
    assert more == pytest.approx(4 * 0.5 * penalty)


@pytest.mark.parametrize("standard", [False, True])
def test_corruptions_do_what_they_say(standard):
    x = torch.full((200_000,), 0.3, dtype=torch.float64)
    noisy = Noise(scale=0.2)(x, standard=standard) - x
    assert abs(noisy.mean()) < 4.5 * 0.2 / len(x) ** 0.5
    assert noisy.std().item() == pytest.approx(0.2, rel=0.01)
    masked = Mask(share=0.4)(x, standard=standard)
    assert set(masked.unique().tolist()) == {0.0, 0.3}
    share_error = 4.5 * (0.25 / len(x)) ** 0.5
    assert abs((masked == 0).double().mean() - 0.4) < share_error
    salted = Salt(share=0.3, size=3.0)(x, standard=standard)
    low, high = (-3.0, 3.0) if standard else (0.0, 1.0)
    assert set(salted.unique().tolist()) == {low, 0.3, high}
    for end in (low, high):
        assert abs((salted == end).double().mean() - 0.15) < share_error


@pytest.mark.parametrize("corruption", [Noise(), Mask(share=1.0), Salt(share=1.0)])
def test_what_is_missing_stays_missing(corruption):
    x = torch.tensor([0.5, torch.nan])
    assert corruption(x).isnan().tolist() == [False, True]
    vae = pair(likelihood="gaussian", guide="meanfield", missing=True)
    seen = torch.rand(3, 5).double()
    seen[:, 1] = torch.nan
    with corrupted(vae.guide, corruption):
        vae.train()
        filled = vae.guide.encoder.standardise(seen)
    assert (filled[:, 1] == vae.guide.encoder.fill[1]).all()


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
@pytest.mark.parametrize(
    "structure", ["vae", "labelled(classes=3)", "ladder(dims=(3, 2))"]
)
def test_corruption_is_of_the_encoder_alone_and_of_training(likelihood, structure):
    context = 3 if structure.startswith("labelled") else 0
    vae = pair(
        guide="meanfield", likelihood=likelihood, structure=structure, context=context
    )
    x = torch.rand(6, 5).double().round()
    vae.eval()
    torch.manual_seed(1)
    before = terms(vae.model, vae.guide, x)
    with corrupted(vae.guide, Mask(share=1.0)):
        torch.manual_seed(1)
        held = terms(vae.model, vae.guide, x)
        vae.train()
        torch.manual_seed(1)
        trained = terms(vae.model, vae.guide, x)
    torch.manual_seed(1)
    after = terms(vae.model, vae.guide, x)
    torch.testing.assert_close(held.log_weight, before.log_weight, rtol=0, atol=0)
    torch.testing.assert_close(after.log_weight, before.log_weight, rtol=0, atol=0)
    assert torch.equal(trained.sites["x"].value, before.sites["x"].value)
    assert (trained.log_qz - before.log_qz).abs().max() > 1e-6
    # With all blotted out every datum is seen alike.
    name = next(n for n, s in trained.sites.items() if s.q is not None and not s.listed)
    loc = trained.sites[name].q.base_dist.loc
    if structure == "vae":
        torch.testing.assert_close(loc, loc[..., :1, :].expand_as(loc))


def test_pseudo_inputs_are_not_corrupted():
    vae = VAE(
        VampPrior(2, pseudo_inputs=4),
        MLP((2,), (1, 5)),
        build(Spec((5,))).model.likelihood,
        MeanField(MLP((5,)), 2),
    )
    z = torch.randn(3, 2)
    truth = vae.model.prior().log_prob(z)
    with corrupted(vae.guide, Mask(share=1.0)):
        vae.train()
        torch.testing.assert_close(vae.model.prior().log_prob(z), truth)


def test_nested_corruptions_are_undone():
    vae = pair(likelihood="gaussian", guide="meanfield")
    with corrupted(vae.guide, Noise()):
        outer = vae.guide.encoder.corruption
        with corrupted(vae.guide, Mask()):
            assert vae.guide.encoder.corruption is not outer
        assert vae.guide.encoder.corruption is outer
    assert vae.guide.encoder.corruption is None


def test_corrupted_data_are_what_the_encoder_sees():
    vae = pair(likelihood="gaussian", guide="meanfield")
    x = 3 + 2 * torch.rand(50, 5).double()
    vae.start(x)
    torch.manual_seed(2)
    shown = corrupted_data(vae.guide, x, Noise(scale=0.5))
    vae.train()
    torch.manual_seed(2)
    with corrupted(vae.guide, Noise(scale=0.5)):
        seen = vae.guide.encoder.standardise(x)
    torch.testing.assert_close(vae.guide.encoder.standardise(shown), seen)


@pytest.mark.slow
@pytest.mark.parametrize("corrupt", ["noise(0.3)", "mask(0.5)", "salt(0.1)"])
@torch._inductor.config.patch(fallback_random=True)
def test_compiled_steps_on_corrupted_data_are_those_of_python(corrupt):
    x, losses = torch.rand(20, 5).double().round(), []
    for by_graph in (False, True):
        torch.manual_seed(0)
        vae = pair()
        with corrupted(vae.guide, parse("corrupt", corrupt)()):
            vae.train()
            svi = SVI(
                vae.model,
                vae.guide,
                lambda p: torch.optim.SGD(p, lr=0.01),
                Autoencoder(sparse=0.1, contractive=0.1),
                reduction="mean",
                compile=by_graph,
            )
            torch.manual_seed(3)
            losses.append(torch.stack([svi.step(x) for _ in range(4)]))
            assert svi.compiled is by_graph
    torch.testing.assert_close(*losses)


class Blank(Corruption):
    """One's own."""

    def corrupted(self, x, *, standard):
        return torch.zeros_like(x)


def test_one_s_own_corruption_by_its_import_path():
    member = parse("corrupt", f"{__name__}:Blank")
    assert member()(torch.ones(3)).tolist() == [0, 0, 0]


def test_layers_are_trained_one_by_one():
    x = (torch.rand(200, 1) + 0.3 * torch.rand(200, 12) > 0.6).float()
    spec = Spec((12,), 2, network="mlp(hidden=(8, 6))", guide="delta")
    torch.manual_seed(0)
    vae, fresh = build(spec), build(spec)
    vae.load_state_dict(fresh.state_dict())
    said = []
    stack(vae, x, 30, batch_size=20, corrupt=Mask(share=0.2), say=said.append)
    assert len(said) == 2
    for part, moved in (
        (vae.guide.encoder, True),
        (vae.guide.head, False),
        (vae.model.decoder, None),
    ):
        name = next(n for n, m in vae.named_modules() if m is part)
        pairs = zip(
            part.parameters(), fresh.get_submodule(name).parameters(), strict=True
        )
        changed = [not torch.equal(a, b) for a, b in pairs]
        assert (
            changed == [moved] * len(changed)
            if moved is not None
            else (
                changed == [False] * 2 + [True] * 4  # the first layer reads the code
            )
        )

    def of_first_layer(pair):
        down, up = pair.guide.encoder.layers, pair.model.decoder.layers
        return (
            pair.model.likelihood(up[4](down[:2](x)).unflatten(-1, (1, 12)))
            .log_prob(x)
            .mean()
        )

    assert of_first_layer(vae) > of_first_layer(fresh) + 1
    history = fit(build(spec), x, Autoencoder(), epochs=1, stacked=2, compile=False)
    assert math.isfinite(history[-1].loss)


def test_bad_inputs_get_one_sentence():
    x = torch.ones(8, 5).double()
    with pytest.raises(InputError, match="the guide Local has none"):
        fit(pair(guide="local"), x, epochs=1, corrupt=Noise())
    with pytest.raises(InputError, match="must be a Corruption"):
        fit(pair(), x, epochs=1, corrupt="noise")
    with pytest.raises(InputError, match="no such layers"):
        fit(
            build(Spec((8, 8), 2, network="convnet")),
            torch.ones(8, 8, 8),
            epochs=1,
            stacked=1,
        )
    with pytest.raises(InputError, match="scale=-1 of Noise"):
        Noise(scale=-1)
    with pytest.raises(InputError, match="take the guide delta"):
        fit(pair(guide="meanfield"), x, Autoencoder(), epochs=1)
    with pytest.raises(InputError, match="would learn nothing"):
        fit(pair(prior="gaussianmixture"), x, Autoencoder(), epochs=1)
    with pytest.raises(InputError, match="one layer"):
        fit(pair(structure="chain(dims=(3, 2))"), x, Autoencoder(), epochs=1)
    with pytest.raises(InputError, match="given twice"):
        parse("corrupt", "noise(0.3, scale=2)")
    with pytest.raises(InputError, match="every argument by name"):
        parse("objective", "elbo(2.0)")
