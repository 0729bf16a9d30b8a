"""The starting point of training: with it every default combination learns to use its latents."""

import math

import pytest
import torch

from example import beside
from pyro_vae import Spec, build
from pyro_vae.data import load_data
from pyro_vae.foundation.abstract import variants
from pyro_vae.inference.fit import run_epochs
from pyro_vae.inference.objectives import ELBO
from pyro_vae.inference.svi import SVI
from pyro_vae.models.conditionals import Guide
from pyro_vae.models.conditionals.base import NARROW
from pyro_vae.models.likelihoods import Likelihood


@pytest.mark.parametrize("cls", variants(Likelihood).values(), ids=lambda c: c.__name__)
@pytest.mark.parametrize("network", ["mlp", "convnet"])
def test_a_decoder_starts_near_the_mean_of_the_data(cls, network):
    torch.manual_seed(0)
    vae = build(Spec((6, 5), 50, network=network, likelihood=cls.__name__))
    vae.initialise(torch.full((6, 5), 0.4), torch.full((6, 5), 0.2))
    h = vae.model.decoder(torch.randn(2000, 50))
    assert h.std(0).mean().item() == pytest.approx(0.1, rel=0.1)


@pytest.mark.parametrize("cls", variants(Guide).values(), ids=lambda c: c.__name__)
def test_a_posterior_starts_narrow(cls):
    if not cls.has_density or not cls.amortised or beside("guide", cls.__name__):
        return  # codes have no width
    torch.manual_seed(0)
    vae = build(Spec((6, 5), 20, guide=cls.__name__))
    z = vae.encode(torch.rand(1, 6, 5)).sample((2000,))
    width = z.std(0).mean().item()
    several = cls.__name__ == "Mixture"  # whose components lie apart
    assert math.exp(NARROW) * 0.7 < width < math.exp(NARROW) * (5 if several else 1.4)


def kl_after(epochs, *, data="digits", latent_dim=20, rows=10**6, **members):
    """The KL on the training data of a run with defaults but for `members`."""
    torch.manual_seed(0)
    stored = load_data(data)
    vae = build(Spec(stored.shape, latent_dim, **members))
    bridge = stored.bridge(
        vae.model.likelihood, binarize="dynamic", dequantize=False, scale=False
    )
    train = stored.split("train", bridge, dtype=torch.float32).first(rows)
    vae.initialise(*train.moments())
    adam = SVI(
        vae.model,
        vae.guide,
        lambda p: torch.optim.Adam(p, lr=1e-3, fused=True),
        ELBO(),
        reduction="mean",
    )
    *_, last = run_epochs(adam, train, epochs=epochs, compile=False)
    return last.kl


@pytest.mark.parametrize("latent_dim", [20, 100])
def test_many_latents_do_not_collapse(latent_dim):
    """Started wide, with the decoder's outputs as its network has them, both ended at a KL below 0.05."""
    assert kl_after(12, latent_dim=latent_dim) > 0.5


@pytest.mark.slow
@pytest.mark.parametrize("latent_dim", [20, 50, 100])
@pytest.mark.parametrize("guide", ["meanfield", "fullrank", "mixture"])
def test_mnist_does_not_collapse(guide, latent_dim):
    assert (
        kl_after(1, data="mnist", rows=30_000, latent_dim=latent_dim, guide=guide) > 5
    )
