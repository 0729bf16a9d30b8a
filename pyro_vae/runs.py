"""The run folder: how it is known for one of ours, and which files in it the programs wrote."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# What training, evaluation, sampling and encoding write, as patterns of paths relative to the run folder.
EVALUATION = r"evaluation(-(train|validation|test|new)[\w.+-]*)?"
FIGURES = (
    r"(learning_curves|reconstructions|prior_samples|manifold|posterior_means|latents|bound_curve"
    r"|aggregated_posterior|posterior|ood-.+)\.png"
)
OWNED = re.compile(
    "|".join(
        (
            r"config\.toml",
            r"metrics\.csv",
            r"(best|last)\.safetensors",
            r"latents(-new[\w.+-]*)?\.npz",
            rf"{EVALUATION}\.(json|npz|csv)",
            rf"{EVALUATION.replace('evaluation', 'report')}\.html",
            rf"figures/({EVALUATION}/)?{FIGURES}",
            r"figures/latents-new[\w.+-]*\.png",
            r"samples/(prior|reconstructions|interpolation|traversal|manifold)\.(png|npy)",
            r"tensorboard/events\.out\.tfevents\..+",
        )
    )
)


def description(folder: Path) -> dict[str, Any] | None:
    """What `config.toml` says of a run that training made; `None` where the file is missing, damaged or another's."""
    try:
        config = tomllib.loads((folder / "config.toml").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    resolved = config.get("resolved")
    ours = isinstance(resolved, dict) and {"version", "shape", "bridge"} <= resolved.keys()
    return config if ours else None


def is_run(folder: Path) -> bool:
    """Whether training made this folder: its `config.toml` has the table that training adds, with the version."""
    return description(folder) is not None


def owned(folder: Path) -> list[Path]:
    """The files in a run folder that the programs wrote, by their names; none that is reached through a link."""
    return [p for p in _files(folder) if OWNED.fullmatch(p.relative_to(folder).as_posix())]


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.is_dir() and not path.is_symlink():
            yield from _files(path)
        elif not path.is_dir():
            yield path


def clear(folder: Path) -> None:
    """Remove what the programs wrote in a run folder, and the folders in it that this leaves empty; nothing else."""
    places = set()
    for path in owned(folder):
        path.unlink(missing_ok=True)
        places |= set(path.relative_to(folder).parents)
    for place in sorted(places - {Path()}, key=lambda p: len(p.parts), reverse=True):
        if not any((folder / place).iterdir()):
            (folder / place).rmdir()
