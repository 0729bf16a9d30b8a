"""The same on a GPU as on a CPU."""

import math

import pytest
import torch

from ppca import PPCA
from pyro_vae import ELBO, SVI, Guide, Objective, Prior, Spec, build, fit, log_marginal, variants
from pyro_vae.build import parse

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")]


def test_log_marginal_on_the_gpu_is_within_its_errors():
    model = PPCA(2, 5, widen=1.2, shift=0.2)
    x = model.sample(500)
    truth = model.marginal.log_prob(x).mean().item()
    model.vae.cuda()
    result = log_marginal(*model.pair, x.cuda(), num_particles=1000)
    assert result.values.device.type == "cpu"
    assert abs(result.mean - truth) < 4 * result.monte_carlo_standard_error + abs(result.bias)


def test_training_on_the_gpu_reads_nothing_back():
    vae = build(Spec((6,), 2, guide="fullrank")).cuda()
    x = torch.rand(50, 6).round().cuda()
    svi = SVI(vae.model, vae.guide, lambda p: torch.optim.Adam(p, lr=0.01, fused=True), ELBO())
    svi.step(x)  # the first step validates its arguments, which reads them
    torch.cuda.set_sync_debug_mode("error")
    try:
        loss = svi.step(x)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert loss.device.type == "cuda"
    history = fit(vae, x, epochs=30, learning_rate=0.01, validation=x)
    assert history[-1].elbo > history[0].elbo
    assert math.isfinite(history[-1].validation_elbo)


@pytest.mark.parametrize(
    ("axis", "member"),
    [(axis, name) for axis, family in (("guide", Guide), ("prior", Prior), ("objective", Objective))
     for name in variants(family)],
)  # fmt: skip
def test_every_member_takes_steps_on_the_gpu(axis, member):
    choice = {"objective": "elbo", axis: "vampprior(pseudo_inputs=5)" if member == "VampPrior" else member}
    objective = parse("objective", choice.pop("objective"))()
    vae = build(Spec((6,), 2, **choice)).cuda()
    svi = SVI(vae.model, vae.guide, lambda p: torch.optim.Adam(p, lr=0.01, fused=True), objective)
    objective.advance(100)
    for _ in range(3):
        assert svi.step(torch.rand(50, 6).round().cuda()).isfinite()
