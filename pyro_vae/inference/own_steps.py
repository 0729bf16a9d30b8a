"""Loss and gradients of a pair of this package, whose parameters live in its modules."""

from collections.abc import Callable, Collection, Hashable
from contextlib import nullcontext
from typing import Any

import pyro
import pyro.infer
import torch
from torch import Tensor, nn

from pyro_vae.data.fields import parts_of
from pyro_vae.engine.compiled import made, restored
from pyro_vae.foundation.abstract import (
    forked_random,
    local_parameters,
    localise,
    traced,
)
from pyro_vae.inference.objectives import Objective
from pyro_vae.inference.pyro_steps import Used, attributes
from pyro_vae.inference.records import as_laid_out, record
from pyro_vae.inference.terms import Program, Terms


class OwnSteps:
    """The loss of a pair of this package with its gradients, without Pyro's store.

    Args:
        model, guide: programs of this package.
        loss: an `Objective`, or an ELBO of Pyro's with a `differentiable_loss`.
        autocast: as in `SVI`.
        only: the parameters that move; by default all that can.
    """

    def __init__(
        self,
        model: Any,
        guide: Any,
        loss: pyro.infer.ELBO,
        autocast: torch.dtype | None,
        only: Collection[Tensor] | None = None,
    ) -> None:
        self.model: Program = model
        self.guide: Program = guide
        self._loss: Any = loss
        self._autocast = autocast
        localise(model, guide)
        self._programs: list[nn.Module] = [
            p for p in (model, guide) if isinstance(p, nn.Module)
        ]
        self._buffers = list(
            dict.fromkeys(b for p in self._programs for b in p.buffers())
        )
        named = [
            entry for program in self._programs for entry in program.named_parameters()
        ]
        self._own: dict[Tensor, str] = {parameter: name for name, parameter in named}
        self._parameters = list(self._own)
        self._moving = set(self._parameters if only is None else only)
        self._modules = [
            module for program in self._programs for module in program.modules()
        ]
        self.checked = False  # whether the loss was held against what the pair offers
        self.validated = False  # whether a step was run with Pyro's validation

    def parameters(self) -> list[Tensor]:
        """Those of both modules, in an order that stays."""
        return self._parameters

    def names(self) -> dict[Tensor, str]:
        """The name of each parameter."""
        return self._own

    def buffers(self) -> list[Tensor]:
        """Of both modules."""
        return self._buffers

    def modules(self) -> list[nn.Module]:
        """Both, and all that are in them."""
        return self._modules

    def state(self) -> tuple[list[Tensor], Hashable]:
        """What a step reads beside its arguments: tensors, and a value of all else."""
        tensors, others = attributes(self._loss)
        constants = (*(module.training for module in self._modules), *others)
        return [*self._parameters, *self._buffers, *tensors], constants

    @property
    def hooked(self) -> bool:
        """Whether somebody listens to gradients, whom a graph would not tell."""
        return any(p._backward_hooks for p in self._parameters)

    def differentiate(
        self, args: Any, kwargs: Any, rows: int | None = None
    ) -> tuple[list[Tensor], Used]:
        """The values of a `Record`, then the gradients; nothing is added to the gradients of the parameters.

        With `rows` the loss is divided by it.
        """
        args = made(list(args))
        # Validation costs a third of a millisecond: the first step has it as the user set it.
        validation = pyro.validation_enabled(False) if self.validated else nullcontext()
        with local_parameters(), validation:
            loss, t = self._evaluate(args, kwargs)
        self.validated = True
        loss = loss if rows is None else loss / rows
        parameters = [
            (i, p)
            for i, p in enumerate(self._parameters)
            if p.requires_grad and p in self._moving
        ]
        gradients: list[Tensor | None] = [None] * len(parameters)
        if loss.requires_grad:
            wanted = [p for _, p in parameters]
            gradients = list(torch.autograd.grad(loss, wanted, allow_unused=True))
        found = [
            (i, as_laid_out(g, p))
            for (i, p), g in zip(parameters, gradients, strict=True)
            if g is not None
        ]
        values, sites = record(loss.detach(), t)
        moved = tuple(i for i, _ in found)
        return [values, *(g for _, g in found)], Used(0, sites, moved, moved)

    def recorded(self, args: Any, kwargs: Any) -> tuple[Tensor, Used]:
        """The values of a `Record`, without gradients."""
        with torch.no_grad(), local_parameters():
            loss, t = self._evaluate(args, kwargs)
        values, sites = record(loss, t)
        return values, Used(0, sites, (), ())

    def evaluate(self, args: Any, kwargs: Any) -> Tensor:
        """The loss alone."""
        with torch.no_grad(), local_parameters():
            return self._evaluate(args, kwargs)[0]

    def rehearse(self, batch: Callable[[], Tensor]) -> None:
        """Compute loss and gradients of a batch as a graph would, and leave everything as it was."""
        validated = self.validated
        with traced(), forked_random(), restored(self._buffers):
            self.differentiate((batch(),), {})
        self.validated = validated

    def _evaluate(self, args: Any, kwargs: Any) -> tuple[Tensor, Terms | None]:
        if self._autocast is None:
            return self._plainly(args, kwargs)
        with torch.autocast(parts_of(args)[0].device.type, dtype=self._autocast):
            return self._plainly(args, kwargs)

    def _plainly(self, args: Any, kwargs: Any) -> tuple[Tensor, Terms | None]:
        if not isinstance(self._loss, Objective):
            return self._loss.differentiable_loss(
                self.model, self.guide, *args, **kwargs
            ), None
        t = self._loss.terms_of(self.model, self.guide, *args, **kwargs)
        if not self.checked:
            self._loss.check(t)
            self.checked = True
        return self._loss.loss_of(t), t
