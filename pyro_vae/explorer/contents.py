"""What a page holds: the decoder, some data with their codes, draws from the prior, and how all of it is called."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae._evaluations import named, read_evaluation
from pyro_vae._rows import Rows
from pyro_vae.data.conditions import in_order, spelled
from pyro_vae.explorer.decoder import Decoder, Panel, channels_first
from pyro_vae.explorer.graph import Graph, packed
from pyro_vae.foundation.errors import InputError
from pyro_vae.models.program import formula
from pyro_vae.trained import Run

DRAWS = 500  # from the prior
KINDS = 24  # labels of more kinds are numbers or names, and no colours
LEVELS = 255  # of a picture in bytes
HALVED = 500_000  # weights from which 16 bits are tried for each
CLOSE = 1e-3  # of the range of what is shown: how far 16 bits may move it
CHECKED = 50  # data by which that is known
SHOWN_SCORES = {
    "values": "log p(x)",
    "elbo": "ELBO",
}  # of an evaluation, in nats


@dataclass
class Encoded:
    """Some data with what the guide says of them.

    Attributes:
        rows: the data.
        x: what the likelihood sees of them, `(N, *shape)`.
        c: their conditions, all known, `(N, context)`, or `None`.
        mean: of q(z|x), `(N, latent_dim)`.
        std: of the same. Of several layers both are given the means of those that the guide draws before.
    """

    rows: Rows
    x: Tensor
    c: Tensor | None
    mean: Tensor
    std: Tensor


def contents(run: Run, some: Encoded) -> dict[str, Any]:
    """All that a page shows of a run and some of its data, as plain values.

    Raises:
        InputError: for a run whose latents are no reals, or whose decoder a page cannot run.
    """
    decoder = Decoder(run)
    given = () if some.c is None else (some.c,)
    with torch.no_grad():
        codes = decoder.coordinates(some.mean, *given)
        spreads = decoder.spreads(some.std, some.mean, *given)
        drawn, conditions = prior_draws(run, some)
        drawn = decoder.coordinates(drawn, *conditions)
    graph = decoder.graph()
    graph.half = _may_be_halved(graph, decoder, codes, given)
    layered = len(run.vae.model.dims) > 1
    kl = _kl(codes, spreads, drawn, layered=layered)
    low, high = _ends(codes, drawn, 0.01 if layered else 0.0)
    page: dict[str, Any] = {
        "latents": {
            "names": decoder.names,
            "kl": kl.tolist(),
            "low": low.tolist(),
            "high": high.tolist(),
        },
        "conditions": _conditions(run, decoder),
        "graph": graph.to_dict(),
        "panels": [
            _panel(panel, view, some.x)
            for panel, view in zip(decoder.panels, decoder.views, strict=True)
        ],
        "codes": _matrix(codes),
        "given": None if some.c is None else _matrix(some.c),
        "drawn": _matrix(drawn),
        "drawnGiven": _matrix(conditions[0]) if conditions else None,
        "rows": [int(row) for row in some.rows.rows],
        "split": some.rows.split,
        "labels": _labels(some.rows),
        "scores": _scores(run, some.rows),
        "formula": formula(run.vae.model, run.vae.guide),
    }
    if some.rows.names is not None:
        page["names"] = [str(name) for name in some.rows.names]
    return page


def _matrix(x: Tensor) -> dict[str, str]:
    return packed(x.detach().cpu().float().numpy())


def prior_draws(run: Run, some: Encoded) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Draws from p(z), `(DRAWS, latent_dim)`, and the conditions that go with them: those of the data, y from p(y)."""
    vae = run.vae
    if not vae.context:
        return vae.draw_prior(DRAWS), ()
    assert some.c is not None
    c = some.c[torch.randint(len(some.c), (DRAWS,))].clone()
    if vae.label_width:
        c[:, : vae.label_width] = torch.nan
        c = vae._with_class(c)
    return vae.draw_prior(DRAWS, c), (c,)


def _kl(codes: Tensor, spreads: Tensor, drawn: Tensor, *, layered: bool) -> Tensor:
    """How much each latent says of the data, `(latent_dim,)`, in nats.

    `KL(q(z_d|x) || N(m_d, s_d^2))` on average, with the mean and standard deviation of draws from p(z). Of several
    layers it is taken with the others at their means, which is too much for some data: there it is the median.
    """
    m, s = drawn.double().mean(0), drawn.double().std(0).clamp_min(1e-12)
    ratio = spreads.double().clamp_min(1e-12) / s
    shift = (codes.double() - m) / s
    each = (ratio.square() + shift.square() - 1) / 2 - ratio.log()
    return (each.median(0).values if layered else each.mean(0)).clamp_min(0)


def _ends(codes: Tensor, drawn: Tensor, left: float) -> tuple[Tensor, Tensor]:
    """How far a slider of each latent goes: over nearly all draws, and the codes but for a share `left` out."""
    codes, drawn = codes.double(), drawn.double()
    low = drawn.quantile(0.005, 0).minimum(codes.quantile(left, 0))
    high = drawn.quantile(0.995, 0).maximum(codes.quantile(1 - left, 0))
    more = 0.1 * (high - low) + 1e-3
    return low - more, high + more


@torch.no_grad()
def _may_be_halved(
    graph: Graph, decoder: Decoder, codes: Tensor, given: tuple[Tensor, ...]
) -> bool:
    """Whether weights of 16 bits make large networks no worse: means move by less than a thousandth of their range."""
    if graph.numbers < HALVED:
        return False
    vae, few = decoder.vae, slice(CHECKED)
    inputs = (codes[few], *(c[few] for c in given))
    weights = [
        w for w in (*vae.parameters(), *vae.buffers()) if w.dtype is torch.float32
    ]
    kept = [w.clone() for w in weights]
    whole = decoder(*inputs)
    try:
        for weight in weights:
            weight.copy_(weight.half().float())
        halved = decoder(*inputs)
    finally:
        for weight, before in zip(weights, kept, strict=True):
            weight.copy_(before)
    return all(_moved(a, b) < CLOSE for a, b in zip(whole, halved, strict=True))


def _moved(a: Tensor, b: Tensor) -> float:
    """How far numbers moved from `a` to `b`, as a share of their range; what was none before is left out."""
    seen = a.isfinite()
    if not seen.any():
        return 0.0
    a, b = a[seen], b[seen]
    return float((b - a).abs().max() / (a.max() - a.min() + 1e-12))


def _conditions(run: Run, decoder: Decoder) -> list[dict[str, Any]]:
    """The columns that the decoder reads: where they stand in c, and what values they take."""
    if run.conditions is None:
        return []
    columns, start = [], 0
    for column in run.conditions.columns:
        read = decoder.reads_class if column.latent else decoder.reads_condition
        described: dict[str, Any] = {"name": column.name, "start": start}
        if column.categories:
            usual = column.categories.index(column.commonest)
            described |= {"categories": [*column.categories], "usual": usual}
        else:
            described |= {"mean": column.mean, "std": column.std}
        start += column.width
        if read:
            columns.append(described)
    return columns


def _panel(panel: Panel, view: Run, x: Tensor) -> dict[str, Any]:
    """A panel with the data that it shows."""
    stored = view.bridge.inverse(view.shown(x))
    values = channels_first(panel, view.spec.shape, stored).cpu().double().numpy()
    described: dict[str, Any] = {
        "name": panel.name,
        "kind": panel.kind,
        "shape": [*panel.shape],
        "columns": panel.columns,
        "outputs": panel.outputs,
    }
    seen = values[np.isfinite(values)]
    low, high = (float(seen.min()), float(seen.max())) if seen.size else (0.0, 1.0)
    if panel.kind == "picture":
        low, high = min(0.0, low), max(1.0, high)
        described["scale"] = [low, high]
        if seen.size == values.size:
            levels = np.round((values - low) / (high - low) * LEVELS).astype(np.uint8)
            return described | {"data": packed(levels)}
    if panel.kind == "lines":
        described["scale"] = [low, high]
    if panel.kind == "table":
        for column, cells in zip(panel.columns, values.T, strict=True):
            there = cells[np.isfinite(cells)]
            if there.size and "categories" not in column:
                column |= {"low": float(there.min()), "high": float(there.max())}
    return described | {"data": packed(values.astype(np.float32))}


def _labels(rows: Rows) -> dict[str, Any] | None:
    """What data are coloured by: their labels, or the first condition that they are given."""
    name, values = "label", rows.labels
    if values is None and rows.given:
        name, values = next(iter(rows.given.items()))
    if values is None or np.asarray(values).ndim != 1:
        return None
    texts = spelled(values)
    kinds = in_order({*texts} - {""})
    if 0 < len(kinds) <= KINDS:
        places = {kind: i for i, kind in enumerate(kinds)}
        index = np.array([places.get(text, -1) for text in texts], np.int32)
        return {"name": name, "kinds": kinds, "index": packed(index)}
    if np.asarray(values).dtype.kind in "fiu":
        numbers = np.asarray(values).astype(np.float32)
        return {"name": name, "numbers": packed(numbers)}
    return {"name": name, "texts": texts}


def _scores(run: Run, rows: Rows) -> dict[str, Any]:
    """What the evaluation of the split found of each datum, in nats, nan of those that it left out."""
    try:
        _, stem = named(str(run.folder), rows.split)
        found = read_evaluation(run.folder, stem)
    except InputError:  # there is none
        return {}
    if found.summary.get("epoch", run.epoch) != run.epoch:
        return {}
    columns: Mapping[str, Any] = found.columns
    evaluated = columns.get("row")
    if evaluated is None:
        return {}
    places = {int(row): i for i, row in enumerate(evaluated)}
    index = [places.get(int(row), -1) for row in rows.rows]
    scores = {}
    for key, words in SHOWN_SCORES.items():
        if key in columns:
            values = np.append(columns[key], np.nan)[index]
            scores[words] = packed(values.astype(np.float32))
    return scores
