"""How a program ends when it is interrupted, and when nobody takes what it prints; imported before everything else."""

import errno
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from types import FrameType
from typing import Any

from pyro_vae.foundation.launch import is_onlooker, nowhere

INTERRUPTED = 130  # exit codes
READER_GONE = 141
POLITE = (signal.SIGINT, signal.SIGTERM)


def at_once(name: str) -> None:
    """Until `interruptible`, Ctrl-C and a polite kill end the program there and then: there is nothing to save.

    Imports take seconds, and what is raised inside them comes out as errors of all kinds. Descriptors that the caller
    closed are opened to nothing, lest a file of the run gets the number to which libraries print. Of several
    processes the first alone prints.
    """

    def end(number: int, frame: FrameType | None) -> None:
        if not is_onlooker():
            with suppress(OSError):
                os.write(2, f"{name}: interrupted\n".encode())
        os._exit(INTERRUPTED)

    for number in POLITE:
        signal.signal(number, end)
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
    sys.stdout, sys.stderr = sys.stdout or nowhere(), sys.stderr or nowhere()
    if is_onlooker():
        sys.stdout, sys.stderr = nowhere(), nowhere()


@contextmanager
def interruptible(*, asked: int = 0) -> Iterator[list[int]]:
    """Ctrl-C and a polite kill raise `KeyboardInterrupt`, a second one ends the process; gives the signals heard.

    The first `asked` of them only ask, and do not raise.
    """
    heard: list[int] = []
    owner = os.getpid()

    def handle(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:  # a worker: its parent decides
            if number == signal.SIGTERM:
                os._exit(128 + number)
            return
        if len(heard) > asked:
            os._exit(INTERRUPTED)
        heard.append(number)
        if len(heard) > asked:
            raise KeyboardInterrupt

    with answered(handle):
        yield heard


def asking() -> AbstractContextManager[list[int]]:
    """Ctrl-C and a polite kill only ask: the list gets the signal. A second raises, and a third ends the process."""
    return interruptible(asked=1)


@contextmanager
def answered(handle: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Ctrl-C and a polite kill call `handle`; in the main thread, which alone hears them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handle) for number in POLITE}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Output:
    """Standard output that a program outlives: after a write that fails, what is printed is dropped.

    Attributes:
        error: why nothing more is written, if so.
    """

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.error: Exception | None = None

    def write(self, text: str) -> int:
        self._attempt(lambda: self.stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._attempt(self.stream.flush)

    def look(self) -> None:
        """Find out whether the reader of a pipe has gone, without writing to it; where the system can tell."""
        if self.error is not None:
            return
        with suppress(OSError, ValueError, AttributeError):
            poll = select.poll()
            poll.register(self.stream.fileno(), 0)
            if any(event & select.POLLERR for _, event in poll.poll(0)):
                self.error = BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

    def _attempt(self, action: Any) -> None:
        if self.error is not None:
            return
        try:
            action()
        except (OSError, ValueError) as error:
            closed = getattr(self.stream, "closed", False)
            if isinstance(error, ValueError) and not closed:
                raise  # such as a character that the terminal does not have
            self.error = error

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextmanager
def lasting_output() -> Iterator[Output]:
    """Standard output as an `Output`."""
    before = sys.stdout
    output = Output(before)
    sys.stdout = output  # type: ignore[assignment]
    try:
        yield output
    finally:
        output.flush()
        sys.stdout = before
        if output.error is not None:
            _silence(before)


def _silence(stream: Any) -> None:
    """Let what is left in the stream go nowhere, instead of failing once more at the end of the process."""
    with suppress(OSError, ValueError, AttributeError):
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, stream.fileno())
        os.close(nothing)


def reader_gone(*, look: bool = False) -> bool:
    """Whether nobody reads what is printed any more, as after `| head`: a write has failed, or with `look` would."""
    if look and isinstance(sys.stdout, Output):
        sys.stdout.look()
    return isinstance(getattr(sys.stdout, "error", None), BrokenPipeError)
