"""Operations of PyTorch that ONNX lacks, written in those that it has.

Sizes of matrices are known when a graph is written, so that their loops become a fixed number of operations on all data
at once. What is found is what LAPACK finds, signs included.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

aten: Any = torch.ops.aten


def cdist(
    a: Tensor, b: Tensor, p: float = 2.0, compute_mode: int | None = None
) -> Tensor:
    """`|a_i - b_j|`, `(..., N, D)` and `(..., M, D)` to `(..., N, M)`."""
    return torch.linalg.vector_norm(a.unsqueeze(-2) - b.unsqueeze(-3), p, -1)


def cholesky(a: Tensor, *, upper: bool = False) -> Tensor:
    """The triangular L of `A = L L^T`, `(..., D, D)`, column by column."""
    columns: list[Tensor] = []
    left = a
    for j in range(a.shape[-1]):
        column = left[..., j] * left[..., j, j].rsqrt().unsqueeze(-1)
        column = _without_first(column, j)
        left = left - column.unsqueeze(-1) * column.unsqueeze(-2)
        columns.append(column)
    found = torch.stack(columns, -1)
    return found.mT if upper else found


def cholesky_ex(
    a: Tensor, *, upper: bool = False, check_errors: bool = False
) -> tuple[Tensor, Tensor]:
    """As `cholesky`, and 0 for each matrix, which stands for success."""
    return cholesky(a, upper=upper), a.new_zeros(a.shape[:-2], dtype=torch.int32)


def cholesky_solve(b: Tensor, factor: Tensor, upper: bool = False) -> Tensor:
    """`A^-1 B` for `A = L L^T`, by two triangular systems."""
    lower = factor.mT if upper else factor
    return _backward(lower.mT, _forward(lower, b))


def solve_triangular(
    a: Tensor,
    b: Tensor,
    *,
    upper: bool,
    left: bool = True,
    unitriangular: bool = False,
) -> Tensor:
    """`A^-1 B` for a triangular A, or `B A^-1`."""
    if not left:
        turned = solve_triangular(
            a.mT, b.mT, upper=not upper, unitriangular=unitriangular
        )
        return turned.mT
    if unitriangular:
        identity = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
        a = a * (1 - identity) + identity
    return _backward(a, b) if upper else _forward(a, b)


def _forward(lower: Tensor, b: Tensor) -> Tensor:
    """`L^-1 B`, row by row from the first."""
    rows: list[Tensor] = []
    for i in range(lower.shape[-1]):
        rest = b[..., i, :]
        if rows:
            known = lower[..., i : i + 1, :i] @ torch.stack(rows, -2)
            rest = rest - known.squeeze(-2)
        rows.append(rest / lower[..., i, i].unsqueeze(-1))
    return torch.stack(torch.broadcast_tensors(*rows), -2)


def _backward(upper: Tensor, b: Tensor) -> Tensor:
    """`U^-1 B`, which is a lower triangular system with rows and columns in the other order."""
    return _forward(upper.flip(-2, -1), b.flip(-2)).flip(-2)


def qr(a: Tensor, mode: str = "reduced") -> tuple[Tensor, Tensor]:
    """`A = Q R` by reflections, `(..., M, N)`, as LAPACK makes them: R may have a diagonal below zero.

    Source: Golub & Van Loan 2013, Matrix Computations, section 5.2; for the signs LAPACK's `dlarfg`.
    """
    rows, columns = a.shape[-2:]
    reflections: list[tuple[Tensor, Tensor]] = []
    r = a
    for j in range(min(rows - 1, columns)):
        v, share = _reflection(r[..., j], j)
        r = r - share * v.unsqueeze(-1) * (v.unsqueeze(-2) @ r)
        reflections.append((v, share))

    # The reflections of the identity, the last one first.
    width = rows if mode == "complete" else min(rows, columns)
    q = torch.eye(rows, width, dtype=a.dtype, device=a.device).expand(
        *a.shape[:-2], -1, -1
    )
    for v, share in reversed(reflections):
        q = q - share * v.unsqueeze(-1) * (v.unsqueeze(-2) @ q)
    return q, r[..., :width, :].triu()


def _reflection(column: Tensor, j: int) -> tuple[Tensor, Tensor]:
    """`v` and `t` for which `I - t v v^T` takes what is below place j of a column `(..., M)` to 0."""
    tail = _without_first(column, j)
    first = column[..., j].unsqueeze(-1)
    size = torch.linalg.vector_norm(tail, 2, -1, keepdim=True)
    end = size.where(first < 0, -size)  # of the other sign, so that no digits cancel
    below = _without_first(column, j + 1)
    v = below / (first - end).where(size > 0, torch.ones_like(size))
    place = torch.arange(column.shape[-1], device=column.device) == j
    v = v + place.to(v.dtype)
    straight = (below == 0).all(-1, keepdim=True)  # nothing to take away
    share = ((end - first) / end).where(~straight, torch.zeros_like(size))
    return v, share.unsqueeze(-1)


def _without_first(vector: Tensor, count: int) -> Tensor:
    """A vector `(..., D)` with 0 in its first places."""
    place = torch.arange(vector.shape[-1], device=vector.device)
    return vector.where(place >= count, torch.zeros_like(vector))


def clamp(x: Tensor, least: Any = None, most: Any = None) -> Tensor:
    """`min(max(x, least), most)`; nan stays. The exporter has it, and loses the bounds where there are several."""
    if least is not None:
        x = torch.full_like(x, least).where(x < least, x)
    return x if most is None else torch.full_like(x, most).where(x > most, x)


IN_OTHERS: dict[Any, Callable[..., Any]] = {
    aten._cdist_forward.default: cdist,
    aten.cdist.default: cdist,
    aten.cholesky_solve.default: cholesky_solve,
    aten.clamp.default: clamp,
    aten.linalg_cholesky.default: cholesky,
    aten.linalg_cholesky_ex.default: cholesky_ex,
    aten.linalg_qr.default: qr,
    aten.linalg_solve_triangular.default: solve_triangular,
}
