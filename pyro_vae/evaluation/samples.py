"""What the samples of a run are like beside its data: the question of how far they are from them."""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor, nn

from pyro_vae.data.fields import evenly
from pyro_vae.data.inputs import fields_of
from pyro_vae.evaluation.disentanglement import half_samples, interval
from pyro_vae.evaluation.fidelity import (
    MEASURES,
    Distances,
    distances_of,
    frechet,
    frechet_limit,
    kernel_distance,
    manifolds,
    squares,
)
from pyro_vae.evaluation.moments import encode
from pyro_vae.evaluation.outliers import detection
from pyro_vae.evaluation.question import (
    Answer,
    Evaluated,
    Printed,
    Progress,
    Question,
    Trained,
    unseen,
)
from pyro_vae.foundation.checks import Count, Draws, share
from pyro_vae.foundation.errors import InputError, one_line
from pyro_vae.foundation.trust import check_trusted

BATCH = 500
SEED = 0  # of the random network
WIDTHS = (32, 64, 16)  # its channels
POOLED = 2  # its last images are this wide
LEAST_SIDE = 8  # pixels of an image for it
ENOUGH = 10  # data for each feature of a covariance
HEADS = {
    "value": "samples, test",
    "low": "interval: from",
    "high": "to",
    "floor": "train, test",
    "train": "samples, train",
}
LEAST = 4  # data
SHARES = ("precision", "recall", "coverage")
NAMES = ("data", "pca", "conv", "guide")
Features = Callable[[Tensor], Any]


@dataclass(frozen=True)
class Encoder:
    """Features of data, and what they are, in words."""

    make: Features
    about: str
    given: bool = False  # whether they are of data and their condition

    def __call__(self, x: Tensor, c: Tensor | None = None) -> np.ndarray:
        """`(n, *shape)` -> `(n, d)`, batch by batch."""
        batches: Any = x.split(BATCH)
        if self.given and c is not None:
            pairs = zip(batches, c.split(BATCH), strict=True)
            batches = [{"x": some, "c": under} for some, under in pairs]
        with torch.no_grad():
            parts = [self.make(batch) for batch in batches]
        arrays = [np.asarray(torch.as_tensor(p).detach().cpu()) for p in parts]
        if any(
            a.ndim != 2 or len(a) != len(b)
            for a, b in zip(arrays, x.split(BATCH), strict=True)
        ):
            raise InputError(
                f"features must be (n, d) for n data, and {self.about} gives {arrays[0].shape} for {len(x[:BATCH])}"
            )
        return np.concatenate(arrays).astype(np.float64)


def encoder_of(name: str, run: Trained, train: Tensor, components: int) -> Encoder:
    """The features of this name, fitted to training data where they are; what is missing has the mean of the rest."""
    if ":" in name:
        return Encoder(_own(name), f"features {name}")
    if name == "guide":
        return Encoder(
            lambda x: encode(run.vae, x)[0],
            "the means of the run's own q(z|x): a model judged by itself, to be read beside other features",
            given=True,
        )
    if name == "conv":
        return _random_network(train)
    view = run.vae.model.likelihood.view
    seen: Features = (
        (lambda x: x.flatten(1)) if view is None else lambda x: view(x).flatten(1)
    )
    flat = torch.cat([seen(batch) for batch in train.split(BATCH)]).double()
    mean, std = _moments(flat)
    if name == "data":
        about = f"the data themselves, {flat.shape[1]} numbers in standard deviations of the training data"
        return Encoder(lambda x: _filled(seen(x).double() - mean) / std, about)
    count = min(components, flat.shape[1], len(flat) - 1)
    _, _, axes = torch.linalg.svd(_filled(flat - mean), full_matrices=False)
    kept = axes[:count].T
    return Encoder(
        lambda x: _filled(seen(x).double() - mean) @ kept,
        f"{count} principal components of the training data",
    )


def _random_network(train: Tensor) -> Encoder:
    """A convolutional network with fixed random weights."""
    images = train if train.dim() == 4 else train.unsqueeze(1)
    each, _ = _moments(images)
    mean, std = images.nanmean(), images[~images.isnan()].std().clamp_min(1e-6)
    weights = torch.Generator().manual_seed(SEED)
    layers: list[nn.Module] = []
    for fewer, more in zip((images.shape[1], *WIDTHS), WIDTHS, strict=False):
        layer = nn.Conv2d(fewer, more, 3, stride=2, padding=1, bias=False)
        with torch.no_grad():
            noise = torch.randn(layer.weight.shape, generator=weights)
            layer.weight.copy_(noise * (2 / (9 * fewer)) ** 0.5)
        layers += [layer, nn.ReLU()]
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(POOLED), nn.Flatten())
    network = network.to(images.device, images.dtype)

    def plain(x: Tensor) -> Tensor:
        x = x if x.dim() == 4 else x.unsqueeze(1)
        return network((x.where(~x.isnan(), each) - mean) / std)

    with torch.no_grad():
        seen = torch.cat([plain(batch) for batch in train.split(BATCH)])
    middle, spread = _moments(seen)
    about = (
        f"{seen.shape[1]} features of a convolutional network with fixed random weights, in standard deviations of the "
        "training data"
    )
    return Encoder(lambda x: (plain(x) - middle) / spread, about)


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of what is there of each element; 0 and 1 where nothing is."""
    mean, there = x.nanmean(0).nan_to_num(), ~x.isnan()
    squares = (x - mean).square().nansum(0)
    std = (squares / (there.sum(0) - 1).clamp_min(1)).sqrt()
    return mean, std.where(std > 0, 1.0)


def _filled(x: Tensor) -> Tensor:
    """Differences from the mean, with none where a value is missing."""
    return x.where(~x.isnan(), 0.0)


def _own(name: str) -> Features:
    """A function of the user's, as `module:function`."""
    module, _, function = name.partition(":")
    check_trusted("ask", module, function)
    try:
        found = getattr(importlib.import_module(module), function)
    except Exception as error:  # the module's own code may fail in any way
        raise InputError(
            f"the features {name} cannot be imported ({one_line(error)}); start where Python finds {module}"
        ) from error
    if not callable(found):
        raise InputError(f"the features {name} are no function of a batch of data")
    return found


@dataclass(frozen=True)
class Sampled(Printed):
    """Measures of N samples beside N data.

    Attributes:
        about: the features.
        values: of samples and test data, by measure.
        replicates: of random halves, `(R, measures)`.
        floor: the same measures of training data in place of samples.
        train: of samples and training data.
        kernel_error: the standard error of the kernel distance.
        nearest: squared distances to the nearest training datum, of samples and of test data, `(N,)` each.
        num_data: N.
        dimensions: of the features.
        level: of the intervals.
        missing: share of the test data that is missing, and left out of samples too.
    """

    about: str
    values: Mapping[str, float]
    replicates: np.ndarray
    floor: Mapping[str, float]
    train: Mapping[str, float]
    kernel_error: float
    nearest: tuple[np.ndarray, np.ndarray]
    num_data: int
    dimensions: int
    level: float
    missing: float = 0.0

    def answer(self) -> Answer:
        """Distances with their intervals, beside what a perfect model would get."""
        rows = {}
        for i, (name, value) in enumerate(self.values.items()):
            least, most = (0.0, 1.0) if name in SHARES else (-np.inf, np.inf)
            of_halves = self.replicates[:, i]
            low, high = interval(value, of_halves, self.level, least=least, most=most)
            rows[name] = {
                "value": value,
                "low": low,
                "high": high,
                "floor": self.floor[name],
                "train": self.train[name],
            }
        few = self.num_data < ENOUGH * self.dimensions
        warning = (
            f"{self.num_data} data are few for covariances of {self.dimensions} features: the Fréchet distance is too "
            "large and its extrapolation rough"
        )
        return Answer(
            title="Samples beside data",
            about=f"{self.num_data} of each, by {self.about}",
            rows=rows,
            heads=HEADS,
            meanings=MEASURES,
            sentences=[
                f"Intervals of {100 * self.level:g} %, from random halves of both. Under train, test stands what "
                "training data get in place of samples, as those of a perfect model would.",
                f"The kernel distance has a standard error of {self.kernel_error:.2g}.",
                self._memory(),
                *self._of_missing(),
            ],
            warnings=[warning] if few else [],
            numbers={
                "data": self.num_data,
                "dimensions": self.dimensions,
                "features": self.about,
                "level": self.level,
                "kernel_standard_error": self.kernel_error,
                "farther_than_test": self._farther()[0],
            },
        )

    def _of_missing(self) -> list[str]:
        """What was done about values that are missing."""
        if not self.missing:
            return []
        return [
            f"Of the test data {100 * self.missing:.2g} % is missing, and the same is left out of samples, one for "
            "one. Where what is missing depends on the values, samples of the right model differ for that alone."
        ]

    def _farther(self) -> tuple[float, float, float]:
        """How often a sample is farther from its nearest training datum than a test datum is, and its 95 % interval."""
        samples, test = self.nearest
        found = detection(samples, test)
        return found.auroc, found.low, found.high

    def _memory(self) -> str:
        """Whether samples repeat training data."""
        samples, test = (float(np.sqrt(np.median(each))) for each in self.nearest)
        often, low, high = self._farther()
        verdict = "samples are no nearer to them than other data are."
        if high < 0.5:
            verdict = "nearer than other data are, as copies are, or samples that keep to the middle of the data."
        return (
            f"Distance to the nearest training datum: median {samples:.3g} of samples, {test:.3g} of test data; a "
            f"sample is the farther with probability {often:.2f} ({low:.2f} to {high:.2f}): {verdict}"
        )


class Fidelity(Question):
    """How far samples are from data: Fréchet and kernel distances, precision and recall, density and coverage.

    Beside the distances of samples and test data stand those of training and test data, the floor that a perfect model
    would reach, and those of samples and training data. As many data are taken of each. What is missing in test data is
    left out of samples too, one for one, and features have one value in its place: of values that are missing
    completely at random both are then distributed alike where the model is right.

    Args:
        by: what data are compared by: `'data'`, themselves in standard units; `'pca'`, principal components of
            the training data; `'conv'`, a convolutional network with fixed random weights; `'guide'`, the run's own
            means of q(z|x); or a function of a batch, `'module:function'`. By default `'conv'` for images of 8 x 8
            pixels and more, and `'data'` for all else.
        components: of `'pca'`.
        halves: random halves for the intervals.
        level: of the intervals.
        most: data of each kind, spread evenly.
    """

    def __init__(
        self,
        *,
        by: str | None = None,
        components: Count = 50,
        halves: Draws = 50,
        level: Annotated[float, share(zero=False)] = 0.95,
        most: Draws = 2000,
    ) -> None:
        if by is not None and by not in NAMES and ":" not in by:
            raise InputError(
                f"by={by!r} of Fidelity must be one of {', '.join(NAMES)}, or module:function"
            )
        self.by, self.components = by, components
        self.halves, self.level, self.most = halves, level, most

    def check(self, run: Trained, data: Evaluated) -> None:
        if self.by == "conv" and not _images(run):
            shape = tuple(run.vae.model.likelihood.shape)
            raise InputError(
                f"by='conv' is for images of {LEAST_SIDE} x {LEAST_SIDE} pixels or more, not for shape {shape}"
            )
        self.afford(8 * self.halves * len(MEASURES), "halves")
        if len(data) < LEAST:
            raise InputError(f"{len(data)} data are too few to compare samples with")

    def ask(self, run: Trained, data: Evaluated, progress: Progress = unseen) -> Answer:
        of_train = run.split("train")
        n = min(self.most, len(data), len(of_train))
        if n < LEAST:
            raise InputError(f"{n} data are too few to compare samples with")
        test, c = fields_of(data.x[evenly(n, len(data))])
        train, of_those = fields_of(of_train[evenly(n, len(of_train))])
        missing = test.isnan()
        samples = run.vae.sample(n, c).masked_fill(missing, np.nan)
        usual = "conv" if _images(run) else "data"
        encoder = encoder_of(self.by or usual, run, train, self.components)
        of_test, of_samples = encoder(test, c), encoder(samples, c)
        near = encoder(train, of_those)
        between = Distances.of(of_test, of_samples)
        with progress("halves", self.halves) as done:

            def measure(rows: np.ndarray) -> np.ndarray:
                done(1)
                return _measured(of_test, of_samples, between, rows)

            replicates = half_samples(measure, n, self.halves)
        return Sampled(
            encoder.about,
            distances_of(of_test, of_samples),
            replicates,
            distances_of(of_test, near),
            distances_of(near, of_samples),
            kernel_distance(of_test, of_samples).standard_error,
            (squares(of_samples, near).min(1), squares(of_test, near).min(1)),
            n,
            of_test.shape[1],
            self.level,
            float(missing.double().mean()),
        ).answer()


def _measured(
    real: np.ndarray, fake: np.ndarray, between: Distances, rows: np.ndarray
) -> np.ndarray:
    """All measures of a half of both samples, in the order of `MEASURES`."""
    a, b = real[rows], fake[rows]
    numbers = [frechet(a, b), frechet_limit(a, b), kernel_distance(a, b).value]
    return np.array([*numbers, *manifolds(between.at(rows, rows)).values()])


def _images(run: Trained) -> bool:
    """Whether data are images that are large enough for a convolutional network."""
    shape = tuple(run.vae.model.likelihood.shape)
    return len(shape) in (2, 3) and min(shape[-2:]) >= LEAST_SIDE
