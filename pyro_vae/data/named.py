"""Data sets that the field knows by name."""

import gzip
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pyro_vae.data.conditions import asked
from pyro_vae.data.files import Loaded, Request, one_line, read_npz
from pyro_vae.data.shapes import LEVELS, shapes
from pyro_vae.foundation.errors import InputError
from pyro_vae.foundation.reading import reading, user_path


def _folders(request: Request) -> list[Path]:
    """Where files are looked for, in order; the last is where downloads go."""
    given = [d for d in (request.data_dir, os.environ.get("PYRO_VAE_DATA")) if d]
    cache = user_path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "pyro_vae"
    return [*(user_path(d) for d in given), cache]


def _find(request: Request, *names: str) -> Path | None:
    paths = (folder / name for folder in _folders(request) for name in names)
    return next((path for path in paths if path.is_file()), None)


def _file(request: Request, *names: str) -> Path:
    """The first of these files that there is."""
    path = _find(request, *names)
    if path is None:
        raise _missing(request, names[0])
    return path


def _missing(request: Request, what: str, reason: str = "") -> InputError:
    looked = ", ".join(str(folder) for folder in _folders(request))
    return InputError(
        f"{request.dataset} needs the file {what}, which was not found in {looked}{reason}; name its folder with "
        "--data-dir, or use --dataset digits, which needs no file"
    )


def _digits(request: Request) -> Loaded:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images, labels = digits.images.astype(np.uint8), digits.target
    return Loaded({"train": images}, {"train": labels}, "scikit-learn")


def _idx(path: Path) -> np.ndarray:
    """An array in the idx format of MNIST's authors: two zero bytes, the type, the number of sizes, the sizes."""
    with reading(path, "an idx file"):
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
        dims = content[3]
        shape = [
            int.from_bytes(content[4 + 4 * i : 8 + 4 * i], "big") for i in range(dims)
        ]
        return np.frombuffer(content, np.uint8, offset=4 + 4 * dims).reshape(shape)


def _mnist_like(folder: str) -> Callable[[Request], Loaded]:
    def load(request: Request) -> Loaded:
        paths = []
        for split in ("train", "t10k"):
            for kind in ("images-idx3-ubyte", "labels-idx1-ubyte"):
                name = f"{folder}/raw/{split}-{kind}"
                if _find(request, f"{name}.gz", name) is None:
                    _downloaded(request, f"{name}.gz", folder, train=True)
                paths.append(_file(request, f"{name}.gz", name))
        x, y, test_x, test_y = map(_idx, paths)
        images, labels = {"train": x, "test": test_x}, {"train": y, "test": test_y}
        return Loaded(images, labels, str(paths[0].parent))

    return load


def _torchvision() -> Any:
    """Torchvision's data sets; its wheel imports on a torch without CUDA once two operators are declared."""
    try:
        from torchvision import datasets
    except RuntimeError:
        signature = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        torch.library.define("torchvision::nms", signature)
        torch.library.define("torchvision::qnms", signature)
        from torchvision import datasets
    return datasets


def _downloaded(
    request: Request, what: str, name: str, copy: str = "", **options: bool
) -> Any:
    """A data set that torchvision fetches (and checks) into the cache folder."""
    root = _folders(request)[-1]
    try:
        root.mkdir(parents=True, exist_ok=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return getattr(_torchvision(), name)(str(root), download=True, **options)
    except (OSError, RuntimeError) as error:
        reason = f", and {copy}could not be downloaded ({one_line(error)})"
        raise _missing(request, what, reason) from error


def _binarized_mnist(request: Request) -> Loaded:
    path = _file(request, "binarized_mnist/binarized_mnist.npz")
    archive = read_npz(path)
    stored = {"train": "train", "validation": "valid", "test": "test"}
    with reading(path, "binarized MNIST"):
        images = {s: archive[key].reshape(-1, 28, 28) for s, key in stored.items()}
        return Loaded(images, None, str(path))


def _freyfaces(request: Request) -> Loaded:
    path = _file(request, "freyfaces/freyfaces.npz")
    with reading(path, "the archive of Frey's faces"):
        return Loaded({"train": read_npz(path)["images"]}, None, str(path))


def _omniglot(request: Request) -> Loaded:
    name = "omniglot/omniglot_28x28.npz"
    path = _find(request, name)
    if path is not None:
        archive = read_npz(path)
        with reading(path, "the archive of Omniglot"):
            images = {"train": archive["train"], "test": archive["test"]}
            labels = {"train": archive["train_char"], "test": archive["test_char"]}
            return Loaded(images, labels, str(path))
    images, labels = {}, {}
    for split, background in (("train", True), ("test", False)):
        copy = "torchvision's copy "
        drawings = _downloaded(request, name, "Omniglot", copy, background=background)
        small = [
            (255 - np.asarray(image.convert("L").resize((28, 28))), label)
            for image, label in drawings
        ]
        images[split] = np.stack([image for image, _ in small])
        labels[split] = np.array([label for _, label in small])
    source = "torchvision (background alphabets to train on, evaluation alphabets to test, resized to 28x28)"
    return Loaded(images, labels, source)


def _shapes(request: Request) -> Loaded:
    images, factors = shapes()
    given = {k: factors[k] for k in asked(request.condition) if k in factors}
    return Loaded(images, factors["form"], "pyro_vae", conditions=given)


NAMED: dict[str, Callable[[Request], Loaded]] = {
    "digits": _digits,
    "mnist": _mnist_like("MNIST"),
    "fashion-mnist": _mnist_like("FashionMNIST"),
    "kmnist": _mnist_like("KMNIST"),
    "omniglot": _omniglot,
    "binarized-mnist": _binarized_mnist,
    "freyfaces": _freyfaces,
    "shapes": _shapes,
}

# What varies in the data, where that is known: names of columns.
FACTORS = {"shapes": tuple(LEVELS)}

# What the field holds out where the files do not say.
FIXED_SIZES = {
    ("freyfaces", "test"): 200,
    ("freyfaces", "validation"): 200,
    ("mnist", "validation"): 1000,
    ("fashion-mnist", "validation"): 1000,
    ("kmnist", "validation"): 1000,
    ("omniglot", "validation"): 1000,
}

EPOCHS = {"digits": 300}  # passes that a small data set needs, where it is not 100
# The largest value of data stored as bytes, where it is not 255.
MAXIMA = {"digits": 16.0}
