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
        folder = (
            folders.pop() if folders else links.pop()
        )  # a folder itself before links to it
        try:
            identity = os.stat(root / folder)
            entries = list(os.scandir(root / folder))
        except OSError as error:
            raise InputError(
                f"the folder {shown(root / folder)} cannot be read: {error.strerror}"
            ) from error
        if (identity.st_dev, identity.st_ino) in visited:
            contents.twice.append(folder)
            continue
        visited.add((identity.st_dev, identity.st_ino))
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
    if hidden.is_dir(follow_symlinks=False):
        return sum(
            _is_image(file) for _, _, files in os.walk(hidden.path) for file in files
        )
    return int(_is_image(hidden.name))


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
    tops: dict[str, int] = {}
    for i, file in enumerate(files):
        tops.setdefault(file.split("/")[0] if "/" in file else "", i)
    named = {
        top: SPLIT_FOLDERS[top.lower()] for top in tops if top.lower() in SPLIT_FOLDERS
    }
    notes = []
    if "train" in named.values() and (len(named) > 1 or len(tops) == 1):
        _check_splits(root, files, tops, named)
        splits: dict[str, list[int]] = {split: [] for split in named.values()}
        for i, file in enumerate(files):
            splits[named[file.split("/")[0]]].append(i)
        if len(named) > 1:
            notes.append(f"the folders {some(sorted(named))} are taken for the splits")
        below = [file.split("/")[1:-1] for file in files]
    elif len(named) > 1:
        raise InputError(
            f"the folder {shown(root)} has {some(sorted(named))} but no folder train; add it, or give "
            "the folders names that are no splits"
        )
    else:
        splits = {"train": list(range(len(files)))}
        below = [file.split("/")[:-1] for file in files]
    classes = [shown("/".join(folders)) or "." for folders in below]
    kinds = sorted(set(classes))
    if len(kinds) == 1:
        return Division(splits, None, notes)
    notes.append(f"labels are the names of {len(kinds)} folders ({some(kinds)})")
    return Division(splits, classes, notes)


def _check_splits(
    root: Path, files: Sequence[str], tops: dict[str, int], named: dict[str, str]
) -> None:
    elsewhere = [files[i] for top, i in tops.items() if top not in named]
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
    return ", ".join([shown(name) for name in names[:3]] + ["..."] * (len(names) > 3))
