"""A VAE as an estimator of scikit-learn: codes, log p(x), draws and outliers of arrays and DataFrames."""

import copy
import math
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import torch
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    OutlierMixin,
    TransformerMixin,
)
from sklearn.utils import check_array, check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from pyro_vae._starting import check_values, start
from pyro_vae.checkpoint import load_weights, save_checkpoint
from pyro_vae.data.bridges import Bridge
from pyro_vae.data.files import Loaded, Request
from pyro_vae.data.inputs import as_data
from pyro_vae.data.schema import Schema
from pyro_vae.data.sets import DataSet, assembled
from pyro_vae.data.sparse import Sparse
from pyro_vae.data.usual import usual_likelihood
from pyro_vae.engine.affine import use_products, usual_products
from pyro_vae.evaluation.anomalies import MOST, threshold
from pyro_vae.evaluation.weighting import log_marginal
from pyro_vae.foundation.abstract import forked_random, variants
from pyro_vae.foundation.checks import (
    Count,
    Number,
    above,
    at_least,
    at_most,
    check,
    share,
    shown,
)
from pyro_vae.foundation.commands import in_python
from pyro_vae.foundation.errors import InputError
from pyro_vae.foundation.reading import reading
from pyro_vae.foundation.trust import trusting
from pyro_vae.inference.epochs import Epoch
from pyro_vae.inference.fit import fit
from pyro_vae.networks.base import Shape
from pyro_vae.spec import AXES, Spec, build, parse, parse_part, parse_schedule
from pyro_vae.tables import choices, likelihood_of, wishes_of
from pyro_vae.trained import pick_device

STEPS = 3000  # of a training whose length is not said
FEWEST, LONGEST = 20, 1000  # epochs of it
LATENTS = 10  # unless the data have fewer elements
RATE = 0.05  # of held-out data that are taken for outliers where nobody says
ROWS = 1000  # data at a time
KEY = "sklearn"  # what a file says of the estimator
DTYPES = {"float32": torch.float32, "float64": torch.float64}
HINTS: dict[str, Any] = {
    "latent_dim": Count | None,
    "shape": Shape | None,
    "missing": Literal["auto"] | bool,
    "epochs": Annotated[int, at_least(1), at_most(10**9)] | None,
    "batch_size": Number,
    "learning_rate": Annotated[float, above(0)],
    "patience": Number | None,
    "validation_fraction": Annotated[float, share()],
    "contamination": Literal["auto"] | Annotated[float, share(zero=False)],
    "num_particles": Number,
    "precision": Literal["float32", "float64"],
    "compile": Literal["auto"] | bool,
    "verbose": int | bool,
}

Member = str | type


class VAE(
    OutlierMixin, ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator
):
    """`p(x) = int p(z) p(x|z) dz`, trained with `q(z|x)`, as an estimator of scikit-learn.

    It is a transformer (codes `E[z|x]` under the guide), a density estimator (log p(x) of each row), a generator
    (draws from p(x)) and an outlier detector, for arrays, sparse matrices and DataFrames with columns of any kinds,
    with values that are missing. Members are texts in the grammar of the command line, `guide="iaf(transforms=4)"`, or
    classes, `guide=FullRank`.

    Args:
        likelihood: p(x|z). By default what the values call for: of reals `gaussian(scale='element')`, of 0 and 1
            `bernoulli`, of counts `negativebinomial`; where no single one fits all columns, as in a DataFrame with
            categories, each gets its own. `'columns, age=poisson'` chooses some, and `'columns'` none.
        prior: p(z); by default `standardnormal`, or that of the guide or the structure.
        guide: q(z|x).
        network: the body of encoder and decoder.
        structure: the formula of the pair, such as `'chain(dims=(20, 5))'` or `'clusters(classes=3)'`; one that needs
            no labels.
        objective: what is maximised; by default the ELBO, of several layers annealed over the first quarter.
        latent_dim: length of z; by default 10, or as many as there are columns where these are fewer.
        shape: of one datum, such as `(1, 28, 28)`, into which rows are folded for networks of images.
        missing: whether values may be missing (NaN, None); `'auto'`: where some are in the data of `fit`.
        epochs: passes over the data; by default as many as make 3,000 steps, from 20 to 1,000.
        batch_size: data in a step.
        learning_rate: times the schedule.
        schedule: of the rate, `'cosine'`, `'constant'`, or with arguments, as `'cosine(warmup=0.05)'`.
        patience: stop after so many epochs without a better validation ELBO.
        validation_fraction: share of the data held out, by which the best epoch is chosen, whose weights are kept; none
            where that is less than half a row.
        contamination: the share of the data of `fit` that `predict` takes for outliers. `'auto'`: the threshold is one
            that 5 % of data like the held-out ones pass.
        num_particles: draws for each log p(x).
        precision: `'float32'` or `'float64'`.
        compile: as in `pyro_vae.fit`.
        device: `'auto'`, `'cpu'`, `'cuda'` or `'mps'`.
        verbose: whether `fit` prints what it takes the data for, and each epoch.
        random_state: a whole number makes `fit` and all that is drawn later the same each time. The random streams of
            torch, Pyro, NumPy and Python stay as they were; `None` takes a seed from NumPy's.

    Attributes:
        vae_: the trained `pyro_vae.VAE`, for all other questions, with data as `see` gives them.
        likelihood_: p(x|z) as it was chosen.
        history_: one `Epoch` for each pass.
        n_iter_: how many passes.
        notes_: sentences about what the data were taken for.
        offset_: the threshold: `decision_function` is `score_samples` minus it.
        seed_: of all that is drawn.
        n_features_in_: how many columns `fit` saw.
        feature_names_in_: their names, of a DataFrame.

    >>> from sklearn.datasets import load_iris
    >>> X = load_iris().data
    >>> vae = VAE(latent_dim=2, epochs=5, random_state=0).fit(X)
    >>> vae.transform(X).shape, vae.sample(3).shape, vae.score_samples(X[:4]).shape
    ((150, 2), (3, 4), (4,))
    >>> vae.likelihood_
    "Gaussian(scale='element')"
    """

    def __init__(
        self,
        *,
        likelihood: Member | None = None,
        prior: Member | None = None,
        guide: Member = "meanfield",
        network: Member = "mlp",
        structure: Member = "vae",
        objective: Member | None = None,
        latent_dim: int | None = None,
        shape: tuple[int, ...] | None = None,
        missing: str | bool = "auto",
        epochs: int | None = None,
        batch_size: int = 100,
        learning_rate: float = 3e-3,
        schedule: str = "cosine",
        patience: int | None = None,
        validation_fraction: float = 0.1,
        contamination: str | float = "auto",
        num_particles: int = 1000,
        precision: str = "float32",
        compile: str | bool = "auto",
        device: str = "auto",
        verbose: bool | int = False,
        random_state: Any = None,
    ) -> None:
        self.likelihood = likelihood
        self.prior = prior
        self.guide = guide
        self.network = network
        self.structure = structure
        self.objective = objective
        self.latent_dim = latent_dim
        self.shape = shape
        self.missing = missing
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.schedule = schedule
        self.patience = patience
        self.validation_fraction = validation_fraction
        self.contamination = contamination
        self.num_particles = num_particles
        self.precision = precision
        self.compile = compile
        self.device = device
        self.verbose = verbose
        self.random_state = random_state

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = self.missing is not False
        tags.input_tags.sparse = True
        tags.input_tags.categorical = True
        return tags

    def fit(self, X: Any, y: Any = None) -> Self:
        """Train on data, `(N, D)`.

        Args:
            X: an array, a sparse matrix or a DataFrame.
            y: not used.

        Raises:
            InputError: a `ValueError`, for arguments and data that cannot be used, in one sentence.

        Warns:
            TrainingWarning: as `pyro_vae.fit`.
        """
        with _spelled():
            self._check()
            read = self._read(X, reset=True)
            self.seed_ = int(check_random_state(self.random_state).randint(2**31 - 1))
            self._framed = hasattr(X, "columns")
            with _apart(self.seed_):
                held_out = self._train(read)
                self._set_offset(read, held_out)
        return self

    def transform(self, X: Any) -> np.ndarray:
        """The codes `E[z|x]` under the guide, `(N, latent_dim)`; of a flow the mean of 100 draws.

        Of several layers they are those of all, the top first.
        """
        check_is_fitted(self, "vae_")
        with _spelled(), _apart(self.seed_):
            vae = self._double
            return np.concatenate([self._codes(vae, x) for x in self._seen(X)])

    def inverse_transform(self, X: Any) -> Any:
        """The mean of `p(x|z)` at codes, `(N, latent_dim)`, in the units of the data.

        Of a category it is the most probable one, of an ordered scale the median. Where `fit` was given a DataFrame, it
        is one.
        """
        check_is_fitted(self, "vae_")
        z, length = check_array(X, input_name="X"), self._n_features_out
        if z.shape[1] != length:
            raise InputError(f"X has {z.shape[1]} columns, and codes have {length}")
        vae = self._double
        with torch.no_grad(), _apart(self.seed_):
            p = vae.decode(torch.tensor(z, dtype=torch.float64, device=_place(vae)))
            return self._stored(vae.model.likelihood.typical(p))

    def sample(self, n_samples: int = 1, random_state: Any = None) -> Any:
        """Draws from `p(x)`, `(n_samples, D)`, in the units of the data; a DataFrame where `fit` was given one.

        Args:
            n_samples: how many.
            random_state: a seed; by default `random_state` of the estimator, which gives the same draws each time where
                it is a whole number.
        """
        check_is_fitted(self, "vae_")
        check("n_samples", n_samples, Number, owner="sample")
        chosen = self.random_state if random_state is None else random_state
        seed = int(check_random_state(chosen).randint(2**31 - 1))
        with _apart(seed):
            return self._stored(self.vae_.sample(n_samples))

    def score_samples(self, X: Any) -> np.ndarray:
        """The log p(x) of each row in nats, `(N,)`, by importance weighting with `num_particles` draws.

        It is a log-density in the units of the data, or of discrete ones a log-probability; of rows with missing values
        that of what was seen. The draws of each row are made from the same seed, so that its value does not depend on
        the others. An estimate is too low rather than too high, see `pyro_vae.log_marginal`.
        """
        check_is_fitted(self, "vae_")
        with _spelled():
            return np.concatenate([self._weighed(x) for x in self._seen(X)])

    def score(self, X: Any, y: Any = None) -> float:
        """The mean of log p(x) over the rows, in nats."""
        return float(self.score_samples(X).mean())

    def decision_function(self, X: Any) -> np.ndarray:
        """`score_samples` minus `offset_`, `(N,)`: negative for outliers."""
        scores = self.score_samples(X)
        return scores - self.offset_

    def predict(self, X: Any) -> np.ndarray:
        """1 for inliers and -1 for outliers, `(N,)`: rows whose log p(x) lies below the threshold of `fit`."""
        return np.where(self.decision_function(X) >= 0, 1, -1)

    def see(self, X: Any) -> Tensor:
        """Data as `vae_` sees them, `(N, *shape)`, for the questions of this package."""
        check_is_fitted(self, "vae_")
        with _spelled():
            return torch.cat([*self._seen(X)])

    def save(self, path: str | Path) -> None:
        """Write the estimator and its weights into a `.safetensors` file, without pickle.

        `pyro_vae.load` reads the VAE in it.

        Raises:
            InputError: for another ending, and a place that cannot be written.
        """
        check_is_fitted(self, "vae_")
        file = Path(path)
        if file.suffix != ".safetensors":
            raise InputError(f"{file} must end in .safetensors")
        if not file.parent.is_dir():
            raise InputError(f"the folder {file.parent} does not exist")
        number: dict[str, Any] = {"epoch": self.n_iter_, "score": math.nan}
        about = {KEY: self._described()}
        save_checkpoint(file, self.vae_, self._spec, **number, about=about)

    @classmethod
    def load(
        cls, path: str | Path, *, trust: bool = False, device: str = "cpu"
    ) -> Self:
        """The estimator that `save` wrote: all of its numbers are the same to the bit.

        Args:
            path: the file.
            trust: run the code of other modules that the file names for its members, such as your own.
            device: where to put the weights.

        Raises:
            InputError: where there is no such file, or it holds no estimator.
        """
        file = Path(path)
        with trusting(None if trust else ()):
            vae, spec, header = load_weights(file)
        with reading(file, "an estimator"):
            if KEY not in header:
                raise InputError(
                    f"{file} holds a VAE and no estimator: pyro_vae.load reads it"
                )
            about = header[KEY]
            made = cls(**{k: _as_given(v) for k, v in about["parameters"].items()})
            made.vae_ = vae.to(pick_device(device)).eval()
            made._spec = spec
            made._restore(about)
        return made

    def _check(self) -> None:
        """Raise `InputError` for a parameter that is not what it must be."""
        for name, hint in HINTS.items():
            check(name, getattr(self, name), hint, owner="VAE")
        contamination = self.contamination
        if not isinstance(contamination, str) and contamination > 0.5:
            raise InputError(
                f"contamination={contamination} must be 'auto' or a number in (0, 0.5]"
            )

    def _text(self, axis: str) -> str | None:
        """A member as a text."""
        member = getattr(self, axis)
        if member is None or isinstance(member, str):
            return member
        family, base, _ = AXES[axis]
        if not isinstance(member, type) or not issubclass(member, base):
            raise InputError(
                f"{axis}={shown(member)} of VAE must be a text, as on the command line, or a subclass of "
                f"{base.__name__}"
            )
        own = member in variants(family).values()
        name = member.__qualname__
        return name if own else f"{member.__module__}:{name}"

    def _read(self, X: Any, *, reset: bool) -> Any:
        """Data as they are given, once scikit-learn has looked at them: an array, a sparse matrix or a DataFrame."""
        texts = _is_table(X) if reset else self._schema is not None and self._framed
        if texts and hasattr(X, "columns"):
            if len(X) < 1 + reset:
                raise InputError(
                    f"Found array with {len(X)} sample(s), and {1 + reset} or more are needed"
                )
            return validate_data(self, X, reset=reset, skip_check_array=True)
        options: dict[str, Any] = {
            "accept_sparse": "csr",
            "ensure_all_finite": "allow-nan",
            "ensure_min_samples": 1 + reset,
        }
        if texts:
            options |= {"dtype": None, "ensure_all_finite": False}
        if self.missing is False:
            options["ensure_all_finite"] = True
        return validate_data(self, X, reset=reset, **options)

    def _train(self, read: Any) -> np.ndarray:
        """Choose the likelihood, make the pair and train it; the rows that were held out."""
        data, likelihood, bridge = self._data(read)
        self._spec = self._described_by(data, likelihood)
        device, dtype = pick_device(self.device), DTYPES[self.precision]
        vae = build(self._spec)
        use_products(vae, usual_products())
        train = data.split("train", bridge, dtype=dtype)
        validation = data.split("validation", bridge, dtype=dtype).to(device)
        check_values(data, bridge, vae.model.likelihood, dtype)
        vae.to(device=device, dtype=dtype)
        start(vae, data, bridge, train, device)
        self.likelihood_, self._bridge, self._schema = likelihood, bridge, data.schema
        self._missing, self.notes_ = data.missing, list(map(_in_python, data.notes))
        if self.verbose:
            self._say(data)
        objective = self._text("objective")
        epochs = self._epochs(len(train))
        self.history_: list[Epoch] = list(
            fit(
                vae,
                train.to(device),
                None if objective is None else parse("objective", objective)(),
                epochs=epochs,
                batch_size=self.batch_size,
                learning_rate=self.learning_rate,
                schedule=parse_schedule(self.schedule),
                validation=validation if len(validation) else None,
                patience=self.patience,
                compile=self.compile,
                start=False,
                keep="best",
                report=(lambda e: _print(e, epochs)) if self.verbose else None,
                progress=False,
            )
        )
        self.vae_ = vae.eval()
        self.n_iter_ = len(self.history_)
        return data.rows["validation"]

    def _epochs(self, size: int) -> int:
        """How many passes over so many data."""
        steps = -(-size // self.batch_size)
        usual = min(LONGEST, max(FEWEST, -(-STEPS // steps)))
        return self.epochs or usual

    def _data(self, read: Any) -> tuple[DataSet, str, Bridge]:
        """The data, divided, their likelihood and what leads from one to the other."""
        likelihood = self._text("likelihood")
        wishes = wishes_of(likelihood)
        if wishes is not None or _is_table(read):
            return self._columns(read, likelihood or "columns")
        data = self._assembled(read)
        try:
            chosen = likelihood or usual_likelihood(data)[0]
            member = parse("likelihood", chosen)
            made = member(data.shape)
            if not made.support.admits(data.representation):
                raise InputError(
                    f"X holds {data.representation.value}, and likelihood={chosen} takes {made.support.value}: choose "
                    "another, or leave it out, and it is chosen by what X holds"
                )
            return data, str(member), data.bridge(made)
        except InputError:
            # Where one density is none for all columns, each has a likelihood of its own.
            alone = likelihood is None and self.shape is None
            if not alone or hasattr(read, "toarray"):
                raise
            return self._columns(read, "columns")

    def _columns(self, read: Any, likelihood: str) -> tuple[DataSet, str, Bridge]:
        """The same where each column has a likelihood of its own."""
        if self.shape is not None or hasattr(read, "toarray"):
            raise InputError(
                f"likelihood={likelihood} is one of columns: X must be a DataFrame or a dense array, and shape None"
            )
        wishes = wishes_of(likelihood)
        if wishes is None:
            raise InputError(
                f"likelihood={likelihood} is one for all of X, which has columns of several kinds: name columns, as in "
                "'columns, age=poisson', or leave it out"
            )
        frame = read if hasattr(read, "columns") else _frame(read, self._names(read))
        missing = self._may_miss(frame)
        schema = Schema.of(frame, wishes, "X", missing=missing)
        codes = schema.codes(frame, "X", missing=missing)
        data = self._assembled(codes, schema, missing=missing)
        chosen = likelihood_of(schema, likelihood)
        return data, chosen, data.bridge(parse("likelihood", chosen)(data.shape))

    def _names(self, read: Any) -> list[str]:
        """The names of columns, x0, x1, ... where they have none."""
        usual = [f"x{i}" for i in range(read.shape[1])]
        return list(getattr(self, "feature_names_in_", usual))

    def _assembled(
        self, read: Any, schema: Schema | None = None, *, missing: bool | None = None
    ) -> DataSet:
        """Values in memory as a data set, looked at and divided."""
        parts: Any = read
        if hasattr(read, "toarray"):
            missing, parts = False, Sparse("X", read)
        elif missing is None:
            missing = self._may_miss(read)
        if self.shape is not None:
            parts = self._folded(parts)
        share = self.validation_fraction
        few = round(share * len(parts)) < 1
        names = getattr(self, "feature_names_in_", None)
        request = Request(
            dataset="X",
            validation_fraction=0.0 if few else share,
            test_fraction=0.0,
            columns={} if schema is not None else None,
            missing="keep" if missing else None,
        )
        columns = None if names is None or self.shape else list(names)
        loaded = Loaded(
            {"train": parts}, None, "memory", columns=columns, schema=schema
        )
        return assembled(request, loaded)

    def _folded(self, values: Any) -> Any:
        """Rows as data of the `shape` that was asked for."""
        shape: Any = tuple(self.shape or ())
        if math.prod(shape) != values.shape[1] or not isinstance(values, np.ndarray):
            raise InputError(
                f"shape={shape} is of {math.prod(shape)} numbers in a dense array, and X has {values.shape[1]} columns"
            )
        return values.reshape(-1, *shape)

    def _may_miss(self, read: Any) -> bool:
        """Whether values may be missing."""
        if isinstance(self.missing, bool):
            return self.missing
        return bool(_absent(read))

    def _described_by(self, data: DataSet, likelihood: str) -> Spec:
        """What the pair is made of."""
        text = self._text("structure") or ""
        structure = parse("structure", text)()
        if structure.label_width and structure.reads_labels:
            raise InputError(
                f"structure={text} is given labels, and y is not used: take one without, such as clusters"
            )
        if not structure.vector:
            raise InputError(
                f"structure={text} has no vector z, and so no codes: take another"
            )
        usual = min(LATENTS, math.prod(data.shape))
        axes: dict[str, Any] = {}
        for axis in ("prior", "guide", "network"):
            given = self._text(axis)
            axes[axis] = None if given is None else str(parse_part(axis, given))
        return Spec(
            data.shape,
            usual if self.latent_dim is None else int(self.latent_dim),
            likelihood=likelihood,
            structure=str(parse("structure", text)),
            context=structure.label_width,
            missing=data.missing,
            **axes,
        )

    def _set_offset(self, read: Any, held_out: np.ndarray) -> None:
        """Find the threshold of `predict`: by a share of all data, or by those that were held out."""
        if not self.vae_.guide.has_density:
            self.offset_ = math.nan  # nothing to compare with
            return
        if not isinstance(self.contamination, str):
            scores = np.concatenate([self._weighed(x) for x in self._parts(read)])
            self.offset_ = float(np.percentile(scores, 100 * self.contamination))
            return
        # As the question `anomalies`: by data that were not trained on, where there are some.
        rows = held_out if len(held_out) else np.arange(_size(read))
        few = _take(read, rows[np.arange(0, len(rows), -(-len(rows) // MOST))])
        scores = np.concatenate([self._weighed(x) for x in self._parts(few)])
        rate = max(RATE, 1 / (len(scores) + 1))
        known = -torch.from_numpy(scores)
        self.offset_ = -threshold(known, torch.zeros(0), rate=rate).value

    def _seen(self, X: Any) -> Iterator[Tensor]:
        """Other data as the pair sees them, in parts."""
        return self._parts(self._read(X, reset=False))

    def _parts(self, read: Any) -> Iterator[Tensor]:
        """Data that scikit-learn has looked at as the pair sees them, in parts."""
        if not self._missing and not hasattr(read, "toarray") and _absent(read):
            raise InputError(
                "X has missing values, and there were none in the data of fit: fit with missing=True"
            )
        for first in range(0, _size(read), ROWS):
            some = _take(read, np.arange(first, min(first + ROWS, _size(read))))
            try:
                yield self._through(some)
            except InputError as error:
                raise InputError(_counted_from(first, str(error))) from error

    def _through(self, some: Any) -> Tensor:
        """Some data as the pair sees them."""
        if hasattr(some, "toarray"):
            some = some.toarray()
        if self._schema is not None:
            if not hasattr(some, "columns"):
                some = _frame(some, self._schema.names)
            some = self._schema.codes(some, "X", missing=self._missing)
        values = torch.from_numpy(np.array(some, np.float64))
        x = self._bridge(
            values.reshape(-1, *self._spec.shape), dtype=DTYPES[self.precision]
        )
        seen: Tensor = as_data(self.vae_.model, x, name="X")
        return seen

    @property
    def _double(self) -> Any:
        """The pair in float64, in which the codes of a row do not depend on the other rows."""
        place = "cpu" if _place(self.vae_).type == "mps" else _place(self.vae_)
        return copy.deepcopy(self.vae_).to(place).double()

    @property
    def _n_features_out(self) -> int:
        return int(self.vae_.model.latent_dim)

    @torch.no_grad()
    def _codes(self, vae: Any, x: Tensor) -> np.ndarray:
        """`E[z|x]`; each row by itself, from the same seed, where it takes random numbers."""
        x = x.to(_place(vae)).double()
        before = _stream(vae)
        vae.posterior_mean(x[:1])
        drawn = not torch.equal(before, _stream(vae))
        codes = []
        for part in x.split(1) if drawn else (x,):
            torch.manual_seed(self.seed_)
            codes.append(vae.posterior_mean(part))
        return torch.cat(codes).cpu().numpy()

    def _weighed(self, x: Tensor) -> np.ndarray:
        """The log p(x) of each."""
        result = log_marginal(
            self.vae_.model,
            self.vae_.guide,
            x,
            num_particles=self.num_particles,
            seed=self.seed_,
            compile=self.compile,
        )
        return result.values.cpu().double().numpy()

    def _stored(self, x: Tensor) -> Any:
        """What a likelihood gave, in the units of the data."""
        values = self._bridge.inverse(x.detach().cpu().double()).flatten(1).numpy()
        if self._schema is not None:
            frame = self._schema.frame(values)
            return frame if self._framed else frame.to_numpy(np.float64)
        if not self._framed:
            return values
        import pandas

        return pandas.DataFrame(
            values, columns=getattr(self, "feature_names_in_", None)
        )

    def _say(self, data: DataSet) -> None:
        """Print what the data were taken for."""
        print(f"{len(data.values['train'])} rows to train on, likelihood")
        if data.schema is not None:
            print(choices(data.schema, self.likelihood_))
        else:
            print(self.likelihood_)
        for note in self.notes_:
            print(f"note: {note}", flush=True)

    def _described(self) -> dict[str, Any]:
        """What a file keeps beside the weights, as plain values."""
        parameters = {k: self._plain(k, v) for k, v in self.get_params().items()}
        names = getattr(self, "feature_names_in_", None)
        return {
            "parameters": parameters,
            "bridge": self._bridge.to_dict(),
            "table": None if self._schema is None else self._schema.to_dicts(),
            "framed": self._framed,
            "features": self.n_features_in_,
            "names": None if names is None else list(names),
            "seed": self.seed_,
            "offset": self.offset_,
            "notes": self.notes_,
            "history": [epoch._asdict() for epoch in self.history_],
        }

    def _plain(self, name: str, value: Any) -> Any:
        """A parameter as JSON has it."""
        if isinstance(value, type):
            return self._text(name)
        if isinstance(value, np.random.RandomState):
            return self.seed_
        return value.item() if isinstance(value, np.generic) else value

    def _restore(self, about: Mapping[str, Any]) -> None:
        """Take over what `_described` wrote."""
        table = about["table"]
        self._bridge = Bridge.from_dict(about["bridge"])
        self._schema = None if table is None else Schema.from_dicts(table)
        self._framed, self._missing = bool(about["framed"]), self._spec.missing
        self.n_features_in_ = int(about["features"])
        if about["names"] is not None:
            self.feature_names_in_ = np.array(about["names"], object)
        self.seed_, self.offset_ = int(about["seed"]), float(about["offset"])
        self.notes_ = list(about["notes"])
        self.history_ = [Epoch(**epoch) for epoch in about["history"]]
        self.n_iter_ = len(self.history_)
        self.likelihood_ = self._spec.likelihood


# --------------------------------------------------------------------------------------------------------------------


CONSTANT = ", as VarianceThreshold() does before it in a Pipeline"


@contextmanager
def _spelled() -> Iterator[None]:
    """Sentences about options of the command line name parameters instead: `likelihood=columns`."""
    try:
        yield
    except InputError as error:
        text = _in_python(str(error))
        if text == str(error):
            raise
        raise InputError(text) from None


def _in_python(text: str) -> str:
    """A sentence for users of the command line as one for those of an estimator."""
    text = in_python(text)
    return re.sub(r"(?<=nothing to learn: leave it out)$", CONSTANT, text)


@contextmanager
def _apart(seed: int) -> Iterator[None]:
    """Draw from a seed, and leave all random streams as they were."""
    numpy, python = np.random.get_state(), random.getstate()  # noqa: NPY002
    try:
        with forked_random():
            torch.manual_seed(seed)
            yield
    finally:
        np.random.set_state(numpy)  # noqa: NPY002
        random.setstate(python)


def _is_table(X: Any) -> bool:
    """Whether data are a DataFrame of pandas with a column that holds no numbers."""
    if not (hasattr(X, "columns") and hasattr(X, "iloc")):
        return False
    from pandas.api.types import is_numeric_dtype

    return not all(map(is_numeric_dtype, X.dtypes))


def _frame(array: Any, names: Sequence[str]) -> Any:
    """An array as a DataFrame."""
    import pandas

    return pandas.DataFrame(array, columns=list(names)).infer_objects()


def _absent(read: Any) -> bool:
    """Whether values are missing in an array or a DataFrame."""
    if hasattr(read, "columns"):
        return bool(read.isna().to_numpy().any())
    return bool(read.dtype.kind == "f" and np.isnan(read).any())


def _take(read: Any, rows: np.ndarray) -> Any:
    """Some rows."""
    return read.iloc[rows] if hasattr(read, "columns") else read[rows]


def _size(read: Any) -> int:
    """How many rows there are."""
    return int(read.shape[0])


def _place(vae: Any) -> torch.device:
    """Where the weights are."""
    place: torch.device = next(vae.parameters()).device
    return place


def _stream(vae: Any) -> Tensor:
    """The state of the random numbers that a pair draws from."""
    place = _place(vae)
    if place.type == "cuda":
        return torch.cuda.get_rng_state(place)
    return torch.get_rng_state()


def _counted_from(first: int, text: str) -> str:
    """A sentence about a datum among some, as one about it among all."""
    return re.sub(
        r"(datum|data row) (\d+)",
        lambda found: f"{found[1]} {first + int(found[2])}",
        text,
    )


def _as_given(value: Any) -> Any:
    """A parameter as it was before it was written as JSON."""
    return tuple(value) if isinstance(value, list) else value


def _print(epoch: Epoch, epochs: int) -> None:
    """A line about an epoch."""
    held_out = ""
    if not math.isnan(epoch.validation_elbo):
        held_out = f", validation {epoch.validation_elbo:.2f}"
    parts = f"{epoch.elbo:.2f} = {epoch.reconstruction:.2f} - {epoch.kl:.2f}"
    print(f"epoch {epoch.epoch}/{epochs}: ELBO {parts}{held_out}", flush=True)
