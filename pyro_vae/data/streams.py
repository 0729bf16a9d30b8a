"""Data that stay on disk: read when they are asked for, and ahead of a training step by worker processes."""

import math
import mmap
import signal
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pyro_vae.data.files import check_numbers, one_line, read_header, reading_npy
from pyro_vae.foundation.errors import InputError
from pyro_vae.foundation.memory import available_memory

SHARE = 0.25  # of the memory available: dividing resident data into splits holds them nearly three times
CHUNK = 2**24  # elements in memory at a time where all data are passed over
GAP = 2**16  # bytes between two rows that are read along with them
REQUEST = 2**17  # bytes asked for at once; of more Linux may leave out the rest


class Stream(ABC):
    """Stored values on disk that are read like a tensor on the CPU: `len(s)`, `s.shape`, `s[indices]`, `s[a:b]`.

    Attributes:
        shape: `(N, *shape)`.
        workers: how many processes read ahead in `batches`; 0 reads in this one.
        on_disk: whether the values are read from a disk, and not made from what is in memory.
    """

    on_disk: bool = True
    shape: tuple[int, ...]
    workers: int

    @abstractmethod
    def read(self, index: np.ndarray) -> Tensor:
        """The data `index`, in that order, `(len(index), *shape)`; `InputError` where one cannot be read."""

    def __len__(self) -> int:
        return self.shape[0]

    @cached_property
    def dtype(self) -> torch.dtype:
        """Of what is read."""
        return self[:0].dtype

    def __getitem__(self, index: Any) -> Tensor:
        if isinstance(index, slice):
            index = np.arange(*index.indices(len(self)))
        if isinstance(index, Tensor):
            index = index.cpu()
        return self.read(np.asarray(index))

    def take(self, index: Tensor) -> "Stream":
        """Some of the data, still on disk."""
        return StreamRows(self, index.numpy())

    def batches(
        self, order: Tensor, batch_size: int, *, pin_memory: bool = False
    ) -> Iterator[Tensor]:
        """The data `order` (indices on the CPU) in batches, read ahead by the workers; no random stream is touched.

        Raises:
            InputError: naming the file that could not be read.
        """
        with warnings.catch_warnings():
            # more workers than cores, which is for the user to say
            warnings.simplefilter("ignore", UserWarning)
            loader = DataLoader(
                _Batches(self),
                batch_size=None,
                sampler=_Pieces(order, batch_size),  # type: ignore[arg-type]
                num_workers=self.workers,
                generator=torch.Generator(),
                pin_memory=pin_memory,
                worker_init_fn=_leave_signals,
            )
            batches = iter(loader)
        try:
            for _ in range(len(loader)):
                batch = _next(batches)
                if isinstance(batch, InputError):
                    raise batch
                yield batch
        finally:
            del batches  # ends the workers, also where a traceback keeps this frame


def _next(batches: Iterator[Any]) -> Any:
    try:
        return next(batches)
    except RuntimeError as error:
        if "worker" not in str(error):
            raise
        reason = one_line(error)
    raise InputError(f"a process that reads data ended ({reason}); use fewer --workers")


Values = dict[str, Tensor | Stream]  # stored ones, by split


class _Batches(Dataset):
    """Batches of a stream by their indices; an error is handed over as a value, since a worker's has a traceback."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream

    def __getitem__(self, index: np.ndarray) -> Tensor | InputError:
        try:
            return self.stream.read(index)
        except InputError as error:
            return error


class _Pieces:
    """The indices of one batch after the other, cut off when they are asked for: of many data these are many."""

    def __init__(self, order: Tensor, batch_size: int) -> None:
        self.order, self.batch_size = order, batch_size

    def __iter__(self) -> Iterator[np.ndarray]:
        for piece in pieces(len(self.order), self.batch_size):
            yield self.order[piece].numpy()

    def __len__(self) -> int:
        return math.ceil(len(self.order) / self.batch_size)


def _leave_signals(worker: int) -> None:
    """Ctrl-C reaches all processes of a terminal: the training process decides, and its workers end with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


class Mapped(Stream):
    """The array in a .npy file, never unpickled; only the rows asked for are read."""

    def __init__(self, path: Path, workers: int = 0, *, missing: bool = False) -> None:
        self.path, self.workers, self.missing = Path(path), workers, missing
        self.shape = self._array().shape

    def _array(self) -> np.ndarray:
        with reading_npy(self.path) as file:
            _, dtype = read_header(file)
            check_numbers(str(self.path), dtype)
            return np.lib.format.open_memmap(self.path, mode="r")

    def read(self, index: np.ndarray) -> Tensor:
        array = self._array()
        request(array, index)
        return stored(str(self.path), array[index], index, missing=self.missing)


def request(array: np.ndarray, index: np.ndarray) -> None:
    """Have the system read some rows of a mapped file, all at once and little beside them.

    It would read them one after the other otherwise, when each is touched, and with each as much of the file around it
    as it reads ahead of a program that takes all in order, up to some megabytes.
    """
    source: Any = array.base
    if not hasattr(source, "madvise") or not array.flags.c_contiguous or not index.size:
        return

    # Where the rows lie in what is mapped, from the page in which each begins.
    rows, width = np.unique(index.ravel() % len(array)), array.strides[0]
    places = array.offset % mmap.ALLOCATIONGRANULARITY + rows * width  # type: ignore[attr-defined]
    starts, ends = places // mmap.PAGESIZE * mmap.PAGESIZE, places + width

    # Neighbours are asked for together.
    apart = np.flatnonzero(starts[1:] - ends[:-1] > GAP)
    starts, ends = starts[[0, *apart + 1]], ends[[*apart, -1]]
    source.madvise(mmap.MADV_RANDOM)
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        for piece in range(start, end, REQUEST):
            source.madvise(mmap.MADV_WILLNEED, piece, min(REQUEST, end - piece))


def stored(
    name: str,
    array: np.ndarray,
    index: np.ndarray | None = None,
    *,
    missing: bool = False,
) -> Tensor:
    """Numbers as they are kept: float32 or float64, bytes, or int64; `index` are the rows' numbers in the file.

    With `missing` a real may be nan, of which one kind is kept.

    Raises:
        InputError: for what is not a number, not finite or too large, naming the row.
    """
    check_numbers(name, array.dtype)
    if array.dtype.kind == "f":
        array = array.astype(np.float32 if array.dtype.itemsize < 8 else np.float64)
        lost, absent = ~np.isfinite(array), np.isnan(array)
        if missing:
            array[absent] = np.nan
            lost &= ~absent
        if lost.any():
            row = int(np.argwhere(lost)[0][0])
            way = "; if it is missing, add --missing keep" if absent[row].any() else ""
            row = row if index is None else int(index[row])
            raise InputError(
                f"{name} holds a value that is missing or infinite in datum {row} (counted from 0){way}"
            )
    elif array.dtype == bool:
        array = array.astype(np.uint8)
    elif array.dtype == np.uint64 and array.max(initial=0) >= 2**63:
        raise InputError(
            f"{name} holds uint64 values above {2**63 - 1}, which are too large"
        )
    elif array.dtype != np.uint8:
        array = array.astype(np.int64)
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))


class Derived(Stream):
    """What is made of another stream as that is read."""

    def __init__(self, of: Stream, shape: tuple[int, ...]) -> None:
        self.of, self.shape, self.workers, self.on_disk = (
            of,
            shape,
            of.workers,
            of.on_disk,
        )


class StreamRows(Derived):
    """Some of the data of another stream."""

    def __init__(self, of: Stream, index: np.ndarray) -> None:
        super().__init__(of, (len(index), *of.shape[1:]))
        self.index = index

    def read(self, index: np.ndarray) -> Tensor:
        return self.of.read(self.index[index])


def pieces(
    size: int, batch_size: int, order: Tensor | None = None
) -> Iterator[slice | Tensor]:
    """What names the data of one batch after the other, of all `size` as they stand or of those of `order`."""
    if order is not None:
        yield from order.split(batch_size)
        return
    for start in range(0, size, batch_size):
        yield slice(start, start + batch_size)


def batches(
    x: Any, batch_size: int, order: Tensor | None = None, *, later: bool = False
) -> Iterator[Any]:
    """The data in batches, all of them as they stand or those of `order`; data that can read ahead do.

    With `later` a batch may be a `Later`, which makes it where it is used.
    """
    if hasattr(x, "batches"):
        read = x.later if later and hasattr(x, "later") else x.batches
        yield from read(torch.arange(len(x)) if order is None else order, batch_size)
        return
    if order is not None:
        order = order.to(getattr(x, "device", "cpu"))
    for piece in pieces(len(x), batch_size, order):
        rows = isinstance(x, Tensor) and isinstance(piece, Tensor)
        yield x.index_select(0, piece) if rows else x[piece]


def chunks(values: Any) -> Iterator[Tensor]:
    """All data in order, `CHUNK` elements at a time; those on disk are read ahead."""
    return batches(values, max(1, CHUNK // math.prod(values.shape[1:])))


def stays_on_disk(size: int, wanted: bool | None) -> bool:
    """Whether data of `size` bytes are streamed: as `wanted`, or by the memory available."""
    return size > SHARE * available_memory() if wanted is None else wanted
