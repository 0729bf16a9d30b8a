"""Labels that few data have, spread to the others along a graph of nearest neighbours."""

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from pyro_vae.data.fields import Data, evenly
from pyro_vae.data.inputs import fields_of
from pyro_vae.data.streams import batches
from pyro_vae.foundation.abstract import running
from pyro_vae.networks.base import Standardised
from pyro_vae.networks.corruptions import clean

NEIGHBOURS = 7
COMPONENTS = 50  # principal components in which distances are measured
ALPHA = 0.99  # the share that a datum takes of its neighbours' labels in each step
STEPS = 200
FEW = 0.1  # of the data have a label, where it is done unasked
MOST = 60_000  # data in the graph, and fewer where they are long:
ELEMENTS = 2**28  # of all of them, 1 GiB
DRAWS = 10  # of data that are drawn anew at each visit, whose mean is looked at
SINGLY = 100  # labels are held back one by one, to see whether the others tell them; more in so many folds
FOLDS = 10
COLUMNS = 500  # of labels that are followed at once, by which folds are fewer where classes are many
ENOUGH = 0.8  # of them have to be told right, unless spreading is asked for
BATCH = 1000


class Spread(NamedTuple):
    """Data whose labels were spread.

    Attributes:
        data: the data, with the labels of more of them.
        sentence: what was done, and how far it can be believed.
    """

    data: Any
    sentence: str


@torch.no_grad()
def spread_labels(vae: Any, data: Any) -> Spread | None:
    """Training data in which labels are given to those that have none, as `Classes` asks; `None` where nothing is.

    The labels of a datum's nearest neighbours are its own, `F <- alpha S F + (1 - alpha) Y` with the normalised
    adjacency S of the graph that joins each datum with its 7 nearest, in 50 principal components of what q(y|x) sees.
    Unless it is asked for, it is done where fewer than one in ten of the data has a label, if four in five of the
    known labels come out right where they are held back. The same data give the same labels.

    Args:
        vae: a pair with classes that knows the units of its data.
        data: `Data` with the fields x and c.

    Source: Zhou, Bousquet, Lal, Weston & Schoelkopf 2004, Learning with Local and Global Consistency.
    """
    asked = getattr(vae, "spread", False)
    _, c = fields_of(data)
    if asked is False or c is None or not isinstance(data, Data):
        return None
    classifier = vae.guide.classifier
    body, labelled = classifier.network, ~c[:, 0].isnan()
    share = float(labelled.float().mean())
    worth_while = classifier.weight > 0 and share < FEW
    if not 0 < share < 1 or not (asked or worth_while):
        return None

    # A graph of those that have a label and of as many others as it can hold.
    most = min(MOST, ELEMENTS // math.prod(vae.model.likelihood.shape))
    known = labelled.nonzero().flatten().cpu()
    known = known[evenly(max(1, most // 2), len(known))]
    rest = (~labelled).nonzero().flatten().cpu()
    rest = rest[evenly(max(1, most - len(known)), len(rest))]
    graph = _graph(_seen(body, data, torch.cat([known, rest])))
    labels = c[known, : vae.classes].argmax(-1).cpu().numpy()
    found, right = _told(graph, labels, vae.classes)
    if asked is None and right < ENOUGH:
        return None

    # A datum that no label reaches stays without one.
    found = found[len(known) :]
    reached = torch.from_numpy(found.sum(1) > 0)
    rows, y = rest[reached], torch.from_numpy(found.argmax(1))[reached]
    filled = c.clone()
    filled[rows, : vae.classes] = torch.eye(vae.classes).to(c)[y.to(c.device)]
    fields = {**data.fields, "c": filled}
    return Spread(
        Data(fields, data.name),
        f"spread from {len(known):,} data to {len(rows):,} others by their nearest neighbours, for training; of "
        f"those known {right:.0%} come out right when they are held back",
    )


def _seen(body: nn.Module, data: Data, index: Tensor) -> np.ndarray:
    """Principal components of what q(y|x) sees of some data, `(N, D)`."""
    from sklearn.decomposition import PCA

    x = data.take(index).fields["x"]
    bridge = getattr(x, "bridge", None)
    draws = DRAWS if bridge is not None and bridge.is_random else 1
    see = body.standardise if isinstance(body, Standardised) else Tensor.float
    total: Any = 0.0
    with running(body), clean():
        for seed in range(draws):
            fixed = x.fixed(seed) if draws > 1 else x
            rows = [see(few) for few in batches(fixed, BATCH)]
            total = total + torch.cat(rows).flatten(1).nan_to_num().float().cpu()
    rows = (total / draws).numpy()
    if min(rows.shape) <= COMPONENTS:
        return rows  # type: ignore[no-any-return]
    return PCA(COMPONENTS, random_state=0).fit_transform(rows)  # type: ignore[no-any-return]


def _graph(rows: np.ndarray) -> Any:
    """`D^-1/2 W D^-1/2` of the graph that joins each row with its nearest, `(N, N)`, sparse."""
    from scipy.sparse import diags_array
    from sklearn.neighbors import kneighbors_graph

    nearest = kneighbors_graph(rows, min(NEIGHBOURS, len(rows) - 1))
    joined = nearest.maximum(nearest.T).astype(np.float32)
    degrees = np.asarray(joined.sum(1)).ravel()
    scale = diags_array(1 / np.sqrt(degrees))
    return (scale @ joined @ scale).tocsr().astype(np.float32)


def _told(graph: Any, labels: np.ndarray, classes: int) -> tuple[np.ndarray, float]:
    """What labels tell of all data, `(N, K)`, and the share of them that comes out right where it is held back.

    Args:
        graph: as of `_graph`; the first data are those with a label.
        labels: theirs, from 0.
        classes: K.
    """
    count = len(labels)
    folds = count if count <= SINGLY else max(2, min(FOLDS, COLUMNS // classes))
    fold = np.random.default_rng(0).permutation(count) % folds

    # What the labels of one class in one fold tell by themselves.
    groups, group = np.unique(np.stack([fold, labels]), axis=1, return_inverse=True)
    y = np.zeros((graph.shape[0], groups.shape[1]), np.float32)
    y[np.arange(count), group.ravel()] = 1
    f = y
    for _ in range(STEPS):
        f = ALPHA * (graph @ f) + (1 - ALPHA) * y

    # Of all together, and for each label of those in the other folds.
    of_class = np.eye(classes, dtype=np.float32)[groups[1]]
    others = groups[0] != fold[:, None]
    without = (f[:count] * others) @ of_class
    right = (without.argmax(1) == labels) & (without.sum(1) > 0)
    return f @ of_class, float(right.mean())
