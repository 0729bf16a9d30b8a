"""The real target of a pair beside its labels: errors, calibration, and the density of both together."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.special import ndtr, ndtri

from pyro_vae.data.inputs import Call, as_data, fields_of, once, rows_within
from pyro_vae.data.targets import as_reals
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
from pyro_vae.models.targets import TargetPrior

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEADS = {"value": "value", "error": "± data"}
LEVELS = (0.5, 0.9)  # of the intervals whose coverage is told


class Prediction(NamedTuple):
    """What a density of y says of N data, in standard units of y; each `(N,)`.

    Attributes:
        mean: of y.
        std: of y.
        log_density: of the label, nan where there is none.
        rank: how much of the density lies below the label; even between 0 and 1 where it is calibrated.
    """

    mean: Tensor
    std: Tensor
    log_density: Tensor
    rank: Tensor


class Predictions(NamedTuple):
    """Of the guide's q(y|x) and the model's p(y|x), and `log p(x, y)` of data with a label, `(N,)`."""

    guide: Prediction
    model: Prediction
    log_joint: Tensor


@checked
@torch.no_grad()
def regress(
    vae: Any,
    x: Any,
    y: Tensor,
    *,
    num_particles: Number = 1000,
    memory: Number = MEMORY,
    progress: Tick = None,
) -> Predictions:
    """`q(y|x)` and, by weighted draws, `p(y|x)` and `log p(x, y)`; labels among x are not looked at.

    `p(y|x)` has the draws of y from q(y|x), each weighted by `p(x, z, y) / q(z, y|x)`, and its density at a label is
    `p(x, y) / p(x)`, each by draws of its own: so it is the model's, however good the guide is.

    Args:
        vae: a pair with a real target.
        x: the data, `(N, *shape)`, with a condition where the pair has one.
        y: their labels in standard units, `(N,)`, nan where there is none.
        num_particles: draws for each datum.
        memory: bytes to keep within.
        progress: called with the number of data done since its last call.

    Raises:
        InputError: for a pair without a real target.
    """
    if vae.label_width != 1:
        raise InputError("this pair has no real target: give VAE classes=Targets(...)")
    data = once(as_data(vae.model, x))
    rows = max(1, rows_within(data, memory) // num_particles)
    found: list[Predictions] = []
    with running(vae.model, vae.guide):
        for start in range(0, len(data), rows):
            some = slice(start, start + rows)
            found.append(_predicted(vae, data[some], y[some], num_particles))
            if progress:
                progress(len(found[-1].log_joint))
    guide, model = (
        Prediction(*map(torch.cat, zip(*each, strict=True)))
        for each in zip(*((p.guide, p.model) for p in found), strict=True)
    )
    return Predictions(guide, model, torch.cat([p.log_joint for p in found]))


def _predicted(vae: Any, batch: Any, y: Tensor, count: int) -> Predictions:
    """The predictions for one batch."""
    x, c = fields_of(batch)
    rest = [] if c is None else [c[:, 1:]]
    log_unit = vae.model.class_prior.log_unit.double().cpu()

    # The guide's, in closed form.
    unlabelled = _with(x, x.new_full((len(x), 1), math.nan), rest)
    q = vae.class_given(unlabelled)
    loc, scale = double(q.loc).cpu(), double(q.scale).cpu()
    standard = (y - loc) / scale
    log_q = -0.5 * standard.square() - scale.log() - 0.5 * math.log(2 * math.pi)
    guide = Prediction(loc, scale, log_q - log_unit, ndtr(standard))

    # The model's, by draws of y and z without the label, and of z with it.
    t = scored(vae.model, vae.guide, Call(unlabelled), count)
    values = double(t.sites["y"].value).cpu()
    log_w = double(t.log_weight).cpu()
    weights = log_w.softmax(0)
    mean = (weights * values).sum(0)
    std = (weights * (values - mean).square()).sum(0).sqrt()
    rank = (weights * (values <= y)).sum(0).where(~y.isnan(), math.nan)
    known = _with(x, y.to(x).unsqueeze(-1), rest)
    with_label = double(scored(vae.model, vae.guide, Call(known), count).log_weight)
    log_joint = (with_label.cpu().logsumexp(0) - math.log(count)).where(
        ~y.isnan(), math.nan
    )
    log_p = log_joint - (log_w.logsumexp(0) - math.log(count))
    return Predictions(guide, Prediction(mean, std, log_p, rank), log_joint)


def _with(x: Tensor, label: Tensor, rest: list[Tensor]) -> dict[str, Tensor]:
    """Data with their labels and what else they are given."""
    return {"x": x, "c": torch.cat([label, *rest], 1)}


@dataclass(frozen=True)
class Regressed(Printed):
    """Predictions of a real target for N data beside their labels.

    Attributes:
        predictions: in standard units of y.
        labels: as they are stored, `(N,)`; nan where there is none.
        mean, std: of the labels of the training data: the units of y.
        name: what the target is called.
    """

    predictions: Predictions
    labels: Tensor
    mean: float = 0.0
    std: float = 1.0
    name: str = "y"

    @property
    def known(self) -> Tensor:
        """Which data have a label, `(N,)` booleans."""
        return ~self.labels.isnan()

    @property
    def each(self) -> dict[str, Prediction]:
        """The guide's prediction and the model's, means and deviations in units of the labels."""
        densities = {"q(y|x)": self.predictions.guide, "p(y|x)": self.predictions.model}
        return {
            name: p._replace(mean=self.mean + self.std * p.mean, std=self.std * p.std)
            for name, p in densities.items()
        }

    def errors(self, prediction: Prediction) -> dict[str, Row]:
        """RMSE, MAE and R^2 of a mean, with standard errors by the delta method.

        `R^2 = 1 - sum (y - m)^2 / sum (y - mean y)^2`: 1 where all is told, 0 where the mean of these labels does as
        well.
        """
        y = self.labels[self.known]
        left = y - prediction.mean[self.known]
        squares, spread = left.square(), (y - y.mean()).square()
        mse, variance = squares.mean(), spread.mean()
        ratio = mse / variance
        influences = {
            "RMSE": (mse.sqrt(), squares / (2 * mse.sqrt())),
            "MAE": (left.abs().mean(), left.abs()),
            "R²": (1 - ratio, (squares - ratio * spread) / variance),
        }
        return {
            name: {"value": float(value), "error": _error(each)}
            for name, (value, each) in influences.items()
        }

    def coverage(self, prediction: Prediction, level: float) -> Estimate:
        """How often the label lies in the central interval that is to hold it with this probability."""
        rank = prediction.rank[self.known]
        return Estimate.over(((rank - 0.5).abs() <= level / 2).double())

    def answer(self) -> Answer:
        """Errors, calibration and densities."""
        rows: dict[str, Row] = {}
        figures: dict[str, Drawing] = {}
        count = int(self.known.sum())
        if count > 1:
            for name, prediction in self.each.items():
                errors = self.errors(prediction)
                rows |= {f"{what} of {name}": row for what, row in errors.items()}
                for level in LEVELS:
                    covered = self.coverage(prediction, level)
                    rows[f"{100 * level:.0f} % interval of {name}"] = {
                        "value": covered.mean,
                        "error": covered.data_standard_error,
                    }
            rows |= self._densities()
            figures = self._figures()
        rows |= self._of_all()
        return Answer(
            title=f"Predictions of {self.name}",
            about=f"{len(self.labels)} data, {count} of them with a label",
            rows=rows,
            heads=HEADS,
            meanings=MEANINGS,
            figures=figures,
            columns=self._columns(),
        )

    def _densities(self) -> dict[str, Row]:
        """Rows in nats, of data with a label."""
        rows: dict[str, Row] = {}
        for name, prediction in self.each.items():
            rows[f"log {name}"] = Estimate.over(prediction.log_density[self.known])
        rows["log p(x, y)"] = Estimate.over(self.predictions.log_joint[self.known])
        return rows

    def _of_all(self) -> dict[str, Row]:
        """Rows that need no labels."""
        q = self.predictions.guide
        kl = 0.5 * (q.mean.square() + q.std.square() - 1) - q.std.log()
        return {"KL(q(y|x) || p(y))": Estimate.over(kl)}

    def _figures(self) -> dict[str, Drawing]:
        text = (
            "Predicted against true, with the intervals that are to hold 90 % of the labels; a right prediction is "
            "on the diagonal."
        )
        more = (
            "How often the label lies in the central interval of a probability: on the diagonal intervals mean what "
            "they say, below it they are too narrow."
        )
        return {
            "predictions": Drawing(partial(_predictions, self), text),
            "calibration": Drawing(partial(_calibration, self), more),
        }

    def _columns(self) -> dict[str, Any]:
        """For each datum mean and standard deviation of both predictions."""
        q, p = self.each["q(y|x)"], self.each["p(y|x)"]
        return {
            "prediction": q.mean,
            "prediction_std": q.std,
            "posterior_mean": p.mean,
            "posterior_std": p.std,
        }


MEANINGS: Mapping[str, str] = {
    "RMSE of q(y|x)": "root mean square of label less the guide's mean, in units of the labels",
    "RMSE of p(y|x)": "the same of the model's own posterior mean E[y|x], by weighted draws",
    "MAE of q(y|x)": "mean distance of label and mean",
    "MAE of p(y|x)": "mean distance of label and mean",
    "R² of q(y|x)": "1: all is told; 0: the mean of these labels does as well",
    "R² of p(y|x)": "1: all is told; 0: the mean of these labels does as well",
    "50 % interval of q(y|x)": "how often it holds the label; 0.5 where it is calibrated",
    "50 % interval of p(y|x)": "how often it holds the label; 0.5 where it is calibrated",
    "90 % interval of q(y|x)": "how often it holds the label; 0.9 where it is calibrated",
    "90 % interval of p(y|x)": "how often it holds the label; 0.9 where it is calibrated",
    "log q(y|x)": "the density of the label, over labels as they are stored",
    "log p(y|x)": "of the label, by the model: log p(x, y) - log p(x)",
    "log p(x, y)": "the density of datum and label together; no log p(x)",
    "KL(q(y|x) || p(y))": "how much the guide says of y, with or without labels",
}


def _error(each: Tensor) -> float:
    """The standard error of a mean of these."""
    return float(each.std() / math.sqrt(len(each)))


def _predictions(found: Regressed) -> "Figure":
    from pyro_vae import plots

    reach = float(ndtri(torch.tensor(0.5 + LEVELS[-1] / 2, dtype=torch.float64)))
    known = found.known
    each = {
        name: (p.mean[known], reach * p.std[known]) for name, p in found.each.items()
    }
    return plots.predictions(found.labels[known], each, found.name)


def _calibration(found: Regressed) -> "Figure":
    from pyro_vae import plots

    known = found.known
    return plots.calibration({name: p.rank[known] for name, p in found.each.items()})


class Regression(Question):
    """The real target of a pair beside the labels of the data: errors, coverage of intervals, log p(x, y).

    It is asked of every run with a real target.

    Args:
        num_particles: draws of y and z for each datum.
    """

    def __init__(self, *, num_particles: Number = 1000) -> None:
        self.num_particles = num_particles

    def check(self, run: Trained, data: Evaluated) -> None:
        if run.vae.label_width != 1:
            raise InputError(
                "the run has no real target: train with --structure \"labelled(target='real')\""
            )
        if not run.vae.guide.has_density:
            raise InputError(
                "the guide is a point, and p(y|x) is weighed by draws: train with another guide, such as MeanField"
            )
        check_draws(self, data, run.vae.model, run.vae.guide, a_few(run, data))
        self._labels(data)

    @staticmethod
    def _labels(data: Evaluated) -> Tensor:
        """Of the data, nan where there is none."""
        if data.labels is None:
            return torch.full((len(data),), math.nan, dtype=torch.float64)
        return torch.from_numpy(as_reals(data.labels))

    def ask(self, run: Trained, data: Evaluated, progress: Progress = unseen) -> Answer:
        column = getattr(getattr(run, "conditions", None), "latent", None)
        mean, std, name = 0.0, 1.0, "y"
        if column is not None:
            mean, std, name = column.mean, column.std, column.name
        labels, prior = self._labels(data), run.vae.model.class_prior
        assert isinstance(prior, TargetPrior)
        units = prior.units
        y = units.standardised((labels - mean) / std)
        with progress("data", len(data)) as done:
            predictions = regress(
                run.vae,
                data.x,
                y,
                num_particles=self.num_particles,
                memory=data.memory,
                progress=done,
            )
        mean, std = mean + std * float(units.mean), std * float(units.std)
        return Regressed(predictions, labels, mean, std, name).answer()
