"""The classes of a pair beside labels: how often they agree, how sure they are, and the density of both together."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pyro_vae.data.classes import CLUSTER
from pyro_vae.data.conditions import in_order, spelled
from pyro_vae.data.inputs import Call, as_data, classes_of, fields_of, once, rows_within
from pyro_vae.engine.memory import MEMORY
from pyro_vae.evaluation.question import (
    Answer,
    Drawing,
    Estimate,
    Evaluated,
    Printed,
    Progress,
    Question,
    Row,
    Tick,
    Trained,
    unseen,
)
from pyro_vae.evaluation.weighting import a_few, check_draws
from pyro_vae.foundation.abstract import running
from pyro_vae.foundation.checks import Number, checked
from pyro_vae.foundation.errors import InputError
from pyro_vae.inference.bounds import scored
from pyro_vae.inference.terms import double

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEADS = {"value": "value", "error": "± data"}
COPIES = 8  # of a bin, while data are sorted into them
USED = 0.5  # of an equal share: a class that has less of the data is not in use


@checked
@torch.no_grad()
def classify(
    vae: Any,
    x: Any,
    *,
    num_particles: Number = 100,
    memory: Number = MEMORY,
    progress: Tick = None,
) -> tuple[Tensor, Tensor]:
    """`q(y|x)` and an estimate of `log p(x, y)` for each class, both `(N, K)`; labels of x are not looked at.

    `log p(x, y) = log mean_k p(x, z_k, y) / q(z_k|x, y)`, so that `softmax(log p(x, y))` is the model's own `p(y|x)`,
    however good the guide's is.

    Args:
        vae: a pair with classes.
        x: the data, `(N, *shape)`, with a condition where the pair has one.
        num_particles: draws of z for each datum and class.
        memory: bytes to keep within.
        progress: called with the number of data done since its last call.

    Raises:
        InputError: for a pair without classes.
    """
    if not vae.classes:
        raise InputError("this pair has no classes: give VAE classes=Classes(...)")
    data = once(as_data(vae.model, x))
    rows = max(1, rows_within(data, memory) // (num_particles * vae.classes))
    found, joint = [], []
    with running(vae.model, vae.guide):
        for start in range(0, len(data), rows):
            batch = unlabelled(vae.model, data[start : start + rows])
            t = scored(vae.model, vae.guide, Call(batch), num_particles)
            log_q: Any = t.sites["y"].log_q
            log_w = double(t.log_weight + log_q)
            each = log_w.unflatten(0, (vae.classes, -1))  # (K, draws, batch)
            joint.append((each.logsumexp(1) - math.log(num_particles)).T.cpu())
            found.append(vae.predict(*fields_of(batch)).cpu())
            if progress:
                progress(len(joint[-1]))
    return torch.cat(found), torch.cat(joint)


def unlabelled(model: Any, batch: Any) -> Any:
    """Some data without their labels; what else they are given stays."""
    x, c = fields_of(batch)
    if c is None:
        return x
    unknown = c.clone()
    unknown[:, : classes_of(model)] = math.nan
    return {"x": x, "c": unknown}


@dataclass(frozen=True)
class Classified(Printed):
    """Classes of N data beside their labels.

    Attributes:
        guide: `q(y|x)`, `(N, K)`.
        log_joint: `log p(x, y)` in nats, `(N, K)`.
        labels: the class that the label names, `(N,)`; -1 where there is none.
        kinds: what the labels are called.
        names: what the classes are called: as the labels, or clusters by their number.
        bins: of the expected calibration error.
    """

    guide: Tensor
    log_joint: Tensor
    labels: Tensor
    kinds: Sequence[str]
    names: Sequence[str]
    bins: int = 15

    @property
    def known(self) -> Tensor:
        """Which data have a label, `(N,)` booleans."""
        return self.labels >= 0

    @property
    def named(self) -> bool:
        """Whether classes are called by labels, so that a class is right or wrong."""
        return list(self.names[: len(self.kinds)]) == list(self.kinds)

    @property
    def model(self) -> Tensor:
        """`p(y|x) = p(x, y) / sum_y p(x, y)`, `(N, K)`."""
        return self.log_joint.softmax(1)

    @property
    def counts(self) -> Tensor:
        """How many data of each label (rows) have each most probable class under q(y|x), `(labels, K)`."""
        table = torch.zeros(len(self.kinds), self.guide.shape[1], dtype=torch.int64)
        found = self.guide.argmax(1)[self.known]
        one = torch.ones_like(found)
        return table.index_put((self.labels[self.known], found), one, accumulate=True)

    def accuracy(self, probabilities: Tensor) -> Estimate:
        """How often the most probable class is the label."""
        right = probabilities.argmax(1)[self.known] == self.labels[self.known]
        return Estimate.over(right.double())

    def calibration_error(self, probabilities: Tensor) -> float:
        """`sum_b n_b / N |accuracy_b - confidence_b|` over bins of the largest probability, as wide as each other.

        Source: Naeini, Cooper & Hauskrecht 2015; Guo, Pleiss, Sun & Weinberger 2017, On Calibration of Modern Neural
        Networks.
        """
        sizes, confidence, accuracy = self.reliability(probabilities)
        return float((sizes * (accuracy - confidence).abs()).nansum() / sizes.sum())

    def reliability(self, probabilities: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """By bins of the largest probability: how many data, its mean, and how often it is right; `(bins,)` each."""
        top, found = probabilities[self.known].double().max(1)
        right = (found == self.labels[self.known]).double()
        place = (top * self.bins).long().clamp_max(self.bins - 1)
        sizes, sure, correct = (
            torch.zeros(self.bins, dtype=torch.float64).index_add(0, place, values)
            for values in (torch.ones_like(top), top, right)
        )
        return sizes, sure / sizes, correct / sizes

    def agreement(self) -> dict[str, float]:
        """How well clusters and labels agree, whatever the clusters are called.

        `by majority` gives each cluster the label that most of its data have; `by assignment` pairs clusters and labels
        one to one, as well as possible (Kuhn 1955). The others are 1 for the same partition; the Rand index is 0 on
        average for partitions by chance (Hubert & Arabie 1985), and mutual information is divided by the mean of both
        entropies.
        """
        from scipy.optimize import linear_sum_assignment
        from sklearn.metrics import (
            adjusted_rand_score,
            normalized_mutual_info_score,
        )

        table = self.counts.numpy()
        rows, columns = linear_sum_assignment(-table)
        labels = self.labels[self.known].numpy()
        found = self.guide.argmax(1)[self.known].numpy()
        total = max(int(table.sum()), 1)
        return {
            "accuracy by majority": float(table.max(0).sum() / total),
            "accuracy by assignment": float(table[rows, columns].sum() / total),
            "normalised mutual information": normalized_mutual_info_score(
                labels, found
            ),
            "adjusted Rand index": adjusted_rand_score(labels, found),
        }

    def answer(self) -> Answer:
        """Agreement with labels, calibration, and densities."""
        rows: dict[str, Row] = {}
        count = int(self.known.sum())
        if count and self.named:
            rows |= self._of_named()
        elif count:
            agreement = self.agreement()
            for name, value in agreement.items():
                share = name.startswith("accuracy")
                error = math.sqrt(value * (1 - value) / count) if share else None
                rows[name] = {"value": value, "error": error}
        rows |= self._of_all()
        figures = {}
        if count:
            text = (
                "How the data of each label (rows) are classed, as shares of the row."
            )
            figures["confusion"] = Drawing(partial(_confusion, self), text)
        if count and self.named:
            text = (
                "How often the most probable class is right, by how probable it is said to be: on the diagonal a "
                "probability means what it says."
            )
            figures["reliability"] = Drawing(partial(_reliability, self), text)
        return Answer(
            title="Classes and labels" if count else "Classes",
            about=f"{len(self.guide)} data, {count} of them with a label",
            rows=rows,
            heads=HEADS,
            meanings=MEANINGS,
            sentences=self._sentences(),
            figures=figures,
            columns=self._columns(),
        )

    def _of_named(self) -> dict[str, Row]:
        """Rows for classes that are called by labels."""
        rows: dict[str, Row] = {}
        for name, each in (("q(y|x)", self.guide), ("p(y|x)", self.model)):
            accuracy = self.accuracy(each)
            rows[f"accuracy of {name}"] = {
                "value": accuracy.mean,
                "error": accuracy.data_standard_error,
            }
            error = self.calibration_error(each)
            rows[f"calibration error of {name}"] = {"value": error, "error": None}
        places = self.labels[self.known].unsqueeze(1)
        every = {
            "log q(y|x)": self.guide.log(),
            "log p(y|x)": self.log_joint.log_softmax(1),
            "log p(x, y)": self.log_joint,
        }
        for name, values in every.items():
            of_label = values[self.known].gather(1, places).squeeze(1)
            rows[name] = Estimate.over(of_label.double())
        return rows

    def _of_all(self) -> dict[str, Row]:
        """Rows that need no labels."""
        entropy = torch.special.entr(self.guide).sum(1)
        mean = self.guide.double().mean(0)
        return {
            "entropy of q(y|x)": Estimate.over(entropy.double()),
            "classes in use": {
                "value": float(torch.special.entr(mean).sum().exp()),
                "error": None,
            },
        }

    def _sentences(self) -> list[str]:
        """Which classes few data have."""
        mean, size = self.guide.double().mean(0), self.guide.shape[1]
        few = [self.names[k] for k in (mean < USED / size).nonzero().flatten().tolist()]
        said = []
        if few:
            share = f"{100 * USED / size:.3g} %"
            said.append(f"Less than {share} of the data each: {', '.join(few)}.")
        return said

    def _columns(self) -> dict[str, Any]:
        """For each datum the most probable class, by its number, and its probability."""
        top, found = self.guide.max(1)
        return {"class": found, "probability": top}


MEANINGS = {
    "accuracy of q(y|x)": "how often the class that the guide finds most probable is the label",
    "accuracy of p(y|x)": "the same of the model's own posterior, p(x, y) / sum_y p(x, y)",
    "calibration error of q(y|x)": "how far its probabilities are from how often it is right",
    "calibration error of p(y|x)": "how far its probabilities are from how often it is right",
    "log q(y|x)": "of the label; minus this is the cross-entropy",
    "log p(y|x)": "of the label, by the model",
    "log p(x, y)": "the density of datum and label together; no log p(x)",
    "accuracy by majority": "each cluster stands for the label that most of its data have",
    "accuracy by assignment": "clusters and labels paired one to one, as well as possible",
    "normalised mutual information": "0: independent, 1: the same partition",
    "adjusted Rand index": "0: as by chance, 1: the same partition",
    "entropy of q(y|x)": "how unsure the guide is of the class, 0 where it is certain",
    "classes in use": "the perplexity of q(y) over the data: as many equal classes",
}


def _confusion(found: Classified) -> "Figure":
    from pyro_vae import plots

    return plots.confusion(found.counts, found.kinds, found.names)


def _reliability(found: Classified) -> "Figure":
    from pyro_vae import plots

    every = {"q(y|x)": found.guide, "p(y|x)": found.model}
    return plots.reliability({name: found.reliability(p) for name, p in every.items()})


class Classification(Question):
    """The classes of a pair beside the labels of the data: accuracy, calibration, agreement, log p(x, y).

    It is asked of every run with classes.

    Args:
        num_particles: draws of z for each datum and class.
        bins: of the calibration error.
    """

    def __init__(self, *, num_particles: Number = 100, bins: Number = 15) -> None:
        self.num_particles, self.bins = num_particles, bins

    def check(self, run: Trained, data: Evaluated) -> None:
        if not run.vae.classes:
            raise InputError(
                "the run has no classes: train with --structure labelled or clusters"
            )
        if not run.vae.guide.has_density:
            raise InputError(
                "the guide is a point, and p(y|x) is weighed by draws: train with another guide, such as MeanField"
            )
        check_draws(self, data, run.vae.model, run.vae.guide, a_few(run, data))
        self.afford(8 * COPIES * self.bins, "bins")

    def ask(self, run: Trained, data: Evaluated, progress: Progress = unseen) -> Answer:
        with progress("data", len(data)) as done:
            guide, joint = classify(
                run.vae,
                data.x,
                num_particles=self.num_particles,
                memory=data.memory,
                progress=done,
            )
        latent = getattr(getattr(run, "conditions", None), "latent", None)
        names = [str(k) for k in range(run.vae.classes)]
        if latent is not None:
            names = list(latent.categories)
        called = latent is not None and latent.name != CLUSTER
        texts = [""] * len(data) if data.labels is None else spelled(data.labels)
        kinds = names if called else in_order({*texts} - {"", "-1"})
        place = {kind: i for i, kind in enumerate(kinds)}
        labels = torch.tensor([place.get(text, -1) for text in texts])
        if not called:
            names = [f"{CLUSTER} {name}" for name in names]
        return Classified(guide, joint, labels, kinds, names, self.bins).answer()
