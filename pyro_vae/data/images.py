"""Folders of images: one shape and one kind of numbers for all, in memory or on disk."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.files import Loaded, Parts, Request, shown
from pyro_vae.data.folders import counted, divided, images_below
from pyro_vae.data.ground import Ground, parse_ground
from pyro_vae.data.labels import separate_labels
from pyro_vae.data.pixels import Page, PixelKind, look, opened, pixels
from pyro_vae.data.streams import Stream, stays_on_disk, stored
from pyro_vae.foundation.errors import InputError

LOOKED_AT = 100  # images in which colours are compared, to see whether all are grey


def image_folder(path: Path, request: Request) -> Loaded:
    """The images in a folder and below it; `docs/data.md` says what is read as what.

    The headers of all files are read first, one after the other, so that a wrong one is told before training: about
    10 s for 100,000 files on a local disk (TIFF 30 s), and 100 bytes of memory for each.

    Raises:
        InputError: for a file that cannot be read as it is, and files of several shapes or kinds, naming them.
    """
    ground = parse_ground(request.background)
    contents = images_below(path)
    division = divided(path, contents.images)
    images, further = survey(path, contents.images, ground, request.workers)
    notes = [*contents.notes(), *division.notes, *images.notes(request.background)]
    if further:
        notes.append(
            f"{counted(further, 'picture')} inside files left out (previews, copies, masks)"
        )

    # Each page of a file belongs where the file does.
    names: Parts = {}
    labels: Parts = {}
    values: dict[str, Stream] = {}
    for split, files in division.splits.items():
        rows = np.flatnonzero(np.isin(images.file_of, files))
        names[split] = np.array([images.names[row] for row in rows])
        if division.classes is not None:
            classes = [division.classes[i] for i in images.file_of[rows]]
            labels[split] = np.array(classes)
        values[split] = images.take(torch.from_numpy(rows))

    own, more = _own_labels(path, request, images, names)
    notes += more
    data: Mapping[str, np.ndarray | Stream] = values
    if stays_on_disk(len(images) * images[:1].nbytes, request.stream):
        images.check_opaque()
    else:
        data = {split: stream[:].numpy() for split, stream in values.items()}
    return Loaded(
        data,
        (labels or None) if own is None else own,
        str(path),
        names,
        notes,
        maximum=images.kind.maximum,
    )


def _own_labels(
    path: Path, request: Request, images: "Images", names: Parts
) -> tuple[Parts | None, list[str]]:
    """Labels from a file of their own, for each page or, where they name the files, for all pages of a file."""
    sizes = {split: len(page_names) for split, page_names in names.items()}
    try:
        return separate_labels(path, request, sizes, names=names, files=True)
    except InputError as error:
        if not images.several:
            raise
        once, places = {}, {}
        for split, page_names in names.items():
            files = [name.partition("#")[0] for name in page_names]
            once[split], places[split] = np.unique(files, return_inverse=True)
        sizes = {split: len(files) for split, files in once.items()}
        labels, notes = separate_labels(path, request, sizes, names=once, files=True)
        if labels is None or not any("matched by name" in note for note in notes):
            raise error from None
    return {split: labels[split][place] for split, place in places.items()}, notes


def survey(
    root: Path, files: Sequence[str], ground: Ground | None = None, workers: int = 0
) -> tuple["Images", int]:
    """The images in files, their headers read; and how many pictures in them are no data.

    Raises:
        InputError: for a file that cannot be read as it is, and files of several shapes or kinds, naming them.
    """
    pages: list[Page] = []
    file_of: list[int] = []
    same: dict[Page, Page] = {}  # the pages of most files are equal, and are kept once
    further = 0
    for i, file in enumerate(files):
        some, more = look(os.path.join(root, file))
        pages += [same.setdefault(page, page) for page in some]
        file_of += [i] * len(some)
        further += more
    if not pages:
        raise InputError(
            f"the files in {shown(root)} hold no images but previews and masks"
        )

    # All must be of one size, and of kinds that are one.
    names = [files[i] for i in file_of]
    sizes = ["{} x {}".format(*page.size) for page in pages]
    if len(set(sizes)) > 1:
        odd, usual, share = _odd_one(sizes, names, root)
        raise InputError(
            f"{odd[0]} has {odd[1]} pixels (height by width) but {usual[0]} has {usual[1]}, as {share} images have; "
            "all must have one size: scale or crop them first"
        )
    kinds = [page.kind for page in pages]
    kind: PixelKind | None = kinds[0]
    for other in dict.fromkeys(kinds):
        kind = kind and kind.joined(other)
    if kind is None:
        odd, usual, share = _odd_one(kinds, names, root)
        raise InputError(
            f"{odd[0]} is {odd[1]} but {usual[0]} is {usual[1]}, as {share} images are; all must be of one kind: "
            "convert or remove the others"
        )
    images = Images(
        root, files, np.array(file_of), pages, kind=kind, ground=ground, workers=workers
    )
    return images, further


def _odd_one(
    values: Sequence[object], names: Sequence[str], root: Path
) -> tuple[tuple[str, object], tuple[str, object], str]:
    """The first file of the rarest of several values, one of the most frequent, each with the value, and its share."""
    (usual, times), *_, (odd, _) = Counter(values).most_common()
    first = names[values.index(odd)]
    return (
        (shown(root / first), odd),
        (shown(names[values.index(usual)]), usual),
        f"{times} of {len(values)}",
    )


class Images(Stream):
    """The pictures in image files, `(H, W)` if they are grey, else `(3, H, W)`.

    Attributes:
        names: of the files, relative to their folder; with `#` and the page where a file has several.
        file_of: the place of each picture's file in the list of files.
        kind: what the numbers are.
    """

    def __init__(
        self,
        root: Path,
        files: Sequence[str],
        file_of: np.ndarray,
        pages: Sequence[Page],
        *,
        kind: PixelKind,
        ground: Ground | None = None,
        workers: int = 0,
    ) -> None:
        self.root, self.files = str(root), files
        self.file_of, self.pages = file_of, pages
        self.kind, self.ground, self.workers = kind, ground, workers
        self.several = set(np.flatnonzero(np.bincount(file_of) > 1).tolist())
        self.shape = (len(pages), *((3,) if kind.colour else ()), *pages[0].size)

    @property
    def names(self) -> list[str]:
        return [
            shown(self.files[i]) + (f"#{page.number}" if i in self.several else "")
            for i, page in zip(self.file_of, self.pages, strict=True)
        ]

    def read(self, index: np.ndarray) -> Tensor:
        # in their order, so that each file is opened once
        rows, places = np.unique(index, return_inverse=True)
        values = np.empty((len(rows), *self.shape[1:]), self.kind.dtype)
        for i, group in groupby(
            enumerate(rows), lambda place: int(self.file_of[place[1]])
        ):
            file = os.path.join(self.root, self.files[i])
            with opened(file) as image:
                for place, row in group:
                    page = self.pages[row]
                    if page.number:
                        image.seek(page.number)
                    values[place] = pixels(image, file, page, self.kind, self.ground)
        return stored(self.root, values[places], index)

    def check_opaque(self) -> None:
        """Read once what may be transparent, where it must not be, before training meets it."""
        if self.ground is None:
            for row, page in enumerate(self.pages):
                if page.alpha:
                    self.read(np.array([row]))

    def notes(self, background: str | None) -> list[str]:
        """One sentence for each thing about the images that is not plain."""
        n, notes = len(self), []
        kinds = {page.kind for page in self.pages}
        if self.kind.dtype != "uint8" or self.kind.maximum != 255:
            notes.append(f"numbers kept as they are stored ({self.kind})")
        if len({kind.maximum for kind in kinds}) > 1:
            notes.append(
                "images of fewer than 8 bits lie beside others, and are read as 0 to 255"
            )
        if any(kind.indexed for kind in kinds):
            notes.append(f"palettes: the colours that they stand for ({self.kind})")
        if turned := sum(page.turned for page in self.pages):
            notes.append(
                f"{counted(turned, 'image')} turned upright, as their EXIF orientation says"
            )
        alpha = sum(page.alpha for page in self.pages)
        if alpha and self.ground is None:
            notes.append(
                f"{counted(alpha, 'image')} with a transparency that is nowhere used"
            )
        elif alpha:
            notes.append(
                f"{counted(alpha, 'image')} with transparency laid on {background}"
            )
        elif self.ground is not None:
            notes.append(
                f"no image has transparency, so that --background {background} does nothing"
            )
        if self.several:
            notes.append(
                f"{counted(len(self.several), 'file')} of several pages: each page is a datum, named "
                "file#page (counted from 0)"
            )
        if self.kind.colour and self._grey_planes():
            notes.append(
                f"grey images stored as colour (the first {min(n, LOOKED_AT)} looked at): each value "
                "counts three times; save them as grey to count it once"
            )
        return notes

    def _grey_planes(self) -> bool:
        """Whether the three planes of the first images are equal."""
        images = (self[row : row + 1] for row in range(min(len(self), LOOKED_AT)))
        return all((image == image[:, :1]).all() for image in images)
