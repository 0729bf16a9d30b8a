"""The files of a run while it trains: a disk that is full for a while costs nothing."""

import os
from collections.abc import Callable
from pathlib import Path

from pyro_vae.foundation.errors import InputError
from pyro_vae.foundation.files import Write, write_atomically


class Keeper:
    """Writes the files of a run; what cannot be written is told once, kept in memory, and tried again with the next.

    Args:
        folder: the run folder.
        begin: called once before the first file is written.
        say: called with a sentence when a file cannot be written.
    """

    def __init__(
        self, folder: Path, begin: Callable[[], None], say: Callable[[str], None]
    ) -> None:
        self.folder, self._say = folder, say
        self._begin: Callable[[], None] | None = begin
        self._waiting: dict[Path, Write] = {}
        self._told = False

    def start(self) -> None:
        """Begin now, where nothing waits for the first checkpoint.

        Raises:
            InputError: when nothing can be written.
        """
        self._started()
        self.finish()

    def put(self, path: Path, write: Write) -> None:
        """Write a file, whole, as `write_atomically` does; in its turn behind those that wait."""
        self._started()
        self._waiting[path] = write
        self._flush()

    def append(self, path: Path, text: str, whole: Write) -> None:
        """Add a line to a file; where that fails, `whole` writes the file with that line later."""
        if not self.begun:
            self.put(path, whole)
            return
        if path not in self._waiting:
            try:
                with path.open("a", newline="") as file:
                    file.write(text)
                return
            except OSError as error:
                self._tell(path, error)
        self._waiting[path] = whole

    def finish(self) -> None:
        """Write what waits.

        Raises:
            InputError: when that fails still.
        """
        if error := self._flush():
            kept = "the checkpoint before it is kept"
            last = self.folder / "last.safetensors"
            kept = (
                f"; {kept}, and --resume goes on from there" if last.is_file() else ""
            )
            raise InputError(f"{error.filename or self.folder}: {_reason(error)}{kept}")

    @property
    def begun(self) -> bool:
        """Whether a file has been written."""
        return self._begin is None

    def has(self, path: Path) -> bool:
        """Whether a file is there, or waits to be written."""
        return path in self._waiting or path.is_file()

    def _started(self) -> None:
        if self._begin is not None:
            begin, self._begin = self._begin, None
            begin()

    def _flush(self) -> OSError | None:
        for path, write in list(self._waiting.items()):
            try:
                write_atomically(path, write)
            except OSError as error:
                self._tell(path, error)
                return error
            del self._waiting[path]
        self._told = False
        return None

    def _tell(self, path: Path, error: OSError) -> None:
        if not self._told:
            self._told = True
            self._say(
                f"{path}: {_reason(error)}; training goes on, what was written before stays, and this is tried again "
                "after each epoch"
            )


def _reason(error: OSError) -> str:
    return error.strerror or (os.strerror(error.errno) if error.errno else str(error))
