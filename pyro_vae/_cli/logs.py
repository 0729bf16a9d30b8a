"""Other programs that are told of a run while it trains: TensorBoard, MLflow, Weights & Biases."""

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from operator import methodcaller
from pathlib import Path
from typing import Any

from pyro_vae.foundation.checks import shown
from pyro_vae.foundation.errors import InputError, one_line
from pyro_vae.inference.epochs import Epoch

NUMBERS = "logs.json"  # in the run folder: what the others call this run
PACKAGES = {"tensorboard": "tensorboard", "mlflow": "mlflow", "wandb": "wandb"}


def log_names(text: str | None) -> list[str]:
    """The programs that `--log` names.

    >>> log_names("mlflow,wandb")
    ['mlflow', 'wandb']

    Raises:
        InputError: for others.
    """
    names = [word.strip() for word in text.split(",")] if text else []
    for name in names:
        if name not in PACKAGES:
            raise InputError(
                f"--log {shown(name)} must be one of {', '.join(PACKAGES)}, or several of them with commas"
            )
    return list(dict.fromkeys(names))


class Log(ABC):
    """A program that is told of a run.

    Args:
        folder: of the run.
        options: of the run, by name.
        known: what it calls this run, if it was told of it before.

    Attributes:
        known: the same, now.
    """

    def __init__(
        self, folder: Path, options: Mapping[str, Any], known: str | None
    ) -> None:
        self.folder, self.options, self.known = folder, options, known

    @abstractmethod
    def epoch(self, numbers: Mapping[str, float], epoch: int) -> None:
        """Tell what an epoch came to."""

    @abstractmethod
    def picture(self, file: Path, epoch: int) -> None:
        """Show a picture of the run as it is after an epoch."""

    @abstractmethod
    def close(self) -> None:
        """Nothing more is told."""


class TensorBoard(Log):
    """Event files in the run folder."""

    def __init__(
        self, folder: Path, options: Mapping[str, Any], known: str | None
    ) -> None:
        from torch.utils.tensorboard import SummaryWriter

        super().__init__(folder, options, known)
        self._writer: Any = SummaryWriter(str(folder / "tensorboard"))
        if known is None:
            lines = [f"| {name} | {value} |" for name, value in options.items()]
            table = "\n".join(["| option | value |", "|---|---|", *lines])
            self._writer.add_text("options", table)
        self.known = "here"

    def epoch(self, numbers: Mapping[str, float], epoch: int) -> None:
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, epoch)

    def picture(self, file: Path, epoch: int) -> None:
        import numpy as np
        from PIL import Image

        with Image.open(file) as image:
            pixels = np.asarray(image.convert("RGB"))
        self._writer.add_image(file.stem, pixels, epoch, dataformats="HWC")

    def close(self) -> None:
        self._writer.close()


class MLflow(Log):
    """A run of the experiment and the server that MLflow's own variables name, by default in the current folder."""

    def __init__(
        self, folder: Path, options: Mapping[str, Any], known: str | None
    ) -> None:
        import mlflow

        super().__init__(folder, options, known)
        self._mlflow: Any = mlflow
        name = None if known else folder.resolve().name
        run = mlflow.start_run(run_id=known, run_name=name)
        self.known = run.info.run_id
        if known is None:
            mlflow.log_params(dict(options))

    def epoch(self, numbers: Mapping[str, float], epoch: int) -> None:
        self._mlflow.log_metrics(dict(numbers), step=epoch)

    def picture(self, file: Path, epoch: int) -> None:
        self._mlflow.log_artifact(str(file), artifact_path="figures")

    def close(self) -> None:
        self._mlflow.end_run()


class WeightsAndBiases(Log):
    """A run of the project that WANDB_PROJECT names, else of pyro_vae."""

    def __init__(
        self, folder: Path, options: Mapping[str, Any], known: str | None
    ) -> None:
        import os

        import wandb

        super().__init__(folder, options, known)
        self._wandb: Any = wandb
        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "pyro_vae"),
            name=folder.resolve().name,
            config=dict(options),
            id=known,
            resume="allow",
            settings=wandb.Settings(silent=True),
        )
        self.known = self._run.id

    def epoch(self, numbers: Mapping[str, float], epoch: int) -> None:
        self._run.log(dict(numbers), step=epoch)

    def picture(self, file: Path, epoch: int) -> None:
        # In a step of its own: those of epochs are over.
        self._run.log({file.stem: self._wandb.Image(str(file))})

    def close(self) -> None:
        self._run.finish()


KINDS: dict[str, type[Log]] = {
    "tensorboard": TensorBoard,
    "mlflow": MLflow,
    "wandb": WeightsAndBiases,
}


class Logs:
    """All programs that are told of a run, from `begin` to `close`.

    Args:
        names: which.
        folder: of the run.
        options: of the run, by name.
        say: called with a sentence where one of them fails later, which is then told no more.

    Raises:
        InputError: where the package of one is not installed.
    """

    def __init__(
        self,
        names: Sequence[str],
        folder: Path,
        options: Mapping[str, Any],
        *,
        say: Callable[[str], None],
    ) -> None:
        self._names, self._folder, self._options = names, folder, options
        self._say = say
        self._logs: dict[str, Log] = {}
        for name in names:
            try:
                __import__(PACKAGES[name])
            except ImportError:
                raise InputError(
                    f"--log {name} needs the package {PACKAGES[name]}: pip install 'pyro-vae[{name}]'"
                ) from None

    def epoch(self, epoch: Epoch) -> None:
        """Tell what an epoch came to, so far as it is a number."""
        numbers = epoch._asdict()
        number = numbers.pop("epoch")
        finite = {k: v for k, v in numbers.items() if math.isfinite(v)}
        self._tell(lambda log: log.epoch(finite, number))

    def pictures(self, files: Sequence[Path], epoch: int) -> None:
        """Show the pictures that a run ends with."""
        for file in files:
            self._tell(methodcaller("picture", file, epoch))

    def close(self) -> None:
        """Nothing more is told."""
        self._tell(lambda log: log.close())
        self._logs = {}

    def begin(self, *, again: bool) -> None:
        """Begin a run with each, or go on with that of before.

        Args:
            again: whether they were told of this run before.

        Raises:
            InputError: where one of them fails.
        """
        known = self._known() if again else {}
        for name in self._names:
            try:
                log = KINDS[name](self._folder, self._options, known.get(name))
            except Exception as error:  # such as a server that is not there
                raise InputError(f"--log {name} failed: {one_line(error)}") from error
            self._logs[name] = log

    def keep(self) -> None:
        """Write down what they call this run."""
        if self._logs:
            known = {name: log.known for name, log in self._logs.items()}
            text = json.dumps({**self._known(), **known}, indent=1)
            with suppress(OSError):  # it is written again after the next epoch
                (self._folder / NUMBERS).write_text(text, encoding="utf-8")

    def _known(self) -> dict[str, Any]:
        with suppress(OSError, ValueError):
            return dict(json.loads((self._folder / NUMBERS).read_text("utf-8")))
        return {}

    def _tell(self, say: Callable[[Log], None]) -> None:
        """Tell each of them, and those that fail no more."""
        for name, log in list(self._logs.items()):
            try:
                say(log)
            except Exception as error:  # such as a server that has gone
                del self._logs[name]
                self._say(f"{name} is told no more: {one_line(error)}")
