"""Which files of a folder are its images, and which split and class each belongs to."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pyro_vae.data.files import shown
from pyro_vae.data.foreign import pictures_among
from pyro_vae.foundation.errors import InputError

SUFFIXES = {
    *(
        ".png",
        ".apng",
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".bmp",
        ".dib",
        ".gif",
        ".tif",
        ".tiff",
    ),
    *(
        ".webp",
        ".pbm",
        ".pgm",
        ".ppm",
        ".pnm",
        ".pfm",
        ".jp2",
        ".j2k",
        ".j2c",
        ".jpc",
        ".jpx",
    ),
}
LEFT_BEHIND = {
    "__macosx",
    "thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
    "@eadir",
    "$recycle.bin",
}
SPLIT_FOLDERS = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "test": "test",
    "testing": "test",
}


@dataclass
class Found:
    """What lies in a folder and below it; names are relative to it, with `/` between their parts.

    Attributes:
        images: files with the suffix of an image, in the order of their names as texts, folder by folder.
        others: files with other suffixes.
        hidden: images that are hidden, or lie in a hidden folder, such as `.ipynb_checkpoints` and `__MACOSX`.
        twice: links to folders that are read anyway.
    """

    images: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    hidden: int = 0
    twice: list[str] = field(default_factory=list)

    def notes(self) -> list[str]:
        """One sentence for each kind of file that was left out."""
        notes = []
        if self.hidden:
            notes.append(
                f"{counted(self.hidden, 'hidden image')} (.ipynb_checkpoints, __MACOSX, ._ and such) left out"
            )
        if self.others:
            notes.append(
                f"{counted(len(self.others), 'other file')} left out ({some(self.others)})"
            )
        if self.twice:
            notes.append(
                f"links to folders that are read anyway left out ({some(self.twice)})"
            )
        return notes


def images_below(root: Path) -> Found:
    """Look through a folder; links are followed, and each folder is read once.

    Raises:
        InputError: when a folder cannot be read, or there are no images.
    """
    contents = Found()
    visited: set[tuple[int, int]] = set()
    folders = [""]
    links: list[str] = []
    while folders or links:
        # a folder itself before links to it
        folder = folders.pop() if folders else links.pop()
        try:
            status = os.stat(root / folder)
            entries = list(os.scandir(root / folder))
        except OSError as error:
            raise InputError(
                f"the folder {shown(root / folder)} cannot be read: {error.strerror}"
            ) from error
        identity = status.st_dev, status.st_ino
        if identity in visited:
            contents.twice.append(folder)
            continue
        visited.add(identity)
        for entry in entries:
            name = f"{folder}/{entry.name}" if folder else entry.name
            if entry.name.startswith(".") or entry.name.lower() in LEFT_BEHIND:
                contents.hidden += _images_in(entry)
            elif entry.is_dir():
                (links if entry.is_symlink() else folders).append(name)
            elif _is_image(entry.name):
                contents.images.append(name)
            else:
                contents.others.append(name)
    contents.images.sort(key=lambda name: name.split("/"))
    contents.others.sort()
    if not contents.images:
        notes = "".join(f"; {note}" for note in contents.notes())
        raise InputError(
            f"the folder {shown(root)} holds no images ({', '.join(sorted(SUFFIXES))}){notes}"
            f"{pictures_among(contents.others)}"
        )
    return contents


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in SUFFIXES


def _images_in(hidden: "os.DirEntry[str]") -> int:
    """How many images a hidden file or folder amounts to."""
    if not hidden.is_dir(follow_symlinks=False):
        return int(_is_image(hidden.name))
    return sum(sum(map(_is_image, files)) for _, _, files in os.walk(hidden.path))


@dataclass
class Division:
    """The files of each split, with the class that each lies in.

    Attributes:
        splits: places in the list of files, by split; all are `"train"` where no folders are named after splits.
        classes: the folder of each file, below that of its split; `None` where all lie in one.
        notes: what was taken for what.
    """

    splits: dict[str, list[int]]
    classes: list[str] | None
    notes: list[str]


def divided(root: Path, files: Sequence[str]) -> Division:
    """Take folders named train, validation and test for splits, and those below them for classes.

    Raises:
        InputError: when only some of the files lie in such folders, or two folders are the same split.
    """
    tops = [file.split("/")[0] if "/" in file else "" for file in files]
    lower = {top: top.lower() for top in dict.fromkeys(tops)}
    named = {t: SPLIT_FOLDERS[low] for t, low in lower.items() if low in SPLIT_FOLDERS}
    called = some(sorted(named))
    splits: dict[str, list[int]] = {"train": list(range(len(files)))}
    classes = [file.rpartition("/")[0] for file in files]
    notes = []
    if "train" in named.values() and (len(named) > 1 or len(lower) == 1):
        _check_splits(root, files, tops, named)
        splits = {split: [] for split in named.values()}
        for i, top in enumerate(tops):
            splits[named[top]].append(i)
        if len(named) > 1:
            notes.append(f"the folders {called} are taken for the splits")
        classes = [folder.partition("/")[2] for folder in classes]
    elif len(named) > 1:
        raise InputError(
            f"the folder {shown(root)} has {called} but no folder train; add it, or give the folders names that are no "
            "splits"
        )
    classes = [shown(folder) or "." for folder in classes]
    kinds = sorted(set(classes))
    if len(kinds) == 1:
        return Division(splits, None, notes)
    notes.append(f"labels are the names of {len(kinds)} folders ({some(kinds)})")
    return Division(splits, classes, notes)


def _check_splits(
    root: Path, files: Sequence[str], tops: list[str], named: dict[str, str]
) -> None:
    elsewhere = [f for f, top in zip(files, tops, strict=True) if top not in named]
    if elsewhere:
        raise InputError(
            f"the folder {shown(root)} has images in {some(sorted(named))} and also others, such as "
            f"{shown(elsewhere[0])}; move those into one of the splits, or away"
        )
    if len(set(named.values())) < len(named):
        raise InputError(
            f"the folder {shown(root)} has {some(sorted(named))}, of which two are one split; "
            "rename or merge them"
        )


def counted(n: int, what: str) -> str:
    """A number of things in words: `1 image`, `2 images`."""
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def some(names: Sequence[str]) -> str:
    """The first names of a list, for use inside a sentence."""
    return ", ".join([*map(shown, names[:3])] + ["..."] * (len(names) > 3))
