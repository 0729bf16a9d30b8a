"""Files that are whole or absent: each is made in a folder beside its place, then moved there at once."""

import os
import platform
import secrets
import shutil
import signal
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from pyro_vae.foundation.endings import answered
from pyro_vae.foundation.errors import InputError

try:
    import fcntl
except ImportError:
    # Windows, where leftovers of a kill stay until somebody removes them
    fcntl = None  # type: ignore[assignment]

MARK = ".tmp-"  # how the name of a folder begins in which a file is under way
# the file that another takes the place of, while it can still come back
BEFORE = ".before"
LOCK = ".lock"  # the file in it that tells whether its process lives
# /dev/stdout, /dev/null: nothing is moved there
DEVICES = ("/dev", "/dev/fd", "/proc/self/fd")

Write = Callable[[Path], Any]


def write_atomically(path: Path, write: Write) -> None:
    """Let `write` make a file, and put it at `path` in one move: a reader sees the old file or the new one, never half.

    What `write` is called with is a path of the same name in a new folder beside `path`, of a random name, which is
    removed when anything fails. A link at `path` is replaced, and what it points to stays.
    """
    with together() as put:
        put(path, write)


@contextmanager
def together() -> Iterator[Callable[[Path, Write], None]]:
    """Files that belong to each other: made one by one, and put in place when all of them are made, or none.

    Gives a function of a path and of what writes it, as `write_atomically` is. Where one of them cannot be put in its
    place, those before it are taken back.
    """
    made: list[tuple[Path, Path]] = []
    with ExitStack() as stack:

        def put(path: Path, write: Write) -> None:
            if is_device(path):
                write(path)
                return
            with _named(path):
                beside = stack.enter_context(_workshop(path.parent)) / path.name
                write(beside)
            made.append((beside, path))

        yield put
        if made:
            with _undisturbed(made[0][1].parent):
                _put_in_place(made)


def _put_in_place(made: Sequence[tuple[Path, Path]]) -> None:
    """Move each file from beside its place into it; where one cannot be moved, all are as before."""
    moved: list[tuple[Path, Path | None]] = []
    try:
        for beside, path in made:
            with _named(path):
                several = len(made) > 1
                before = _kept(path, beside.with_name(BEFORE)) if several else None
                os.replace(beside, path)
            moved.append((path, before))
    except BaseException:
        for path, before in reversed(moved):
            with suppress(OSError):
                path.unlink() if before is None else os.replace(before, path)
        raise


def _kept(path: Path, name: Path) -> Path | None:
    """A second name for what is at `path`, by which it outlives its place there; `None` where there is nothing."""
    if not os.path.lexists(path):
        return None
    try:
        os.link(path, name, follow_symlinks=False)
    except OSError:  # a file system without second names
        shutil.copy2(path, name, follow_symlinks=False)
    return name


def require_writable(folder: Path) -> None:
    """Raise `OSError` where no file can be made in a folder, before the work whose files go there."""
    with _named(folder), _workshop(folder):
        pass


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """What fails inside, such as a full disk, names the file that was wanted, and not the one under way."""
    try:
        yield
    except OSError as error:
        if error.filename is None or MARK in str(error.filename):
            error.filename, error.filename2 = str(path), None
        raise


def subfolder(folder: Path, name: str) -> Path:
    """The folder `name` inside a run folder, made if need be; a link is refused, as by `refuse_link`."""
    path = folder / name
    refuse_link(path)
    path.mkdir(parents=True, exist_ok=True)
    return path


def refuse_link(path: Path) -> None:
    """Raise `InputError` for a folder inside a run that is a link, because it leads outside the run."""
    if path.is_symlink():
        raise InputError(
            f"{path} is a link to {os.readlink(path)}, and nothing is written through links inside a run; remove it"
        )


def sweep(folder: Path) -> None:
    """Remove the unfinished files of processes that were killed; those of living ones are locked, and stay."""
    with suppress(OSError):
        for path in [*folder.iterdir()]:
            if path.name.startswith(MARK) and not path.is_symlink():
                with suppress(OSError):
                    _remove_unless_locked(path)


def _remove_unless_locked(workshop: Path) -> None:
    lock = workshop / LOCK
    if fcntl is None:
        return
    if not lock.exists():
        workshop.rmdir()  # which only an empty folder allows
        return
    descriptor = os.open(lock, os.O_RDWR | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(workshop)
    finally:
        os.close(descriptor)


def is_device(path: Path) -> bool:
    """Whether there is something at `path` that takes bytes and is no file, such as a pipe."""
    if str(path.parent) in DEVICES:
        return True
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


@contextmanager
def _workshop(folder: Path) -> Iterator[Path]:
    """A new folder in `folder` for a file under way; it is locked as long as it is needed, and then removed."""
    sweep(folder)
    workshop, descriptor = _new(folder)
    try:
        yield workshop
    finally:
        shutil.rmtree(workshop, ignore_errors=True)
        os.close(descriptor)


def _new(folder: Path) -> tuple[Path, int]:
    while True:
        workshop = folder / f"{MARK}{secrets.token_hex(8)}"
        workshop.mkdir()
        try:
            new = os.O_CREAT | os.O_EXCL | os.O_RDWR
            descriptor = os.open(workshop / LOCK, new, 0o600)
        except FileNotFoundError:  # swept away in the moment before
            continue
        with suppress(OSError):  # a file system without locks
            if fcntl is not None:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return workshop, descriptor
        os.close(descriptor)


@contextmanager
def _undisturbed(folder: Path) -> Iterator[None]:
    """Neither a signal nor another process that puts files into `folder` comes in between."""
    with deferred_signals(), _turn(folder):
        yield


@contextmanager
def deferred_signals() -> Iterator[None]:
    """Ctrl-C and a polite kill are heard after the block."""
    heard: list[int] = []
    try:
        with answered(lambda number, frame: heard.append(number)):
            yield
    finally:
        for sent in heard:
            signal.raise_signal(sent)


@contextmanager
def _turn(folder: Path) -> Iterator[None]:
    if fcntl is None:
        yield
        return
    with ExitStack() as stack:
        # a file system without locks, or a folder that cannot be listed
        with suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY)
            stack.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield


_taken: set[Path] = set()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One process at a time writes a run: another is refused, and a lock that a kill left behind counts for nothing.

    Raises:
        InputError: when the run is being written.
    """
    place = folder.resolve()
    if place in _taken:
        raise InputError(
            f"{folder} is being trained in this process; wait until that ends"
        )
    _taken.add(place)
    try:
        with _lock_file(folder):
            yield
    finally:
        _taken.discard(place)


def holder(folder: Path) -> str | None:
    """Who trains a run at this moment, as `locked` writes it down; `None` where nobody does, or none can tell."""
    if folder.resolve() in _taken:
        return f"process {os.getpid()} on {platform.node()}"
    if fcntl is None:
        return None
    try:
        with (folder / LOCK).open(encoding="utf-8", errors="replace") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                return file.read(200).strip() or "another process"
    except OSError:  # no such file, or a file system without locks
        pass
    return None


@contextmanager
def _lock_file(folder: Path) -> Iterator[None]:
    path = folder / LOCK
    no_link = getattr(os, "O_NOFOLLOW", 0)
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR | no_link, 0o666)
    try:
        try:  # a lock of this process alone, which its workers do not inherit
            if fcntl is not None:
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            written = os.read(descriptor, 200).decode(errors="replace").strip()
            holder = written or "another process"
            raise InputError(
                f"{holder} is training {folder} at this moment; wait until it ends, or stop it"
            ) from None
        except OSError:  # a file system without locks
            pass
        os.truncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {platform.node()}".encode())
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
    finally:
        os.close(descriptor)
