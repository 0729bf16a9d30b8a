"""Adam for gradients of any length."""

from typing import Any

import torch
from torch import Tensor

SMALLEST = 1e-7  # added to the length of a gradient, so that one of zeros stays one


class AdamNormGrad(torch.optim.Adam):
    """Adam with the gradient of each parameter tensor divided by its length: `g / (||g||_2 + 1e-7)`.

    A batch whose gradient is far longer than others' then counts no more than they do. Arguments and state are those of
    `torch.optim.Adam`; its `weight_decay` is added after the division. An entry of a tensor of n numbers is about
    `1 / sqrt(n)` large: keep `eps` far below.

    Source: the code of Tomczak & Welling 2018, VAE with a VampPrior; Adam is Kingma & Ba 2015.

    >>> p = torch.nn.Parameter(torch.zeros(2))
    >>> p.grad = torch.tensor([3e6, 4e6])
    >>> optimizer = AdamNormGrad([p], lr=0.1)
    >>> optimizer.step()
    >>> optimizer.state[p]["exp_avg"]  # (1 - 0.9) (0.6, 0.8)
    tensor([0.0600, 0.0800])
    """

    def _init_group(
        self,
        group: dict[str, Any],
        params_with_grad: list[Tensor],
        grads: list[Tensor],
        *args: Any,
    ) -> bool:
        """What Adam is about to move, and by which gradients."""
        found = super()._init_group(group, params_with_grad, grads, *args)
        grads[:] = normalised(grads)
        return bool(found)


def normalised(gradients: list[Tensor]) -> list[Tensor]:
    """Each gradient divided by its length; nothing is read to the host."""
    if not gradients:
        return []
    lengths = torch._foreach_add(torch._foreach_norm(gradients), SMALLEST)
    return list(torch._foreach_div(gradients, lengths))
