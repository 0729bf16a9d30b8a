"""AdamNormGrad, against its recursion in NumPy."""

import numpy as np
import pytest
import torch

from pyro_vae import ELBO, SVI, InputError, Spec, build, fit
from pyro_vae.engine import compiled
from pyro_vae.inference.optimizers import AdamNormGrad
from pyro_vae.spec import parse_optimizer


def recursion(values, gradients, *, rate, betas=(0.9, 0.999), eps=1e-8, decay=0.0):
    """Adam of Kingma & Ba on `g / (||g|| + 1e-7)`, one tensor."""
    theta, m, v = values.copy(), np.zeros_like(values), np.zeros_like(values)
    for t, gradient in enumerate(gradients, 1):
        g = gradient / (np.sqrt((gradient**2).sum()) + 1e-7) + decay * theta
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g**2
        m_hat, v_hat = m / (1 - betas[0] ** t), v / (1 - betas[1] ** t)
        theta = theta - rate * m_hat / (np.sqrt(v_hat) + eps)
    return theta


@pytest.mark.parametrize("how", [{}, {"fused": True}, {"foreach": True}])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_steps_are_those_of_the_recursion(how, decay):
    rng = np.random.default_rng(0)
    shapes = [(3, 4), (5,), ()]
    starts = [rng.normal(size=shape) for shape in shapes]
    lengths = 10.0 ** rng.uniform(-6, 6, 20)
    steps = [[c * rng.normal(size=shape) for shape in shapes] for c in lengths]
    parameters = [torch.nn.Parameter(torch.tensor(start)) for start in starts]
    optimizer = AdamNormGrad(
        parameters, lr=0.05, betas=(0.8, 0.99), weight_decay=decay, **how
    )
    for gradients in steps:
        for p, g in zip(parameters, gradients, strict=True):
            p.grad = torch.tensor(g)
        optimizer.step()
    for i, p in enumerate(parameters):
        given = [gradients[i] for gradients in steps]
        wanted = recursion(starts[i], given, rate=0.05, betas=(0.8, 0.99), decay=decay)
        np.testing.assert_allclose(p.detach().numpy(), wanted, rtol=1e-9)
        assert torch.equal(p.grad, torch.tensor(steps[-1][i]))  # it is left alone


def test_a_gradient_of_zeros_moves_nothing():
    p = torch.nn.Parameter(torch.ones(3))
    p.grad = torch.zeros(3)
    AdamNormGrad([p], lr=0.1).step()
    assert torch.equal(p.detach(), torch.ones(3))


def trained(text="adamnormgrad", *, compile=False, reduction="mean"):
    """The weights after five steps of a small pair."""
    torch.manual_seed(0)
    vae = build(Spec((4,), 2, network="mlp(hidden=(5,))")).double()
    x = torch.rand(12, 4).round().double()
    svi = SVI(
        vae.model,
        vae.guide,
        lambda p: parse_optimizer(text)(p, lr=0.01),
        ELBO(),
        reduction=reduction,
        compile=compile,
    )
    for _ in range(5):
        svi.step(x)
    assert svi.compiled is compile
    return torch.cat([p.detach().flatten() for p in vae.parameters()])


def test_the_kernel_takes_the_steps_of_torch():
    torch.testing.assert_close(trained(), trained("adamnormgrad(foreach=True)"))


def test_compiled_steps_are_the_same(monkeypatch):
    monkeypatch.setattr(compiled, "compile_graph", lambda graph: graph.module)
    torch.testing.assert_close(trained(), trained(compile=True))


def test_the_size_of_the_loss_has_no_say():
    """Summed over the batch the gradient is 12 times as long."""
    torch.testing.assert_close(
        trained(), trained(reduction="sum"), rtol=1e-5, atol=1e-6
    )


def test_clipping_beside_it_is_refused():
    vae = build(Spec((4,), 2, network="mlp(hidden=(5,))"))
    with pytest.raises(InputError, match="clip_norm=1 shortens all gradients by one"):
        fit(vae, torch.ones(8, 4), epochs=1, optimizer=AdamNormGrad, clip_norm=1.0)
