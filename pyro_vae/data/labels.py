"""Labels from a file of their own."""

from pathlib import Path

import numpy as np

from pyro_vae._errors import InputError
from pyro_vae.data.files import Parts, Request, read_npy


def separate_labels(path: Path, request: Request) -> Parts | None:
    """Labels from a file of their own, named by --labels."""
    if request.labels is None:
        return None
    file = Path(request.labels).expanduser()
    if not file.is_file():
        raise InputError(
            f"--labels {request.labels} is no file; {path.name} has no labels of that name inside"
        )
    if file.suffix.lower() == ".npy":
        return {"train": read_npy(file).reshape(-1)}
    return {"train": np.array(file.read_text().split())}
