"""Several processes of one program, as torchrun starts them: who has which data, and what they tell each other.

All of them do the same, each on its share of the data. What they tell each other goes by `torch.distributed`: on the
CPU by gloo, gradients on GPUs by NCCL. With one process nothing is told, and nothing imported.
"""

import hashlib
import io
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.engine.skipping import Streams, spent
from pyro_vae.foundation.endings import asking
from pyro_vae.foundation.errors import InputError, LostError, one_line
from pyro_vae.foundation.launch import Launch, launch, nowhere

PATIENCE = timedelta(minutes=30)  # how long one waits for another that lives
WRONG = "pyro_vae/wrong"  # counts the processes that end with an error


class Processes:
    """The processes of one program, this one among them.

    Args:
        rank: the number of this one, from 0.
        world: how many there are.
    """

    def __init__(self, rank: int = 0, world: int = 1) -> None:
        self.rank, self.world = rank, world

    @property
    def first(self) -> bool:
        """Whether this one speaks and writes for all."""
        return self.rank == 0

    @property
    def several(self) -> bool:
        """Whether there are others."""
        return self.world > 1

    # Which data are whose.

    def share(self, size: int) -> range:
        """The places of this process in a batch of `size` data: as many as any other has, or one more or less."""
        each, more = divmod(size, self.world)
        start = self.rank * each + min(self.rank, more)
        return range(start, start + each + (self.rank < more))

    def mine(self, order: Tensor, batch_size: int) -> tuple[int, Tensor]:
        """How many data this process has in a whole batch, and which among `order`, which is taken in batches.

        Where it has none in the last batch, it stands in with the first datum of the batch, which counts for nothing.
        """
        if not self.several:
            return batch_size, order
        place, whole = self.share(batch_size), len(order) // batch_size * batch_size
        rows = order[:whole].view(-1, batch_size)[:, place.start : place.stop]
        rest = order[whole:]
        there = self.share(len(rest))
        last = rest[there.start : there.stop] if there else rest[:1]
        return len(place), torch.cat([rows.flatten(), last])

    # What they tell each other.

    def every(self, value: Any) -> list[Any]:
        """What each process gives, in order."""
        if not self.several:
            return [value]
        import torch.distributed as dist

        found: list[Any] = [None] * self.world
        with _answered():
            dist.all_gather_object(found, value)
        return found

    def any(self, flag: bool) -> bool:
        """Whether it holds for one of them."""
        return any(self.every(flag))

    def require_same(self, value: Any, sentence: str) -> None:
        """Raise `InputError` in all of them unless the value is the same in all."""
        values = self.every(value)
        if any(other != values[0] for other in values):
            raise InputError(sentence)

    def total(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The sums of tensors over the processes, in one message; the same bits in all."""
        if not self.several:
            return list(tensors)
        dtype = torch.float32
        for tensor in tensors:
            dtype = torch.promote_types(dtype, tensor.dtype)
        flat = torch.cat([t.detach().reshape(-1).to(dtype) for t in tensors])
        _add_up(flat)
        pieces = flat.split([t.numel() for t in tensors])
        return [
            _as_laid_out(piece, t) for piece, t in zip(pieces, tensors, strict=True)
        ]

    def equalise(self, tensors: Iterable[Tensor]) -> None:
        """Let tensors be those of the first process."""
        if not self.several:
            return
        import torch.distributed as dist

        with torch.no_grad(), _answered():
            for tensor in tensors:
                whole = tensor.detach().contiguous()
                dist.broadcast(whole, 0)
                if whole.data_ptr() != tensor.data_ptr():
                    tensor.copy_(whole)

    @contextmanager
    def jointly(self) -> Iterator[None]:
        """A mistake that one of them finds inside is raised in all of them."""
        mistake = None
        try:
            yield
        except LostError:
            raise
        except (InputError, OSError) as error:
            if not self.several:
                raise
            mistake = str(error)
        if not self.several:
            return
        mistakes = self.every(mistake)
        found = [i for i, text in enumerate(mistakes) if text is not None]
        if found:
            where = f"process {found[0]}: " if found[0] else ""
            raise InputError(f"{where}{mistakes[found[0]]}")

    def in_turn(self, work: Callable[[], Any]) -> Any:
        """What each process makes for itself, on a machine the first one before the others, which find its files."""
        begins = launch().local == 0
        made = None
        with self.jointly():
            made = work() if begins or not self.several else None
        return made if begins or not self.several else work()

    # Random numbers.

    def own_stream(self, *seed: int) -> None:
        """Let random numbers be those of this process; the first goes on with those that it has."""
        if self.rank:
            words = np.random.SeedSequence((*seed, self.rank)).generate_state(1, "u8")
            torch.manual_seed(int(words[0]))

    @contextmanager
    def alike(self) -> Iterator[None]:
        """All draw the numbers of the first process inside, and so do the same; the others have theirs afterwards."""
        if not self.several:
            yield
            return
        own = Streams.now()
        Streams(*self.every(own)[0]).put()
        try:
            yield
        finally:
            if self.rank:
                own.put()

    def streams(self) -> list[Streams]:
        """The states of the random streams of all processes."""
        return self.every(Streams.now()) if self.several else []


ALONE = Processes()
_current: list[Processes] = [ALONE]


def here() -> Processes:
    """The processes that do the work at this moment."""
    return _current[-1]


@contextmanager
def started(device: str) -> Iterator[Processes]:
    """In which the processes that torchrun started work together; with one there is nothing to start.

    Where it ends with an error, one of them says it: the first that found it.

    Raises:
        InputError: where they do not find each other, or for a device that they cannot share.
    """
    found = launch()
    if found.world == 1:
        yield ALONE
        return
    _start(found, device)
    _current.append(Processes(found.rank, found.world))
    try:
        yield here()
    except BaseException:
        with asking():  # torchrun kills this one as soon as another has ended
            if here().several:
                sys.stderr = sys.__stderr__ if _speaks() else nowhere()
        raise
    finally:
        leave()


def _start(found: Launch, device: str) -> None:
    import torch.distributed as dist

    gpu = device in ("auto", "cuda") and torch.cuda.is_available()
    try:
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if gpu else "gloo",
            timeout=PATIENCE,
            rank=found.rank,
            world_size=found.world,
        )
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"the {found.world} processes did not find each other: {one_line(error)}; start them by torchrun"
        ) from error


def leave() -> bool:
    """Let the first process go on by itself; whether this is the first."""
    first = here().first
    if here().several:
        import torch.distributed as dist

        _current.pop()
        with suppress(RuntimeError):
            dist.destroy_process_group()
    return first


@contextmanager
def _answered() -> Iterator[None]:
    """In which a message that is not answered, since another process has ended, is told in a sentence."""
    try:
        yield
    except RuntimeError as error:
        waited = f"did not answer for {PATIENCE.seconds // 60} minutes"
        what = waited if "imed out" in str(error) else "has ended"
        raise LostError(f"another of the {here().world} processes {what}") from error


def _speaks() -> bool:
    """Whether this process is the one to say what went wrong: the first that found it."""
    import torch.distributed as dist

    try:
        store = dist.distributed_c10d._get_default_store()
        return bool(store.add(WRONG, 1) == 1)
    except Exception:  # the process that kept the count has gone
        return here().first


def _add_up(flat: Tensor) -> None:
    import torch.distributed as dist

    with _answered():
        dist.all_reduce(flat)


def _as_laid_out(piece: Tensor, like: Tensor) -> Tensor:
    """A piece of a message in the shape, type and memory layout of the tensor that it stands for."""
    if like.is_contiguous():
        return piece.view(like.shape).to(like.dtype)
    return torch.empty_like(like).copy_(piece.view(like.shape))


class Exchange:
    """What the processes tell each other in each step, in one message: gradients, the record of the step, and flags.

    Gradients and loss are means over the data of a process, and become those over the whole batch. A GPU sends its
    numbers by itself, and what the host knows goes by the host: so nothing waits until a GPU has computed.

    Args:
        processes: which.
        batch_size: data in a step, of all processes together.
        flags: how many flags there are.

    Attributes:
        whole: how many of a whole batch this process has.
    """

    def __init__(
        self, processes: Processes, batch_size: int, *, flags: int = 2
    ) -> None:
        self.processes, self.whole = processes, len(processes.share(batch_size))
        self.weight = 1.0  # the share of the batch that this process has
        self.flags = self.heard = [False] * flags

    def meet(self, size: int) -> int:
        """Say how many data the next batch has, of all processes; the same number."""
        self.weight = len(self.processes.share(size)) / size
        return size

    def signs(self, *flags: bool) -> list[bool]:
        """Give flags for the next step; which of those given before this one held in any process."""
        if not self.processes.several:
            return list(flags)
        self.flags = list(flags)
        return self.heard

    def step(
        self,
        values: Tensor,
        gradients: Sequence[Tensor | None],
        parameters: Sequence[Tensor],
    ) -> tuple[Tensor, list[Tensor | None]]:
        """The record and the gradients of the whole batch, the same bits in all processes.

        Args:
            values: a record, a mean and then sums.
            gradients: of each parameter; `None` where it has none.
            parameters: all of them.
        """
        factors = torch.full_like(values, float(self.weight > 0))
        factors[0] = self.weight
        pairs = zip(gradients, parameters, strict=True)
        every = [torch.zeros_like(p) if g is None else g for g, p in pairs]
        parts = [self._weighed(values, factors)]
        parts += [self._weighed(gradient, self.weight) for gradient in every]
        there = [gradient is not None for gradient in gradients]
        notes = torch.tensor([*self.flags, *there], dtype=torch.float32)
        if values.is_cuda:
            parts = self.processes.total(parts)
            notes = self.processes.total([notes])[0]
        else:
            *parts, notes = self.processes.total([*parts, notes])
        said = (notes > 0).tolist()
        self.heard, used = said[: len(self.flags)], said[len(self.flags) :]
        first, *found = parts
        return first, [g if use else None for g, use in zip(found, used, strict=True)]

    def sums(self, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Sums over the data of a process, as those over the whole batch."""
        mine = [v if self.weight else torch.zeros_like(v) for v in found.values()]
        return dict(zip(found, self.processes.total(mine), strict=True))

    def _weighed(self, tensor: Tensor, factor: Any) -> Tensor:
        # What is not finite for a datum that counts for nothing counts for nothing either.
        return tensor * factor if self.weight else torch.zeros_like(tensor)


def shared(pieces: Sequence[Any], work: Callable[[Any], Any]) -> list[Any]:
    """`work` of each piece, in order, done by all processes together: to the bit as by one.

    A process goes through the random numbers of the pieces of others without drawing them: as many as the first piece
    took, which all of them do. Where pieces take different numbers of them, all do all pieces.

    Args:
        pieces: of the work, each with a length; all of one length, but for the last.
        work: what is done with each; what it gives is sent to all.

    Raises:
        InputError: where the processes do not ask the same.
    """
    processes = here()
    if not processes.several:
        return [work(piece) for piece in pieces]
    sizes, before = [len(piece) for piece in pieces], Streams.now()
    stands = hashlib.blake2b(before.content, digest_size=8).digest()
    processes.require_same(
        (sizes, stands),
        "the processes came to different questions: start all with one command, on machines of one kind",
    )
    first, rest = [work(piece) for piece in pieces[:1]], pieces[1:]
    after = Streams.now()
    took = spent(before, after)
    if took is None or not rest:
        return first + [work(piece) for piece in rest]

    # Each does its own, and looks whether they took the numbers that the others go by.
    place = processes.share(len(rest))
    took.skip(place.start)
    begun, between, found, whole = Streams.now(), Streams.now(), [], 0
    with processes.jointly():
        for piece in rest[place.start : place.stop]:
            found.append(work(piece))
            if len(piece) == sizes[0]:
                between, whole = Streams.now(), whole + 1
    ended = Streams.now() if place and place.stop == len(rest) else None
    begun.put()
    took.skip(whole)
    foreseen = Streams.now().content == between.content
    told = map(_unpacked, processes.every(_packed((foreseen, ended, found))))
    as_foreseen, ends, parts = zip(*told, strict=True)
    if not all(as_foreseen):
        after.put()
        return first + [work(piece) for piece in rest]
    Streams(*next(end for end in ends if end is not None)).put()
    return first + [part for each in parts for part in each]


def _packed(value: Any) -> bytes:
    """A value with tensors, to be sent."""
    content = io.BytesIO()
    torch.save(value, content)
    return content.getvalue()


def _unpacked(content: bytes) -> Any:
    """The value, what was on a GPU on that of this process."""

    def place(storage: Any, location: str) -> Any:
        return storage.cuda() if location.startswith("cuda") else storage

    return torch.load(io.BytesIO(content), map_location=place, weights_only=False)
