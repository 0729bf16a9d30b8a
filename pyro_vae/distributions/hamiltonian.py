"""Moves of many chains at once that leave a density as it is: Hamiltonian Monte Carlo."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

# Acceptance to tune for: Beskos et al. 2013, Optimal Tuning of the Hybrid Monte Carlo Algorithm.
TARGET = 0.65
RATE = 0.2  # by which a step length follows how much was accepted


class Place(NamedTuple):
    """Where chains are: z `(C, B, D)`, the log-density there `(C, B)`, and its gradient `(C, B, D)`."""

    z: Tensor
    log_density: Tensor
    gradient: Tensor


Where = TypeVar("Where", bound=tuple[Tensor, ...])


class Moved(NamedTuple):
    """Where a move led.

    Attributes:
        place: the new place, or the old one where the move was not taken.
        accepted: whether it was taken, `(C, B)` booleans.
        gain: the change of log-density and momentum together, `(C, B)`: 0 but for the error of the steps.
    """

    place: Any
    accepted: Tensor
    gain: Tensor


def hamiltonian_move(
    here: Where,
    look: Callable[[Tensor], Where],
    step: Tensor,
    leapfrogs: int,
    *,
    density: Callable[[Where], Tensor] = lambda place: place[1],
    gradient: Callable[[Where], Tensor] = lambda place: place[2],
) -> Moved:
    """One Hamiltonian move of each chain, `leapfrogs` steps of length `step`, after which it is taken or not.

    Args:
        here: where the chains are: a named tuple of tensors `(C, B)` and `(C, B, D)`, the first of which is z.
        look: makes such a place from other z.
        step: of each datum, `(B,)`.
        leapfrogs: of the move.
        density: the log-density at a place; by default that of a `Place`.
        gradient: its gradient there.

    Source: Neal 2011, MCMC Using Hamiltonian Dynamics.

    >>> _ = torch.manual_seed(0)
    >>> place = normal(torch.zeros(1000, 1, 2))
    >>> for _ in range(20):
    ...     place, accepted, _ = hamiltonian_move(place, normal, torch.full((1,), 0.5), 3)
    >>> bool((place.z.var(0) - 1).abs().max() < 0.2)
    True
    """
    z = here[0]
    step = step[:, None].to(z)
    momentum = torch.randn_like(z)
    energy = density(here) - 0.5 * momentum.square().sum(-1)
    there, p = here, momentum + 0.5 * step * gradient(here)
    for i in range(leapfrogs):
        there = look(there[0] + step * p)
        p = p + (step if i < leapfrogs - 1 else 0.5 * step) * gradient(there)
    gain = density(there) - 0.5 * p.square().sum(-1) - energy
    accepted = torch.rand_like(gain).log() < gain.nan_to_num(-math.inf)
    masks = (
        accepted if t.dim() == accepted.dim() else accepted[..., None] for t in here
    )
    chosen = [
        torch.where(mask, new, old)
        for mask, new, old in zip(masks, there, here, strict=True)
    ]
    return Moved(type(here)(*chosen), accepted, gain)


def first_step(size: int) -> float:
    """The step length to start to tune from, for `size` latents."""
    return 0.5 * max(size, 1) ** -0.25


def jittered(step: Tensor) -> Tensor:
    """Step lengths up to a fifth longer or shorter, `(B,)`: trajectories of one length can come back to their start.

    Source: Neal 2011, as above, section 5.4.2.2.
    """
    return step * (0.8 + 0.4 * torch.rand_like(step))


def tuned(step: Tensor, accepted: Tensor) -> Tensor:
    """Step lengths that are longer where more than `TARGET` was accepted, and shorter where less, `(B,)`.

    Args:
        step: as they are, `(B,)`.
        accepted: the share of accepted moves, `(B,)`.
    """
    return step * (RATE * (accepted - TARGET)).exp()


def normal(z: Tensor) -> Place:
    """The standard normal as a density to move under."""
    return Place(z, -0.5 * z.square().sum(-1), -z)
