"""Training by several processes together: what can be shared among them, and whether their weights stay the same."""

import hashlib
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vae.engine.processes import Exchange, here
from pyro_vae.foundation.abstract import forked_random
from pyro_vae.foundation.errors import InputError
from pyro_vae.inference.svi import SVI
from pyro_vae.models.conditionals import Moved


def join(svi: SVI, data: Any, batch_size: int) -> Exchange:
    """Let a step be that of all processes together; with one it stays as it is.

    Args:
        svi: the step.
        data: training data.
        batch_size: data in a step, of all processes together.

    Raises:
        InputError: for more processes than data in a step, and for a pair or an objective whose steps look at the whole
            batch, of which a process sees its share.
    """
    processes = here()
    exchange = Exchange(processes, batch_size)
    svi.exchange = exchange if processes.several else None
    if processes.several:
        _check(svi, data, batch_size)
    return exchange


def _check(svi: SVI, data: Any, batch_size: int) -> None:
    world = here().world
    if world > batch_size:
        raise InputError(
            f"{world} processes share a batch of {batch_size} data: take a larger --batch-size, or fewer processes"
        )
    alone = "one process sees only its share of the batch: train in one process"
    if getattr(svi.objective, "across_data", False):
        name = type(getattr(svi.objective, "objective", svi.objective)).__name__
        raise InputError(
            f"{name} looks at all data of a batch together, and {alone}, or take another objective, such as elbo"
        )
    if isinstance(svi.guide, Moved):
        raise InputError(
            f"Moved adapts its moves to all data of a batch, and {alone}, or take another guide"
        )
    with forked_random():  # data may be drawn anew at each visit
        few = data[torch.arange(min(len(data), 4))]
    if changed := svi.changes(few):
        raise InputError(
            f"{', '.join(changed[:3])}{' and more' if changed[3:] else ''} of the pair follows all data of a batch, as "
            f"batch normalisation and codebooks do, and {alone}, or without such parts"
        )


def equalise(svi: SVI) -> None:
    """Let the weights of all processes be those of the first."""
    if here().several:
        here().equalise(_state(svi))


def compare(svi: SVI) -> None:
    """Raise `InputError` unless weights, averages and the optimizer's state are the same bits in all processes."""
    if not here().several:
        return
    found = hashlib.blake2b(digest_size=16)
    for tensor in _state(svi):
        content = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8)
        found.update(content.numpy().tobytes())
    here().require_same(
        found.digest(),
        "the weights of the processes are no longer the same: start all on machines of one kind, with one version",
    )


def _state(svi: SVI) -> list[Tensor]:
    """All that steps move, and the buffers."""
    programs = [p for p in (svi.model, svi.guide) if isinstance(p, nn.Module)]
    tensors = [t for p in programs for t in (*p.parameters(), *p.buffers())]
    for values in svi.optimizer.state.values() if svi.has_optimizer else ():
        tensors += [v for v in values.values() if isinstance(v, Tensor)]
    if svi.average is not None:
        tensors += [svi.average.of(t) for t in tensors]
    return list(dict.fromkeys(t for t in tensors if t.numel()))
