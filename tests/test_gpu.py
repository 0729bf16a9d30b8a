"""The same on a GPU as on a CPU."""

import math

import pytest
import torch

from ppca import PPCA
from pyro_vae import ELBO, SVI, Guide, Objective, Prior, Spec, build, fit, log_marginal, variants
from pyro_vae.spec import parse

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"),
]


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
    [
        (axis, name)
        for axis, family in (("guide", Guide), ("prior", Prior), ("objective", Objective))
        for name in variants(family)
    ],
)
def test_every_member_takes_steps_on_the_gpu(axis, member):
    choice = {
        "objective": "elbo",
        axis: "vampprior(pseudo_inputs=5)" if member == "VampPrior" else member,
    }
    objective = parse("objective", choice.pop("objective"))()
    vae = build(Spec((6,), 2, **choice)).cuda()
    svi = SVI(vae.model, vae.guide, lambda p: torch.optim.Adam(p, lr=0.01, fused=True), objective)
    objective.advance(100)
    for _ in range(3):
        assert svi.step(torch.rand(50, 6).round().cuda()).isfinite()


@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
def test_a_compiled_step_is_the_eager_one_and_reads_nothing_back(autocast):
    x = torch.rand(50, 6).round().cuda()
    found = []
    for asked in (True, False):
        torch.manual_seed(0)
        vae = build(Spec((6,), 2)).cuda()
        vae = vae.double() if autocast is None else vae
        x = x.to(next(vae.parameters()).dtype)
        adam = torch.optim.Adam(vae.parameters(), lr=0.01, fused=True)
        svi = SVI(vae.model, vae.guide, adam, ELBO(), compile=asked, autocast=autocast)
        losses = [svi.step(x) for _ in range(3)]
        torch.cuda.set_sync_debug_mode("error")
        try:
            losses += [svi.step(x) for _ in range(3)]
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert svi.compiled == asked
        found.append(torch.stack(losses))
    tolerance = 1e-8 if autocast is None else 2e-2
    torch.testing.assert_close(found[0], found[1], rtol=tolerance, atol=tolerance)


def test_a_compiled_run_on_the_gpu_learns():
    vae = build(Spec((6,), 2)).cuda()
    x = torch.rand(220, 6).round().cuda()
    history = fit(
        vae, x, epochs=30, batch_size=50, learning_rate=0.01, validation=x, compile=True
    )  # last batch: 20
    assert history[-1].elbo > history[0].elbo
    result = log_marginal(vae.model, vae.guide, x, num_particles=1000, compile=True)
    assert result.mean > history[-1].validation_elbo - 0.1
