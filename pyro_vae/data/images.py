"""Folders of images."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pyro_vae._errors import InputError
from pyro_vae.data.files import Loaded, Request, one_line
from pyro_vae.data.labels import separate_labels
from pyro_vae.data.streams import Stream, stays_on_disk

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp"}


def image_folder(path: Path, request: Request) -> Loaded:
    """The images in a folder and below it, with the names of the subfolders as labels."""
    files = sorted(f for f in path.rglob("*") if f.suffix.lower() in SUFFIXES)
    if not files:
        raise InputError(f"the folder {path} holds no images ({', '.join(sorted(SUFFIXES))})")
    images = Images(files, request.workers)
    names = {"train": np.array([f.relative_to(path).as_posix() for f in files])}
    sizes = {"train": len(files)}
    labels, notes = separate_labels(path, request, sizes, names=names, files=True)
    folders = np.array([str(f.parent.relative_to(path)) for f in files])
    if labels is None and len(set(folders.tolist())) > 1:
        labels = {"train": folders}
    if stays_on_disk(math.prod(images.shape), request.stream):
        return Loaded({"train": images}, labels, str(path), names, notes)
    return Loaded({"train": images[:].numpy()}, labels, str(path), names, notes)


class Images(Stream):
    """Image files of one shape, as bytes: grey ones `(H, W)`, coloured ones `(3, H, W)`."""

    def __init__(self, files: Sequence[Path], workers: int = 0) -> None:
        self.files = np.array([str(file) for file in files])
        self.one = read_image(files[0]).shape
        self.shape, self.workers = (len(files), *self.one), workers

    def read(self, index: np.ndarray) -> Tensor:
        found = np.empty((len(index), *self.one), np.uint8)
        for row, file in zip(found, self.files[index], strict=True):
            row[...] = self._checked(file)
        return torch.from_numpy(found)

    def _checked(self, file: str) -> np.ndarray:
        image = read_image(Path(file))
        if image.shape != self.one:
            raise InputError(
                f"{file} has shape {image.shape} but {self.files[0]} has {self.one}; all must have one shape"
            )
        return image


def read_image(file: Path) -> np.ndarray:
    """The bytes of an image, `(H, W)` if it is grey, else `(3, H, W)`."""
    from PIL import Image

    try:
        with Image.open(file) as image:
            grey = image.mode in ("1", "L", "I", "I;16", "LA")
            array = np.asarray(image.convert("L" if grey else "RGB"))
    except (
        OSError,
        SyntaxError,
        ValueError,
    ) as error:  # Pillow says a damaged file in all three ways
        raise InputError(f"{file} cannot be read as an image: {one_line(error)}") from error
    return array if grey else array.transpose(2, 0, 1)
