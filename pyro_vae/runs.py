"""The run folder: how it is known for one of ours, and which files in it the programs wrote."""

import os
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pyro_vae.foundation.commands import command, trust
from pyro_vae.foundation.errors import InputError
from pyro_vae.foundation.files import is_device, require_writable, write_atomically
from pyro_vae.foundation.marked import emptied
from pyro_vae.foundation.reading import read_toml, user_path
from pyro_vae.foundation.source import names
from pyro_vae.foundation.sources import sources

NAMED = names("data/named", "NAMED")
SPLITS = names("data/sets", "SPLITS")

WHOLE = re.compile(r"""(?<=['"])/[^'"]+""")  # paths inside an argument

CARD = "README.md"

# What training, evaluation, sampling and encoding write, as patterns of paths relative to the run folder.
EVALUATION = r"evaluation(-(train|validation|test|new)[\w.+-]*)?"
OF_AN_EVALUATION = re.compile(  # in `figures/` itself, where earlier versions put them
    r"(bound_curve|aggregated_posterior|posterior|ood-.+)\.png"
)
FORMAT = "(png|svg|pdf)"
FIGURES = (
    r"((learning_curves|(reconstructions|prior_samples|prior_pairs|manifold|second_prior)(-\w+)?|posterior_means|latents)"
    rf"\.{FORMAT}"
    rf"|{OF_AN_EVALUATION.pattern})"
)
OWNED = re.compile(
    "|".join(
        (
            r"config\.toml",
            r"README\.md",
            r"metrics\.csv",
            r"(best|last|before)\.safetensors",
            r"second_prior\.json",
            r"latents(-new[\w.+-]*)?\.npz",
            rf"{EVALUATION}\.(json|npz|csv)",
            rf"{EVALUATION.replace('evaluation', 'report')}\.html",
            r"explorer\.html",
            rf"figures/{FIGURES}",
            rf"figures/{EVALUATION}/[^/]+\.{FORMAT}",
            rf"figures/latents-new[\w.+-]*\.{FORMAT}",
            r"samples/(prior|reconstructions|interpolation|traversal|manifold|layers|attributes|denoise)(-\w+)?\."
            r"(png|svg|pdf|npy|csv)",
            r"samples/(conditions|transfer|cross)(-\w+)?\.(png|svg|pdf|npy)",
            rf"samples/prior_pairs(-\w+)?\.{FORMAT}",
            r"samples/prior-given\.csv",
            r"samples/given(-\w+)?\.(png|svg|pdf|npy|csv)",
            r"thresholds\.json",
            r"logs\.json",
            r"export/(encoder|decoder)\.(pt2|onnx)",
            r"tensorboard/events\.out\.tfevents\..+",
        )
    )
)
# Those of them that nothing else may replace.
NEEDED = re.compile(
    rf"config\.toml|thresholds\.json|metrics\.csv|.+\.safetensors|{EVALUATION}\.(json|npz)"
)


def description(folder: Path) -> dict[str, Any] | None:
    """What `config.toml` says of a run that training made; `None` where the file is missing, damaged or another's."""
    try:
        config = read_toml(folder / "config.toml")
    except InputError:
        return None
    resolved = config.get("resolved")
    ours = (
        isinstance(resolved, dict) and {"version", "shape", "bridge"} <= resolved.keys()
    )
    return config if ours else None


def read_resolved(file: Path) -> dict[str, Any]:
    """The table [resolved] of a run's `config.toml`: what its options came to.

    Raises:
        InputError: when it is missing or damaged.
    """
    resolved = read_toml(file).get("resolved")
    try:
        sizes = {split: int(resolved["sizes"][split]) for split in SPLITS}  # type: ignore[index]
        known = {str(k): str(v) for k, v in resolved.get("fingerprint", {}).items()}  # type: ignore[union-attr]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"the file {file} does not describe a run: its table [resolved] is damaged"
        ) from error
    return {**resolved, "sizes": sizes, "fingerprint": known}  # type: ignore[dict-item]


def is_run(folder: Path) -> bool:
    """Whether training made this folder: its `config.toml` has the table that training adds, with the version."""
    return description(folder) is not None


SEED = re.compile(r"seed([0-9]+)")  # the folder of a run of several seeds


def seeds_in(folder: Path) -> dict[int, Path]:
    """The runs of several seeds that `--seeds` left in a folder, by their seeds."""
    found = [(SEED.fullmatch(path.name), path) for path in folder.glob("seed*")]
    runs = {int(name[1]): path for name, path in found if name and is_run(path)}
    return dict(sorted(runs.items()))


def output_folder(option: str, given: str) -> Path:
    """Where an option writes several files, made if need be: not the figures of a run, nor the run folder itself.

    Raises:
        InputError: when a run would lose files.
    """
    path = user_path(given)
    there = path.resolve()
    if is_run(there) or (
        is_run(there.parent) and there.name in ("figures", "tensorboard")
    ):
        raise InputError(f"{option} {path} holds files of a run; name another folder")
    path.mkdir(parents=True, exist_ok=True)
    return path


def headline(split: str) -> str:
    """The name, without ending, of the evaluation that the report and the comparison read for a split."""
    return "evaluation" if split == "test" else f"evaluation-{split}"


def evaluations(folder: Path, split: str) -> list[str]:
    """The names of all evaluations of a split in a run folder, the headline first."""
    stems = [p.stem for p in sorted(folder.glob("evaluation*.json"))]
    ours = [
        s
        for s in stems
        if (m := re.fullmatch(EVALUATION, s)) and (m[2] or "test") == split
    ]
    return sorted(ours, key=lambda stem: stem != headline(split))


def owned(folder: Path) -> list[Path]:
    """The files in a run folder that the programs wrote, by their names; none that is reached through a link."""
    return [
        p for p in _files(folder) if OWNED.fullmatch(p.relative_to(folder).as_posix())
    ]


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.is_dir() and not path.is_symlink():
            yield from _files(path)
        elif not path.is_dir():
            yield path


def check_output(path: Path, option: str) -> None:
    """Raise `InputError` where a file cannot be written, or would take the place of one that a run needs."""
    if not path.parent.is_dir():
        raise InputError(f"{option} {path}: the folder {path.parent} does not exist")
    if path.is_dir():
        raise InputError(f"{option} {path} is a folder; name a file")
    try:
        if not is_device(path):
            require_writable(path.parent)
    except OSError as error:
        raise InputError(f"{option} {path}: {error.strerror or error}") from error
    there = path.resolve()
    for folder in there.parents:
        inside = there.relative_to(folder).as_posix()
        if NEEDED.fullmatch(inside) and is_run(folder):
            raise InputError(
                f"{option} {path} would take the place of a file of the run {folder.name}; name another"
            )


def clear(folder: Path) -> None:
    """Remove what the programs wrote in a run folder, and the folders in it that this leaves empty; nothing else.

    Of a card what somebody else wrote stays.
    """
    places = set()
    for path in owned(folder):
        if path == folder / CARD and (own := emptied(_text(path))):
            write_atomically(path, partial(Path.write_text, data=own, encoding="utf-8"))
            continue
        path.unlink(missing_ok=True)
        places |= set(path.relative_to(folder).parents)
    for place in sorted(places - {Path()}, key=lambda p: len(p.parts), reverse=True):
        if not any((folder / place).iterdir()):
            (folder / place).rmdir()


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def portable(path: str | Path, folder: Path) -> str:
    """How a run in `folder` writes a path down: from the folder on, so that a project can be moved as a whole.

    What shares with the folder no more than the home folder or the root, and lies at home, is written with `~`.
    """
    there, here, home = user_path(path).resolve(), folder.resolve(), user_path("~")
    common = Path(os.path.commonpath([there, here]))
    if there.is_relative_to(home) and not common.is_relative_to(home):
        return (Path("~") / there.relative_to(home)).as_posix()
    return Path(os.path.relpath(there, here)).as_posix()


def each_place(dataset: str, place: Callable[[str], str]) -> str:
    """`--dataset` with the place of each file in it as `place` makes it; a named data set stays as it is."""
    several = sources(dataset, None)
    if several is None:
        return dataset if dataset in NAMED else place(dataset)
    return ",".join(
        f"{name}={s.dataset if s.dataset in NAMED else place(s.dataset)}"
        for name, s in several.items()
    )


def places_of(dataset: str) -> list[str]:
    """The files and folders that `--dataset` names."""
    several = sources(dataset, None)
    every = [dataset] if several is None else [s.dataset for s in several.values()]
    return [place for place in every if place not in NAMED]


def located(
    config: Mapping[str, Any],
    folder: Path,
    *,
    data: str | None = None,
    data_dir: str | None = None,
) -> dict[str, Any]:
    """A run's options, with the places of its data as they are now; what cannot be found stays as it was written.

    Args:
        config: the options, as training wrote them into `folder`.
        folder: the run folder.
        data: the data themselves, if they are elsewhere now.
        data_dir: the folder of the data, if they are elsewhere now.
    """
    known = {
        **config,
        **({"dataset": data} if data else {}),
        **({"data_dir": data_dir} if data_dir else {}),
    }
    if known.get("dataset") not in NAMED and data is None:
        known["dataset"] = each_place(
            known["dataset"],
            lambda written: str(_found(written, folder, data_dir) or written),
        )
    if known.get("labels") is not None:
        beside = (
            None if known["dataset"] in NAMED else str(Path(known["dataset"]).parent)
        )
        known["labels"] = str(
            _found(known["labels"], folder, data_dir, beside) or known["labels"]
        )
    if known.get("from") is not None:
        there = folder / user_path(known["from"])  # where it lay, if it is gone
        known["from"] = str(_found(known["from"], folder) or there)
    if known.get("data_dir") is not None and data_dir is None:
        known["data_dir"] = str(_found(known["data_dir"], folder) or known["data_dir"])
    return known


def require_data(dataset: str, folder: Path) -> None:
    """Raise `InputError` where a run's own file or folder of data is not to be found."""
    for place in places_of(dataset):
        if not user_path(place).exists():
            raise InputError(
                f"the data of the run {folder} are no longer at {place}, and no {Path(place).name} is in the current "
                "folder; say where they are with --data FILE"
            )


def _found(written: str, folder: Path, *others: str | None) -> Path | None:
    """What a run in `folder` wrote down by `portable`, where it lies now; `None` if it is nowhere.

    It is looked for by its name in the `others`, then as it is written, from the run folder (a run of an earlier
    version wrote down whole paths) and from the current folder, then by its name in the current folder.
    """
    path = user_path(written)
    named = [user_path(other) / path.name for other in others if other]
    places = (*named, folder / path, path, Path(path.name))
    return next(
        (shown(place) for place in places if path.name and place.exists()), None
    )


def public_name(dataset: str) -> str:
    """What data are called in what others read: the name of a named set, or of a file without its folder."""
    return each_place(dataset, lambda place: Path(place).resolve().name)


def public_path(path: str | Path) -> str:
    """A path for others to read: from the current folder on if it lies in it, else its last part."""
    there, here = user_path(path).resolve(), Path.cwd()
    return (
        there.relative_to(here).as_posix() if there.is_relative_to(here) else there.name
    )


def public_command(program: str, arguments: Sequence[str]) -> str:
    """A command for others to read and to paste: quoted, its whole paths shortened as by `public_path`."""
    words = []
    for argument in arguments:
        option, equals, value = argument.rpartition("=")
        option, value = (
            (option + equals, value) if option.startswith("--") else ("", argument)
        )
        quoted = WHOLE.sub(lambda path: public_path(path[0]), argument)
        words.append(
            option + public_path(value) if Path(value).is_absolute() else quoted
        )
    return shlex.join(["python", "-m", f"pyro_vae.{program}", *words])


def on_run(program: str, folder: Path, *words: object, place: object = None) -> str:
    """The command of a program that reads a run, with `--trust` where the run needs it.

    Args:
        program: `'evaluate'`, `'sample'` or another that takes a run folder first.
        folder: the run folder.
        words: further options.
        place: what the folder is called in the command; by default its path.
    """
    where = folder if place is None else place
    return command(program, where, *words, *trust(description(folder) or {}))


def shown(path: Path) -> Path:
    """The same place in the shortest words: relative to the current folder if it lies in it or beside it."""
    there = path.resolve()
    near = Path(os.path.relpath(there))
    return (
        near
        if len(near.parts) < len(there.parts) and near.parts[:2] != ("..", "..")
        else there
    )
