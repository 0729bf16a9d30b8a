"""The options of the training program, made from the table of a run's options."""

import argparse
import difflib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from pyro_vae._cli.options import Parser, add_quiet, add_trust
from pyro_vae._config import (
    BY_KEY,
    GROUPS,
    OF_A_SECOND_PRIOR,
    OF_ITS_OWN,
    OPTIONS,
    RESUMABLE,
    Config,
    flag,
)
from pyro_vae.foundation.checks import shown
from pyro_vae.foundation.errors import InputError
from pyro_vae.foundation.reading import read_toml
from pyro_vae.foundation.source import FAMILIES
from pyro_vae.runs import located


def make_parser() -> Parser:
    """The parser of the training program, made from the table."""
    parser = Parser(
        prog="python -m pyro_vae.train",
        description="Train a variational autoencoder and leave a run folder that evaluation and sampling read.",
        axes=[axis for axis in FAMILIES if axis != "ask"],
        examples=(
            "--likelihood bernoulli",
            "--dataset people.csv --likelihood columns --guide fullrank",
        ),
        argument_default=argparse.SUPPRESS,
    )
    group = parser.add_argument_group()
    for name, option in OPTIONS.items():
        if name in GROUPS:
            group = parser.add_argument_group(GROUPS[name])
        text = option.metadata["help"]
        if option.type is bool:
            group.add_argument(
                flag(name),
                dest=name,
                action=argparse.BooleanOptionalAction,
                help=text,
            )
            continue
        kind = {
            int: int,
            "int | None": int,
            int | None: int,
            float: float,
            float | None: float,
        }.get(option.type, str)
        shown = "" if option.default is None else f" (default: {option.default})"
        choices = option.metadata["choices"] or None
        metavar = (
            "{" + ",".join(choices) + "}"
            if choices
            else {int: "N", float: "X"}.get(kind, "NAME")
        )
        more: dict[str, Any] = {
            "choices": choices,
            "metavar": metavar,
            "help": text + shown,
        }
        group.add_argument(flag(name), dest=name, type=kind, **more)
    group.add_argument(
        "--config",
        metavar="FILE.toml",
        help="read options from a file; the command line wins",
    )
    group.add_argument(
        "--resume",
        metavar="DIR",
        help="go on with the run in DIR, to --epochs if that is given",
    )
    group.add_argument(
        "--data",
        metavar="FILE",
        help="where the data of --resume or --from lie now, if they have moved",
    )
    group.add_argument(
        "--seeds",
        metavar="N,N",
        help="train a run with each of these seeds, side by side, into OUTPUT/seedN",
    )
    add_trust(group)
    group.add_argument(
        "--dry-run",
        action="store_true",
        help="print the resolved configuration, shapes and sizes; train nothing",
    )
    add_quiet(group)
    return parser


def without_seeds(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """`seeds`, `resume` and `dry_run` as they were given, and the other arguments without `output` and these."""
    parser = Parser(argument_default=None, add_help=False)
    for name in ("--seeds", "--resume", "--output"):
        parser.add_argument(name)
    parser.add_argument("--dry-run", action="store_true")
    return parser.parse_known_args(arguments)


class Asked(NamedTuple):
    """What a command line asks for: a configuration, the run to resume (if any), a dry run, few words."""

    config: Config
    resumed: Path | None
    dry: bool
    quiet: bool


def resolve(arguments: Sequence[str]) -> Asked:
    """What the command line asks for."""
    given = vars(make_parser().parse_args(arguments))
    given.pop("trust", None)  # seen by `by_the_command_line`
    given.pop("seeds", None)  # what is resolved is one run
    dry, quiet = (bool(given.pop(k, False)) for k in ("dry_run", "quiet"))
    file, resume, data = (given.pop(k, None) for k in ("config", "resume", "data"))
    if resume is not None:
        folder = Path(resume)
        if fixed := sorted(set(given) - RESUMABLE) + (["config"] if file else []):
            raise InputError(
                f"--resume goes on with the options of {folder}; {flag(fixed[0])} cannot change"
            )
        stored = _moved(folder / "config.toml", data, given.get("data_dir"))
        config = _from_table(stored, folder / "config.toml")
        config = replace(config, **given, output=str(folder))
        return Asked(config, folder, dry, quiet)
    values = {} if file is None else _moved(Path(file))
    source = given.get("from_", values.get("from"))
    if source is not None:
        asked = _checked(values, Path(file or "")) | given
        return Asked(_second_prior(Path(source), asked, data), None, dry, quiet)
    if data is not None:
        raise InputError(
            "--data says where the data of --resume or --from lie now; a new run takes --dataset"
        )
    config = replace(_from_table(values, Path(file or "")), **given)
    return Asked(config, None, dry, quiet)


def _second_prior(folder: Path, asked: dict[str, Any], data: str | None) -> Config:
    """The options of a run that keeps everything of another but its prior."""
    if asked.get("prior") is None:
        raise InputError(
            f"--from {folder} trains a second prior on its codes: say which, as in --prior flow"
        )
    if not folder.is_dir():
        raise InputError(f"the run {folder} of --from does not exist")
    stored = _moved(folder / "config.toml", data, asked.get("data_dir"))
    theirs = _from_table(stored, folder / "config.toml")
    own: dict[str, Any] = {name: OPTIONS[name].default for name in OF_ITS_OWN}
    base = replace(theirs, **own)
    for name, value in asked.items():
        if name not in OF_A_SECOND_PRIOR and value != getattr(base, name):
            raise InputError(
                f"--from keeps everything of {folder} but its prior, and {flag(name)} {shown(value)} would change "
                "more: leave it out"
            )
    if base.labelled is not None and asked.get("seed", base.seed) != base.seed:
        raise InputError(
            f"--seed {asked['seed']} would choose other data of {folder} to keep their labels: leave it out"
        )
    config = replace(base, **asked)
    output = config.output
    if output is not None and Path(output).resolve() == folder.resolve():
        raise InputError(
            f"--output {output} is the run of --from itself, which stays as it is: name another folder"
        )
    return config


def _moved(
    file: Path, data: str | None = None, data_dir: str | None = None
) -> dict[str, Any]:
    """The options in a TOML file; those that a run wrote down, with the places of its data as they are now."""
    values = read_toml(file)
    if not isinstance(values.get("resolved", {}), dict):
        raise InputError(f"resolved in {file} must be a table, as training writes it")
    if values.pop("resolved", None) is None or not isinstance(
        values.get("dataset", ""), str
    ):
        return values
    return located(values, file.parent, data=data, data_dir=data_dir)


def _from_table(values: dict[str, Any], source: Path) -> Config:
    """A configuration from a TOML table."""
    return Config(**_checked(values, source))


def _checked(values: dict[str, Any], source: Path) -> dict[str, Any]:
    """The options in a TOML table, each of its type."""
    checked: dict[str, Any] = {}
    for key, value in values.items():
        name = BY_KEY.get(key.replace("-", "_"), "")
        if not name:
            near = difflib.get_close_matches(key.replace("-", "_"), BY_KEY, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise InputError(f"{source} has an unknown option {key}{hint}")
        if name in checked:
            raise InputError(f"{source} gives {flag(name)} twice")
        option = OPTIONS[name]
        kinds = {bool: (bool,), int: (int,), float: (int, float), str: (str,)}
        wanted = next(
            k
            for k in (bool, int, float, str)
            if k is option.type or (k | None) == option.type
        )
        if not isinstance(value, kinds[wanted]) or (
            isinstance(value, bool) and wanted is not bool
        ):
            words = {
                bool: "true or false",
                int: "a whole number",
                float: "a number",
                str: "a text in quotes",
            }
            raise InputError(
                f"{key} = {shown(value)} in {source} must be {words[wanted]}"
            )
        choices = option.metadata["choices"]
        if choices and value not in choices:
            raise InputError(
                f"{key} = {shown(value)} in {source} must be one of {', '.join(choices)}"
            )
        checked[name] = value
    if 1000 >= checked.get("workers", 0) > (most := max(2, os.cpu_count() or 1)):
        checked["workers"] = (
            most  # a file starts no more processes than there are cores
        )
    return checked
