"""What the programs share: arguments, one-sentence errors, devices, and the run folder they read."""

import argparse
import difflib
import re
import sys
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch

from pyro_vae._errors import InputError
from pyro_vae.build import Spec
from pyro_vae.checkpoint import checkpoint_path, load_weights
from pyro_vae.data import BRIDGES, Bridge, DataSet, Split, load_data
from pyro_vae.models.vae import VAE


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are one sentence, with the nearest option offered."""

    def error(self, message: str) -> NoReturn:
        if unknown := re.match(r"unrecognized arguments: (-\S+)", message):
            options = [o for action in self._actions for o in action.option_strings]
            near = difflib.get_close_matches(unknown[1].partition("=")[0], options, 1)
            message += f"; did you mean {near[0]}?" if near else "; --help lists the options"
        raise InputError(message)


def run(name: str, main: Callable[[Sequence[str]], None], arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a program and exit: 0 when it did its work, 2 with one sentence for wrong input, 130 after Ctrl-C."""
    try:
        main(sys.argv[1:] if arguments is None else arguments)
    except InputError as error:
        sys.exit(_say(name, str(error)))
    except KeyboardInterrupt:
        _say(name, "interrupted")
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output has gone; nothing is left to say
        sys.exit(141)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        sys.exit(_say(name, f"{where}{error.strerror or error}"))
    except (MemoryError, RuntimeError) as error:
        if type(error) is RuntimeError and "allocate memory" not in str(error):
            raise
        sys.exit(_say(name, "not enough memory; use a smaller --batch-size, --num-particles or network"))
    sys.exit(0)


def _say(name: str, message: str) -> int:
    print(f"{name}: {message}", file=sys.stderr)
    return 2


def pick_device(name: str) -> torch.device:
    """The device that `--device` names; `auto` takes the first of cuda, mps and cpu that there is."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(device for device, there in available.items() if there))
    if name not in available:
        raise InputError(f"--device {name} is unknown: choose one of auto, cpu, cuda, mps")
    if not available[name]:
        raise InputError(f"--device {name} is not available here; --device auto takes what there is")
    return torch.device(name)


def whole(text: str) -> int:
    """A whole number of at least 1, for an option."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return value


def seed(text: str) -> int:
    """A seed, for an option."""
    if not text.isdigit() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to 2^32 - 1")
    return int(text)


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file."""
    try:
        return tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise InputError(f"the file {path} does not exist") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"the file {path} is not valid TOML: {error}") from error


@dataclass
class Run:
    """A trained run read back: the VAE, its data as it saw them, and what is known about both."""

    folder: Path
    vae: VAE
    spec: Spec
    epoch: int
    config: dict[str, Any]
    device: torch.device
    data: DataSet
    bridge: Bridge
    dtype: torch.dtype

    def split(self, name: str) -> Split:
        """One split as it is evaluated: its random bits or noise drawn once, from a fixed seed."""
        split = self.data.split(name, self.bridge, dtype=self.dtype).fixed()
        if len(split) == 0:
            raise InputError(f"the run {self.folder} has no {name} data; choose another --split")
        return split.to(self.device)


def open_run(folder: str, *, checkpoint: str, device: str, data_dir: str | None) -> Run:
    """Rebuild a run from its folder, without the command that made it."""
    path = checkpoint_path(folder, checkpoint)
    config = read_toml(Path(folder) / "config.toml")
    vae, spec, header = load_weights(path)
    chosen = pick_device(device)
    dtype = torch.float64 if config.get("precision") == "float64" else torch.float32
    try:
        resolved = config["resolved"]
        bridge = Bridge(resolved["bridge"], float(resolved["maximum"]))
        if bridge.kind not in BRIDGES:
            raise InputError(f"the file {Path(folder) / 'config.toml'} has an unknown bridge {bridge.kind!r}")
        fields = ("dataset", "data_dir", "labels", "validation_fraction", "test_fraction")
        request: dict[str, Any] = {field: config.get(field) for field in fields}
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"the file {Path(folder) / 'config.toml'} does not describe a run: its table [resolved] is damaged"
        ) from error
    data = load_data(**{**request, "data_dir": data_dir or request["data_dir"]})
    if data.shape != spec.shape:
        raise InputError(f"{data.name} has data of shape {data.shape}, but the run was trained on {spec.shape}")
    vae = vae.to(device=chosen, dtype=dtype).eval()
    return Run(Path(folder), vae, spec, header["epoch"], config, chosen, data, bridge, dtype)


def run_parser(program: str, description: str) -> Parser:
    """The parser of a program that reads a trained run, with the options that all of them have."""
    parser = Parser(prog=f"python -m pyro_vae.{program}", description=description, allow_abbrev=False)
    parser.add_argument("run", metavar="RUN", help="the run folder that training made")
    parser.add_argument("--checkpoint", choices=("best", "last"), default="best", help="which weights (default: best)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (default: auto)")
    parser.add_argument("--data-dir", help="where the data files lie now, if they have moved")
    parser.add_argument("--seed", type=seed, default=0, help="seed of the random numbers (default: 0)")
    return parser
