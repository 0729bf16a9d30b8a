"""Ways through the space of latents: along where the codes of data lie, and towards an attribute of data."""

from collections.abc import Mapping, Sequence
from typing import Annotated, NamedTuple

import numpy as np
import torch
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import dijkstra
from torch import Tensor

from pyro_vae.foundation.checks import at_least, checked
from pyro_vae.foundation.errors import InputError

MOST_CODES = 1000  # that a way is looked for among
NO_LABEL = ("", None)

Steps = Annotated[int, at_least(2)]


def straight(ends: Tensor, steps: int) -> Tensor:
    """Points at even steps of the line between two ends: `(n, 2, D)` to `(n, steps, D)`."""
    t = torch.linspace(0, 1, steps, dtype=ends.dtype, device=ends.device)[:, None]
    return ends[:, :1] * (1 - t) + ends[:, 1:] * t


@checked
def dense_way(
    codes: Tensor,
    ends: Tensor,
    *,
    steps: Steps = 11,
    power: Annotated[float, at_least(1)] = 3.0,
) -> Tensor:
    """From one end to the other by way of codes, so that the way stays where these lie close together.

    The way is the chain of codes `z_0, z_1, ...` with the least `sum_i |z_(i+1) - z_i|^power`: a long step costs more
    than many short ones. With more and more codes of a density f it becomes the shortest curve where a length dz counts
    `f^((1 - power) / D) |dz|`. Points are laid along it at even distances.

    Args:
        codes: codes of data, such as the means of `q(z | x)`, `(N, D)`; of more than 1000 an even choice.
        ends: of each of n ways, `(n, 2, D)`.
        steps: points of each way, both ends among them.
        power: 1 gives the straight line; the larger, the more a way keeps to where codes are dense.

    Returns:
        The ways, `(n, steps, D)`.

    Raises:
        InputError: for codes and ends of other lengths, or that are not finite.

    Source: Hwang, Damelin & Hero 2016, Shortest path through random points.

    >>> square = torch.tensor([[0.0, 0.5], [0.0, 1.0], [0.5, 1.0]])
    >>> dense_way(square, torch.tensor([[[0.0, 0.0], [1.0, 1.0]]]), steps=3)
    tensor([[[0., 0.],
             [0., 1.],
             [1., 1.]]])
    """
    if codes.ndim != 2 or ends.shape[1:] != (2, codes.shape[-1]):
        raise InputError(
            f"codes have shape {tuple(codes.shape)} and ends {tuple(ends.shape)}, and they must be (N, D) and (n, 2, D)"
        )
    if not (codes.isfinite().all() and ends.isfinite().all()):
        raise InputError("codes and ends of a way must be finite")
    chosen = torch.linspace(0, len(codes) - 1, min(MOST_CODES, len(codes))).long()
    known = codes[chosen.unique()].cpu().double()
    ways = [_shortest(known, pair.cpu().double(), steps, power) for pair in ends]
    return torch.stack(ways).to(ends)


def _shortest(codes: Tensor, ends: Tensor, steps: int, power: float) -> Tensor:
    """One way, `(steps, D)`."""
    nodes = torch.cat([ends[:1], codes, ends[1:]])
    far = torch.cdist(nodes, nodes)
    far = far / far.max().clamp_min(torch.finfo(far.dtype).tiny)
    # All steps are listed, for in a dense matrix the shortest would count as none.
    n = len(nodes)
    costs = far.pow(power).clamp_min(1e-300).numpy().ravel()
    columns, starts = np.tile(np.arange(n), n), np.arange(0, n * n + 1, n)
    graph = csr_matrix((costs, columns, starts), shape=(n, n))
    _, before = dijkstra(graph, indices=0, return_predecessors=True)
    chain = [n - 1]
    while chain[-1] != 0:
        chain.append(int(before[chain[-1]]))
    return _evenly_along(nodes[chain[::-1]], steps)


def _evenly_along(chain: Tensor, steps: int) -> Tensor:
    """Points at even distances along straight pieces, `(m, D)` to `(steps, D)`."""
    pieces = (chain[1:] - chain[:-1]).norm(dim=1)
    so_far = torch.cat([pieces.new_zeros(1), pieces.cumsum(0)]).numpy()
    if so_far[-1] == 0:
        return chain[:1].expand(steps, -1)
    places = np.linspace(0, so_far[-1], steps)
    points = [np.interp(places, so_far, column) for column in chain.numpy().T]
    return torch.from_numpy(np.stack(points, 1))


class Direction(NamedTuple):
    """How codes differ with an attribute.

    Attributes:
        name: `NAME=CATEGORY`, or the name of a number.
        vector: `(D,)`: what is added to a code to go from without to with, or by one standard deviation of the number.
        num_data: that have the category, or a number other than the mean.
    """

    name: str
    vector: Tensor
    num_data: int


def directions(
    codes: Tensor, labels: Mapping[str, np.ndarray], *, controlled: bool = False
) -> list[Direction]:
    """For each category of each label the mean of the codes with it less the mean of those without it.

    By least squares `z = a + b s + e` with s = 1 where a datum has the category and 0 elsewhere, b is that difference.
    Of a label of real numbers s is the number in standard deviations. With `controlled` the indicators and numbers of
    all *other* labels stand beside s, so that what goes along with these is not counted twice.

    Args:
        codes: `(N, D)`.
        labels: by name `(N,)`: texts, truth values or whole numbers are categories, floats that are not whole are
            numbers. A datum without a label (nan or an empty text) is left out of what needs it.
        controlled: whether differences that other labels explain are left to these.

    Raises:
        InputError: for labels that are not one for each code, or of which no datum has two.

    Source: White 2016, Sampling Generative Networks (attribute vectors); the linear model is ordinary least squares.

    >>> codes = torch.tensor([[0.0, 1.0], [2.0, 1.0], [4.0, 5.0]])
    >>> [each] = [d for d in directions(codes, {"hat": np.array(["no", "no", "yes"])}) if d.name == "hat=yes"]
    >>> each.vector, each.num_data
    (tensor([3., 4.]), 1)
    """
    columns = {
        name: _columns(name, values, len(codes)) for name, values in labels.items()
    }
    z, found = codes.cpu().double(), []
    for name, mine in columns.items():
        beside = _of_others(columns, name) if controlled else []
        for called, values in mine.items():
            found.append(_direction(called, values, beside, z, codes))
    return found


def _of_others(columns: Mapping[str, dict[str, Tensor]], name: str) -> list[Tensor]:
    """The columns of all labels but one; of categories, whose indicators add up to 1, without the first."""
    found: list[Tensor] = []
    for other, indicators in columns.items():
        if other != name:
            found += [*indicators.values()][int(len(indicators) > 1) :]
    return found


def _direction(
    name: str, values: Tensor, beside: Sequence[Tensor], z: Tensor, like: Tensor
) -> Direction:
    """The slope of codes in one column, beside others."""
    design = torch.stack([torch.ones_like(values), values, *beside], 1)
    there = design.isfinite().all(1)
    count = int((values[there] != 0).sum())
    slopes = torch.linalg.lstsq(design[there], z[there], driver="gelsd").solution
    return Direction(name, slopes[1].to(like), count)


def _columns(name: str, values: np.ndarray, count: int) -> dict[str, Tensor]:
    """A label as columns of a linear model: an indicator for each category, or a number in standard units."""
    values = np.asarray(values)
    if values.shape != (count,):
        raise InputError(
            f"the label {name} has shape {values.shape} and must be one for each of {count} codes"
        )
    if values.dtype.kind == "f":
        there = np.isfinite(values)
        if (values[there] != np.round(values[there])).any():
            spread = values[there].std()
            standard = (values - values[there].mean()) / (spread or 1.0)
            return {name: torch.from_numpy(np.asarray(standard, float))}
        cells = [
            f"{v:.0f}" if known else "" for v, known in zip(values, there, strict=True)
        ]
    else:
        known = [v not in NO_LABEL and v == v for v in values.tolist()]  # noqa: PLR0124  # nan
        pairs = zip(values.tolist(), known, strict=True)
        cells = [str(v) if there else "" for v, there in pairs]
    kinds = sorted({c for c in cells if c}, key=_in_order)
    if len(kinds) < 2:
        raise InputError(
            f"the label {name} has {len(kinds)} categories, and a direction needs two"
        )
    missing = torch.tensor([not c for c in cells])
    return {
        f"{name}={kind}": torch.tensor([float(c == kind) for c in cells])
        .double()
        .masked_fill(missing, torch.nan)
        for kind in kinds
    }


def _in_order(text: str) -> tuple[bool, float, str]:
    """Whole numbers by their size, before texts."""
    number = text.lstrip("-").isdigit()
    return not number, float(text) if number else 0.0, text
