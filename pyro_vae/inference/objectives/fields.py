"""Objectives for data of several fields."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vae.foundation.checks import NotNegative
from pyro_vae.foundation.errors import InputError
from pyro_vae.foundation.layout import Layout
from pyro_vae.inference.objectives.base import Objective
from pyro_vae.inference.objectives.bounds import ELBO
from pyro_vae.inference.terms import Program, Terms


class Subsets(Objective):
    """Another objective of all fields, and beside it that of some: `L(x) + weight L(x_S)`, S drawn for each datum anew.

    Fields that are always there together never teach a guide what one of them says alone, and its draws given one field
    are then poor. S is a part of the fields that are there, any one with equal probability, neither none nor all of
    them. Both terms are bounds of the same model, on `log p(x)` and `log p(x_S)`; what is reported while training is
    the ELBO of all fields.

    Args:
        objective: the objective, or a class whose default arguments will do.
        weight: of the second term.

    Raises:
        InputError: for what is no objective of this package, and (when training starts) for a pair without fields.

    Source: Wu & Goodman 2018, Multimodal Generative Models for Scalable Weakly-Supervised Learning, section 2.2.
    """

    def __init__(
        self,
        *,
        objective: Objective | Callable[[], Objective] = ELBO,
        weight: NotNegative = 1.0,
    ) -> None:
        inner = objective if isinstance(objective, Objective) else objective()
        if not isinstance(inner, Objective):
            raise InputError(
                f"Subsets wraps an Objective of this package, not {type(inner).__name__}"
            )
        super().__init__(num_particles=inner.num_particles)
        self.objective, self.weight = inner, weight
        self.own_bound, self.across_data = inner.own_bound, inner.across_data
        self.takes_shares = inner.takes_shares

    @property
    def plain(self) -> Objective:
        return self.objective.plain

    @property
    def learned(self) -> nn.Module | None:
        return self.objective.learned

    def connect(self, model: Program, guide: Program) -> None:
        self.objective.connect(model, guide)

    def settled(self, epoch: float) -> bool:
        return self.objective.settled(epoch)

    def check(self, t: Terms) -> None:
        self.objective.check(t)

    def prepare(self, size: int, epochs: int) -> None:
        self.objective.prepare(size, epochs)

    def advance(self, epoch: float) -> None:
        self.objective.advance(epoch)

    def bound(self, t: Terms) -> Tensor:
        return self.objective.bound(t)

    def terms_of(
        self, model: Program, guide: Program, *args: Any, **kwargs: Any
    ) -> Terms:
        layout = getattr(model, "fields", None)
        if layout is None:
            raise InputError(
                "Subsets leaves out fields of the data, and the data are one: take ELBO, or name several fields"
            )
        t = self.objective.terms_of(model, guide, *args, **kwargs)
        first, *others = args
        some = _without_some(first, layout)
        fewer = self.objective.terms_of(model, guide, some, *others, **kwargs)
        aim = self.weight * self.objective.gain_of(fewer)
        return t._replace(aim=aim if t.aim is None else t.aim + aim)

    def gain_of(self, t: Terms) -> Tensor:
        return self.objective.gain_of(t)


def _without_some(data: Any, layout: Layout) -> Any:
    """Data with a part of the fields of each datum, drawn anew."""
    if isinstance(data, Mapping):
        return {**data, "x": _without_some(data["x"], layout)}
    keep = drawn_subset(layout.seen(data))
    return layout.kept(data, keep)


def drawn_subset(seen: Tensor) -> Tensor:
    """Of the fields that are there, `(N, fields)` booleans, a part, neither none nor all of them, each equally likely.

    Where only one is there it stays.
    """
    count = seen.sum(1, keepdim=True)
    # A number from 1 to 2^count - 2, whose bits say which of the fields that are there stay.
    parts = (torch.ones_like(count) << count) - 2
    number = (torch.rand(len(seen), 1, device=seen.device) * parts).long() + 1
    place = seen.long().cumsum(1) - 1
    chosen = ((number >> place.clamp_min(0)) & 1).bool() & seen
    return torch.where(count > 1, chosen, seen)
