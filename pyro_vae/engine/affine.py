"""Matrix products by whichever library is the faster one on this processor."""

import platform
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vae.foundation.abstract import is_traced
from pyro_vae.foundation.errors import InputError

PRODUCTS = ("torch", "onednn")
LARGE = 10_000_000  # multiplications of a product from which the call of an autograd function is repaid
LONG = 500  # terms of a sum from which it pays to turn a product of a wide layer's gradient round and back


@cache
def usual_products() -> str:
    """Which of `PRODUCTS` is the faster library here, found out from the processor: the same in every process.

    PyTorch multiplies float32 matrices by the BLAS that it was built with. Where that is MKL and the processor is not
    Intel's, it leaves the vector units of 512 bits unused that oneDNN takes: then this halves the time of a product. It
    is no measurement, because the libraries round differently, and a clock that is read under load would give the same
    command other weights.
    """
    wide = torch.backends.cpu.get_cpu_capability() == "AVX512"
    gains = wide and torch.backends.mkl.is_available() and not _is_intel()
    return "onednn" if gains and has_onednn() else "torch"


def has_onednn() -> bool:
    """Whether this PyTorch can multiply by oneDNN."""
    linear = hasattr(torch.ops.mkldnn, "_linear_pointwise")
    return linear and bool(torch.backends.mkldnn.is_available())


def _is_intel() -> bool:
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text() if cpuinfo.is_file() else platform.processor()
    return "GenuineIntel" in text


def use_products(program: nn.Module, name: str) -> None:
    """Let a pair, or one of its programs, multiply by one of `PRODUCTS` instead of the usual one of this processor.

    The choice stays with its modules. Float32 on a CPU only: elsewhere PyTorch multiplies.

    Raises:
        InputError: when there is no such library here.
    """
    if name not in PRODUCTS:
        raise InputError(f"products={name!r} must be one of {', '.join(PRODUCTS)}")
    if name == "onednn" and not has_onednn():
        raise InputError(
            "products='onednn' is not available in this PyTorch; take 'torch'"
        )
    for module in program.modules():
        module._products = name  # type: ignore[assignment]


def products_of(modules: Iterable[nn.Module]) -> str:
    """Which of `PRODUCTS` these modules multiply by."""
    names = (getattr(module, "_products", None) for module in modules)
    return next((name for name in names if name is not None), usual_products())


def by_onednn(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """`a @ b + bias` for matrices in float32 on a CPU, without gradients."""
    turned = (
        bias is None
        and not a.is_contiguous()
        and a.shape[0] > b.shape[1]
        and a.shape[1] >= LONG
    )
    # Twice as fast with the fewer rows on the left.
    left, right = (b.t(), a) if turned else (a, b.t())
    if not (right.is_contiguous() or right.t().is_contiguous()):
        # A part of a larger matrix would take a hundred times as long.
        right = right.contiguous()
    product: Tensor = torch.ops.mkldnn._linear_pointwise(
        left, right, bias, "none", [], ""
    )
    return product.t().contiguous() if turned else product


class Affine(nn.Linear):
    """`torch.nn.Linear`, its large products by the faster library also where no graph is compiled."""

    def forward(self, input: Tensor) -> Tensor:
        if (  # a graph is for inputs of any size
            is_traced()
            or input.numel() * self.out_features < LARGE
            or input.dtype != torch.float32
            or input.device.type != "cpu"
        ):
            return super().forward(input)
        others_turn = (
            torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
        )
        if (
            others_turn
            or torch.is_autocast_enabled("cpu")
            or products_of([self]) != "onednn"
        ):
            return super().forward(input)
        rows: Tensor = _Affine.apply(
            input.reshape(-1, self.in_features), self.weight, self.bias
        )
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
