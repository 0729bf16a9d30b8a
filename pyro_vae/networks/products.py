"""Matrix products by whichever library is the faster one on this processor."""

import time
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vae._abstract import is_traced

LARGE = (
    10_000_000  # multiplications of a product from which the call of an autograd function is repaid
)
LONG = 500  # terms of a sum from which it pays to turn a product of a wide layer's gradient round and back


@cache
def onednn_is_faster() -> bool:
    """Whether oneDNN needs less than three quarters of the time of `torch.mm`; measured once, in some 20 ms.

    PyTorch multiplies float32 matrices by the BLAS that it was built with. Where that is MKL and the processor is not
    Intel's, it leaves the wide vector units unused that oneDNN takes: then this halves the time of a product.
    """
    if not torch.backends.mkldnn.is_available() or not hasattr(
        torch.ops.mkldnn, "_linear_pointwise"
    ):
        return False
    x, y = torch.ones(256, 512), torch.ones(256, 512)
    return is_faster(lambda: by_onednn(x, y.t()), than=lambda: torch.mm(x, y.t()))


def is_faster(way: Callable[[], Any], *, than: Callable[[], Any]) -> bool:
    """Whether one way needs less than three quarters of the time of another, each at its best of 20 times."""
    best = [float("inf")] * 2
    for _ in range(20):
        for i, call in enumerate((way, than)):
            started = time.perf_counter()
            call()
            best[i] = min(best[i], time.perf_counter() - started)
    return best[0] < 0.75 * best[1]


def by_onednn(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """`a @ b + bias` for matrices in float32 on a CPU, without gradients."""
    turned = (
        bias is None and not a.is_contiguous() and a.shape[0] > b.shape[1] and a.shape[1] >= LONG
    )
    left, right = (
        (b.t(), a) if turned else (a, b.t())
    )  # twice as fast with the fewer rows on the left
    if not (right.is_contiguous() or right.t().is_contiguous()):
        right = right.contiguous()  # a part of a larger matrix would take a hundred times as long
    product: Tensor = torch.ops.mkldnn._linear_pointwise(left, right, bias, "none", [], "")
    return product.t().contiguous() if turned else product


class Affine(nn.Linear):
    """`torch.nn.Linear`, its large products by the faster library also where no graph is compiled."""

    def forward(self, input: Tensor) -> Tensor:
        if (
            input.numel() * self.out_features < LARGE
            or input.dtype != torch.float32
            or input.device.type != "cpu"
        ):
            return super().forward(input)
        others_turn = (
            is_traced()
            or torch.compiler.is_compiling()
            or torch._C._are_functorch_transforms_active()
        )
        if others_turn or torch.is_autocast_enabled("cpu") or not onednn_is_faster():
            return super().forward(input)
        rows: Tensor = _Affine.apply(input.reshape(-1, self.in_features), self.weight, self.bias)
        return rows.view(*input.shape[:-1], self.out_features)


class _Affine(torch.autograd.Function):
    """`x @ weight.T + bias`; for derivatives of derivatives the gradients are PyTorch's products."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return by_onednn(x, weight.t(), bias)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        multiply = torch.mm if torch.is_grad_enabled() else by_onednn
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        return (
            multiply(g, weight) if needs_x else None,
            multiply(g.t(), x) if needs_weight else None,
            g.sum(0) if needs_bias else None,
        )
