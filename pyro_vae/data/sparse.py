"""Sparse matrices: kept sparse, and made dense row by row where they are read."""

from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from pyro_vae.data.files import telling
from pyro_vae.data.streams import SHARE, Stream, stored
from pyro_vae.foundation.errors import InputError
from pyro_vae.foundation.memory import available_memory


class Sparse(Stream):
    """A SciPy sparse matrix `(N, D)` in memory; the rows that are asked for are made dense."""

    on_disk = False

    def __init__(self, name: str, matrix: Any) -> None:
        self.name, self.matrix, self.workers = name, matrix, 0
        self.shape = (int(matrix.shape[0]), int(matrix.shape[1]))

    def read(self, index: np.ndarray) -> Tensor:
        return stored(self.name, self.matrix[index].toarray(), index)


def sparse_values(
    path: Path, matrix: Any, stream: bool | None
) -> tuple[np.ndarray | Sparse, str]:
    """A sparse matrix as data, and a sentence about it; dense if `stream` is `False`.

    Raises:
        InputError: for places outside of the matrix, for what is not a number, and where a dense one is too large.
    """
    if matrix.ndim != 2:
        raise InputError(
            f"the sparse array in {path} has shape {matrix.shape}, and not (N, D)"
        )
    matrix = matrix.tocsr()
    with telling(f"the sparse matrix in {path} is damaged"):
        matrix.check_format(full_check=True)
    matrix.sum_duplicates()
    rows, width = matrix.shape
    share = matrix.nnz / max(1, rows * width)
    note = f"sparse matrix of {rows:,} x {width:,}, {share:.2g} of it not 0"
    if stream is not False:
        kept = f"{note}: kept sparse, made dense batch by batch"
        return Sparse(str(path), matrix), kept
    size = rows * width * matrix.dtype.itemsize
    if size > 2 * SHARE * available_memory():
        raise InputError(
            f"{path} takes {size / 1e9:.3g} GB as a dense matrix, too much for memory; leave out --stream no"
        )
    return matrix.toarray(), f"{note}: made dense"
