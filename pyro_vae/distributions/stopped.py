"""Distributions whose parameters carry no gradient."""

import copy
import functools
from typing import Any

import torch
from torch import Tensor, nn


def stopped(thing: Any) -> Any:
    """A copy of a distribution (or of any part of one) whose parameters carry no gradient."""
    if isinstance(thing, Tensor):
        return thing.detach()
    if type(thing) in (list, tuple):
        return type(thing)(stopped(part) for part in thing)
    if isinstance(thing, dict):
        return {key: stopped(part) for key, part in thing.items()}
    if isinstance(thing, functools.partial):
        return functools.partial(
            stopped(thing.func), *stopped(thing.args), **stopped(thing.keywords)
        )
    if isinstance(owner := getattr(thing, "__self__", None), nn.Module):
        return getattr(stopped(owner), thing.__name__)
    distribution = isinstance(
        thing, torch.distributions.Distribution | torch.distributions.Transform
    )
    if not (
        isinstance(thing, nn.Module)
        or distribution
        or getattr(thing, "has_parameters", False)
    ):
        return thing
    twin = copy.copy(thing)  # less what it remembers of its draws
    twin.__dict__ = {
        k: None if k in ("_drawn", "_inv") else stopped(part)
        for k, part in thing.__dict__.items()
    }
    return twin
