"""What the programs share: devices, and the run folder they read."""

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae._config import STREAM, Config
from pyro_vae.checkpoint import checkpoint_path, load_weights
from pyro_vae.data import SPLITS, Bridge, Data, DataSet, Split, load_data
from pyro_vae.data.bridges import FieldsBridge
from pyro_vae.data.conditions import Conditions
from pyro_vae.data.files import Request
from pyro_vae.data.fingerprint import check_same, fingerprint, new_labels
from pyro_vae.data.inputs import DataWarning, fields_of
from pyro_vae.data.representation import Representation
from pyro_vae.data.schema import Schema, drawn_by_column, stored_columns, table_of
from pyro_vae.engine.processes import here
from pyro_vae.foundation.errors import InputError
from pyro_vae.foundation.files import write_atomically
from pyro_vae.foundation.html import card, facts, lines
from pyro_vae.foundation.launch import launch
from pyro_vae.foundation.reading import read_toml
from pyro_vae.foundation.trust import trusting
from pyro_vae.models.one_field import OneField
from pyro_vae.models.parts import as_told
from pyro_vae.models.program import formula
from pyro_vae.models.vae import VAE
from pyro_vae.runs import located, public_name, read_resolved, require_data
from pyro_vae.spec import Spec

if TYPE_CHECKING:
    from pyro_vae.plots.looks import Look


def pick_device(name: str) -> torch.device:
    """The device that `--device` names; `auto` takes the first of cuda, mps and cpu that there is."""
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        there = [device for device, there in available.items() if there]
        usual = "cpu" if here().several and there[0] == "mps" else there[0]
        return _own(torch.device(usual))
    if name not in available:
        raise InputError(
            f"--device {name} is unknown: choose one of auto, cpu, cuda, mps"
        )
    if not available[name]:
        raise InputError(
            f"--device {name} is not available here; --device auto takes what there is"
        )
    return _own(torch.device(name))


def _own(device: torch.device) -> torch.device:
    """The device of this one of several processes: on a machine each has a GPU of its own."""
    if not here().several or device.type == "cpu":
        return device
    if device.type != "cuda":
        raise InputError(
            f"--device {device.type} is one, and the processes are {here().world}: take --device cpu"
        )
    index, count = launch().local, torch.cuda.device_count()
    if index >= count:
        raise InputError(
            f"this machine has {count} GPUs and more processes: start as many as there are GPUs, or take --device cpu"
        )
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


@dataclass(repr=False)
class Run:
    """A trained run read back: the VAE, its data as it saw them, and what is known about both.

    Its data are read at their first use; those that have changed since training are refused.

    Attributes:
        folder: the run folder.
        vae: the weights, ready to evaluate.
        spec: what the VAE is made of.
        epoch: after which the weights were kept.
        config: the content of `config.toml`.
        device: where the VAE and its data are.
        bridge: from stored values to what the likelihood sees.
        dtype: of what the likelihood sees.
        request: what `load_data` is asked for.
        notes: sentences about the data, for whoever prints a result.
        fingerprint: of the data as they were read, see `pyro_vae.data.fingerprint`.
        conditions: what the data are given, or `None`.
    """

    folder: Path
    vae: VAE
    spec: Spec
    epoch: int
    config: dict[str, Any]
    device: torch.device
    bridge: Bridge
    dtype: torch.dtype
    request: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    fingerprint: dict[str, str] = field(default_factory=dict)
    # By what `outside` was asked for.
    others: dict[str, Any] = field(default_factory=dict)
    conditions: Conditions | None = None

    def __repr__(self) -> str:
        words = formula(self.vae.model, self.vae.guide)
        return f"{type(self).__name__}({str(self.folder)!r}: {self.name}, {words}, epoch {self.epoch})"

    def _repr_html_(self) -> str:
        told = {"data": self.name, "epoch": self.epoch, **as_told(self.vae)}
        return card(
            type(self).__name__, str(self.folder), facts(told), lines(self.notes)
        )

    @cached_property
    def data(self) -> DataSet:
        """The data that the run was trained on.

        Raises:
            InputError: when they cannot be found, or are not those that the run was trained on.
        """
        require_data(self.request["dataset"], self.folder)
        data = load_data(**self.request)
        if data.shape != self.spec.shape:
            raise InputError(
                f"{data.name} has data of shape {data.shape}, but the run was trained on {self.spec.shape}"
            )
        self.check(data, () if data.streamed else SPLITS)
        return data

    @property
    def columns(self) -> list[str] | None:
        """The names of the columns of a table, as the run keeps them."""
        return self.config["resolved"].get("columns")

    @property
    def schema(self) -> Schema | None:
        """What the columns of a table of mixed kinds hold; `None` where the data are of one kind."""
        columns = self.request.get("columns")
        return columns if isinstance(columns, Schema) else None

    @property
    def several(self) -> bool:
        """Whether its data are several fields."""
        return isinstance(self.bridge, FieldsBridge)

    @property
    def table(self) -> Schema | None:
        """What the columns of its table hold, of mixed kinds or all of one; `None` where a datum is no row of a table.

        Columns without names have their places, from 0.
        """
        stored = Representation[self.config["resolved"]["stored"]]
        return table_of(self.schema, self.columns, self.spec.shape, stored)

    def shown(self, x: Tensor) -> Tensor:
        """What pictures show of data."""
        return x

    def stem(self, name: str) -> str:
        """What a file about the data is called."""
        return name

    def look(self, show_as: str | None = None) -> "Look":
        """How all pictures of the run draw its values: what its data are taken for, and their scale.

        Where the likelihood accepts all numbers the scale is that of training data, of those left on disk of test data.

        Args:
            show_as: `'image'`, `'series'` or `'table'`; by default what the training was asked for, else by the shape.

        Raises:
            InputError: where the data cannot be that.
        """
        from pyro_vae.plots.looks import LOOKED_AT, kind_of, look_of, scale_of

        likelihood: Any = self.vae.model.likelihood
        kind = show_as or self.config.get("show_as")
        if kind is None:
            by_column = drawn_by_column(self.schema, self.spec.shape)
            kind = "table" if by_column else kind_of(self.spec.shape)
        x = None
        if kind != "image" or scale_of(likelihood) is None:
            try:
                split = "test" if self.data.streamed else "train"
                some = self.split(split).first(LOOKED_AT)[:]
                x = self.shown(fields_of(some)[0])
            except InputError:  # draws need no data
                x = None
        columns = None if self.table is None else self.table.columns
        return look_of(likelihood, x, kind=kind, columns=columns, stored=self.numbers)

    def numbers(self, x: Tensor) -> np.ndarray:
        """What a likelihood sees in stored units, float64."""
        return self.bridge.inverse(x).detach().cpu().double().numpy()

    @property
    def fields(self) -> "dict[str, FieldRun]":
        """The run looked at field by field, where its data are several."""
        if not isinstance(self.bridge, FieldsBridge):
            return {}
        return {name: FieldRun.of(self, name) for name in self.bridge.layout.names}

    def frame(self, x: Tensor, index: Any = None) -> Any:
        """Data that a likelihood gave, `(N, D)`, as a DataFrame with the names, types and categories of its table.

        Raises:
            InputError: where the run's data are no rows of a table.
        """
        if self.table is None:
            raise InputError(
                f"the data of the run {self.folder} have the shape {self.spec.shape} and are no rows of a table"
            )
        return self.table.frame(
            self.bridge.inverse(x).detach().cpu().double().numpy(), index
        )

    def sample(
        self, n: int, given: Mapping[str, Any] | None = None, *, mean: bool = False
    ) -> Any:
        """`n` draws from `p(x)` in stored units: of a table of mixed kinds a DataFrame, else a tensor `(n, *shape)`.

        Of several fields it is a dict of these, by their names.

        Of a conditional run they are `given` conditions, by the name of the column, one value for all draws or n of
        them. With `mean` the mean of `p(x|z)` at n draws of z; of a category the most probable stands for it.
        """
        required = () if self.conditions is None else self.conditions.required
        if given is None and required:
            names = ", ".join(f"{name!r}: ..." for name in required)
            raise InputError(
                f"the run is conditional: name its conditions, sample({n}, {{{names}}})"
            )
        c = None if given is None else self.condition(**given)
        return self._stored(self.vae.sample(n, c, mean=mean))

    def reconstruct(self, values: Any, given: Mapping[str, Any] | None = None) -> Any:
        """What `see` takes, made again from one draw of its latents: a DataFrame or a tensor, as in `sample`."""
        made = self.vae.reconstruct(self.see(values, given))
        return self._stored(made, getattr(values, "index", None))

    def predict(self, values: Any, given: Mapping[str, Any] | None = None) -> Any:
        """`q(y|x)` of what `see` takes: a DataFrame with the probability of each class, a column for each by its name.

        Of a run with a real target its mean and standard deviation, `NAME` and `NAME_std`, in units of the labels.

        Raises:
            InputError: for a run without classes, and as `see`.
        """
        import pandas

        column = None if self.conditions is None else self.conditions.latent
        if column is None:
            raise InputError(
                f"the run {self.folder} has no classes: train with --structure labelled or clusters"
            )
        seen = self.see(values, given)
        found = self.vae.predict(*fields_of(seen)).cpu()
        index = getattr(values, "index", None)
        if column.categories:
            return pandas.DataFrame(found.numpy(), index, list(column.categories))
        names = [column.name, f"{column.name}_std"]
        return pandas.DataFrame(column.stored(found), index, names)

    def _stored(self, x: Tensor, index: Any = None) -> Any:
        if self.several:
            fields = self.fields.items()
            return {name: view._stored(view.shown(x), index) for name, view in fields}
        return self.bridge.inverse(x) if self.schema is None else self.frame(x, index)

    @property
    def name(self) -> str:
        """What the data are called: a named data set, or the last part of a path."""
        return public_name(self.request["dataset"])

    def check(self, data: DataSet, splits: Sequence[str]) -> None:
        """Raise `InputError` unless the sizes and these splits are those that the run was trained on."""
        found = fingerprint(data, splits)
        self.fingerprint |= found
        told = check_same(self.folder, self.config["resolved"], data, found)
        self.notes += [sentence for sentence in told if sentence not in self.notes]

    @property
    def has_new_labels(self) -> bool:
        """Whether the data have other labels than in training."""
        return new_labels(self.config["resolved"]["fingerprint"], self.fingerprint)

    def remember(self, name: str, values: Mapping[str, Any]) -> None:
        """Keep plain values in `NAME.json` of the run folder, in place of what was kept there."""
        if not here().first:
            return
        text = json.dumps(values) + "\n"
        write_atomically(
            self.folder / f"{name}.json",
            lambda path: path.write_text(text, encoding="utf-8"),
        )

    def remembered(self, name: str) -> dict[str, Any]:
        """What was kept under a name; nothing where there is nothing that can be read."""
        try:
            found = json.loads(
                (self.folder / f"{name}.json").read_text(encoding="utf-8")
            )
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def announce(self) -> None:
        """Print what is to be said about the data that were read."""
        for sentence in self.notes:
            print(f"note: {sentence}", flush=True)

    def split(self, name: str) -> Split | Data:
        """One split as it is evaluated: its random bits or noise drawn once, from a fixed seed.

        Of a conditional run it has the fields x and c.
        """
        if self.data.streamed:
            self.check(self.data, (name,))
        split = self.data.fields(
            name, self.bridge, self.conditions, dtype=self.dtype
        ).fixed()
        if len(split) == 0:
            raise InputError(
                f"the run {self.folder} has no {name} data; choose another --split"
            )
        return split.to(self.device)

    def outside(self, name: str) -> Split | Data:
        """Other data as this run sees them, read once: all rows of a file, or the test data of a named data set.

        Raises:
            InputError: when they cannot be found, or the model cannot take them.
        """
        from pyro_vae._rows import outside

        if name not in self.others:
            self.others[name] = outside(self, name)
        return self.others[name]

    def see(self, values: Any, given: Mapping[str, Any] | None = None) -> Any:
        """Stored values, as they would stand in a file of the run's data, as the likelihood sees them.

        Random bits or noise are drawn once, from a fixed seed, as for evaluation.

        Args:
            values: `(N, *shape)`: an array, a tensor, a DataFrame or nested lists, in the units of the run's data. Of a
                run on a table of mixed kinds a DataFrame with its columns, in any order.
            given: of a conditional run its conditions, by the name of the column, each `(N,)`.

        Returns:
            `x` of shape `(N, *shape)`, of a conditional run `{"x": x, "c": c}`, to be given to `log_marginal`, `elbo`,
            `vae.encode` and the others.

        Raises:
            InputError: when the shape or the kind of the numbers is not that of the run's data, and for conditions that
                are missing or not known.

        >>> run = open_run("runs/digits-bernoulli")  # doctest: +SKIP
        >>> log_marginal(run.vae.model, run.vae.guide, run.see(numpy.load("new.npy")))  # doctest: +SKIP
        """
        from pyro_vae._rows import see

        return see(self, values, given)

    def condition(self, **given: Any) -> Tensor:
        """Conditions by the names of their columns as the pair reads them, `run.condition(label=7)`: `(N, context)`.

        Raises:
            InputError: for a run without conditions, and where they are missing or not known.
        """
        if self.conditions is None:
            raise InputError(f"the run {self.folder} is not conditional")
        values = {
            name: np.atleast_1d(np.asarray(value)) for name, value in given.items()
        }
        most = max(map(len, values.values()), default=1)
        for name, value in values.items():
            if len(value) not in (1, most):
                raise InputError(
                    f"the condition {name} has {len(value)} values and others {most}; give one for all, or one for each"
                )
        c = self.conditions.encode({k: np.resize(v, most) for k, v in values.items()})
        for sentence in self.conditions.strange(values):
            warnings.warn(sentence, DataWarning, stacklevel=2)
        return c.to(device=self.device, dtype=self.dtype)


@dataclass(repr=False)
class FieldRun(Run):
    """One field of a run on several, as if it were all that is made; its data are those of the run.

    Attributes:
        whole: the run.
        field: the name of the field.
    """

    whole: Any = None
    field: str = ""

    @classmethod
    def of(cls, run: Run, name: str) -> "FieldRun":
        bridge: Any = run.bridge
        place = bridge.layout.names.index(name)
        stored = run.config["resolved"]["fields"][place]
        resolved = {**run.config["resolved"], "stored": stored["stored"]}
        resolved.pop("columns", None)
        schemas: Any = run.request["columns"]
        vae: Any = OneField(run.vae, name)
        shape = bridge.layout.shapes[place]
        return cls(
            run.folder,
            vae,
            replace(run.spec, shape=shape),
            run.epoch,
            {**run.config, "resolved": resolved},
            run.device,
            bridge.parts[place],
            run.dtype,
            {**run.request, "columns": schemas[name]},
            conditions=run.conditions,
            whole=run,
            field=name,
        )

    @property
    def data(self) -> DataSet:  # type: ignore[override]
        return self.whole.data  # type: ignore[no-any-return]

    def split(self, name: str) -> Split | Data:
        return self.whole.split(name)  # type: ignore[no-any-return]

    def shown(self, x: Tensor) -> Tensor:
        return self.vae.of(x)  # type: ignore[operator]

    def stem(self, name: str) -> str:
        return f"{name}-{self.field}"

    def announce(self) -> None:
        """What is to be said of the data the run says."""


def open_run(
    folder: str | Path,
    *,
    checkpoint: str = "best",
    device: str = "cpu",
    data: str | None = None,
    data_dir: str | None = None,
    trust: bool = False,
) -> Run:
    """Rebuild a run from its folder, without the command that made it.

    Args:
        folder: the run folder that `python -m pyro_vae.train` made.
        checkpoint: `'best'` by validation ELBO, or `'last'`.
        device: where to put it: `'auto'`, `'cpu'`, `'cuda'` or `'mps'`.
        data: where its data are now, if not where they were.
        data_dir: the folder in which the files of named data sets are now.
        trust: run the code of other modules that the run names for its members.

    Raises:
        InputError: when there is no such run, or its files are damaged. Data that are missing or have changed are
            refused when they are asked for.
    """
    path = checkpoint_path(folder, checkpoint)
    folder = Path(folder)
    if not (folder / "config.toml").is_file():
        raise InputError(
            f"{folder} has no config.toml: it holds weights alone, which load reads, and nothing about their data"
        )
    config = read_toml(folder / "config.toml")
    with trusting(None if trust else ()):
        vae, spec, header = load_weights(path)
    chosen = pick_device(device)
    dtype = torch.float64 if config.get("precision") == "float64" else torch.float32
    config["resolved"] = resolved = read_resolved(folder / "config.toml")
    kinds = [*Bridge.kinds(), FieldsBridge.kind]
    if "bridge" in resolved and resolved["bridge"] not in kinds:
        raise InputError(
            f"the file {folder / 'config.toml'} has an unknown bridge {resolved['bridge']!r}"
        )
    try:
        bridge = Bridge.from_dict(resolved)
        Representation[resolved["stored"]]  # a KeyError where there is no such
        columns = resolved.get("condition")
        conditions = None if columns is None else Conditions.from_list(columns)
        now = located(config, folder, data=data, data_dir=data_dir)
        request = {f.name: now[f.name] for f in fields(Request) if f.name in now}
        request["columns"] = stored_columns(resolved)
        request["stream"] = STREAM[now.get("stream", "auto")]
        # No file starts more.
        request["workers"] = min(max(0, int(now.get("workers", 2))), Config.workers)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"the file {folder / 'config.toml'} does not describe a run: its table [resolved] is damaged"
        ) from error
    if spec.context != (0 if conditions is None else conditions.width):
        raise InputError(
            f"the file {folder / 'config.toml'} does not name the conditions that the weights were trained with"
        )
    vae = vae.to(device=chosen, dtype=dtype).eval()
    run = Run(
        folder, vae, spec, header["epoch"], config, chosen, bridge, dtype, request
    )
    run.conditions = conditions
    return run
