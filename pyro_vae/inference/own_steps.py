"""Loss and gradients of a pair of this package, whose parameters live in its modules."""

from collections.abc import Callable, Collection, Hashable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import pyro
import pyro.infer
import torch
from torch import Tensor, nn

from pyro_vae.data.fields import parts_of
from pyro_vae.engine.compiled import made, restored
from pyro_vae.foundation.abstract import (
    forked_random,
    labelled,
    local_parameters,
    localise,
    traced,
)
from pyro_vae.foundation.errors import InputError
from pyro_vae.inference.objectives import ELBO, Objective
from pyro_vae.inference.pyro_steps import Used, attributes
from pyro_vae.inference.records import as_laid_out, record
from pyro_vae.inference.terms import Program, Terms
from pyro_vae.models.conditionals import Moved
from pyro_vae.models.program import named


class _Part(NamedTuple):
    """A loss summed over a batch, and the places of the parameters that follow its gradient."""

    loss: Tensor
    places: list[int]


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
        programs: list[Any] = [model, guide]
        if isinstance(loss, Objective):
            loss.connect(model, guide)
            programs.append(loss.learned)
        self._programs: list[nn.Module] = [
            p for p in programs if isinstance(p, nn.Module)
        ]
        named = [
            entry for program in self._programs for entry in program.named_parameters()
        ]
        self._own: dict[Tensor, str] = {parameter: name for name, parameter in named}
        self._parameters = list(self._own)
        self._moving = set(self._parameters if only is None else only)
        self._modules = [
            module for program in self._programs for module in program.modules()
        ]
        self._buffers = self._found_buffers()
        self._moved = guide if isinstance(guide, Moved) else None
        self._of_model = {*model.parameters()} if self._moved is not None else set()
        if self._moved is not None and self._moved.start is None:
            _check_unguided(loss)
        self.checked = False  # whether the loss was held against what the pair offers
        self.validated = False  # whether a step was run with Pyro's validation
        self.labelled = False  # whether all data of a step have a label

    def parameters(self) -> list[Tensor]:
        """Those of both modules, in an order that stays."""
        return self._parameters

    def names(self) -> dict[Tensor, str]:
        """The name of each parameter."""
        return self._own

    def buffers(self) -> list[Tensor]:
        """Of both modules."""
        # Chains are laid out for each batch.
        return self._found_buffers() if self._moved is not None else self._buffers

    def _found_buffers(self) -> list[Tensor]:
        return list(dict.fromkeys(b for p in self._programs for b in p.buffers()))

    def modules(self) -> list[nn.Module]:
        """Both, and all that are in them."""
        return self._modules

    def state(self) -> tuple[list[Tensor], Hashable]:
        """What a step reads beside its arguments: tensors, and a value of all else."""
        tensors, others = attributes(self._loss)
        modes = [module.training for module in self._modules]
        constants = (self.labelled, *modes, *others)
        return [*self._parameters, *self.buffers(), *tensors], constants

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
        with local_parameters(), validation, labelled(self.labelled):
            t, *parts = self._parts(args, kwargs)
        self.validated = True
        gradients: dict[int, Tensor] = {}
        losses = [part.loss if rows is None else part.loss / rows for part in parts]
        for loss, part in zip(losses, parts, strict=True):
            gradients |= self._gradients(loss, part.places)
        values, sites = record(losses[0].detach(), t)
        moved = tuple(sorted(gradients))
        found = [gradients[i] for i in moved]
        return [values, *found], Used(0, sites, moved, moved)

    def _gradients(self, loss: Tensor, places: list[int]) -> dict[int, Tensor]:
        """The gradients of a loss in the parameters at some places that it depends on."""
        if not loss.requires_grad or not places:
            return {}
        wanted = [self._parameters[i] for i in places]
        found = torch.autograd.grad(loss, wanted, allow_unused=True)
        return {
            i: as_laid_out(g, p)
            for i, g, p in zip(places, found, wanted, strict=True)
            if g is not None
        }

    def _parts(
        self, args: Any, kwargs: Any
    ) -> "tuple[Terms | None, *tuple[_Part, ...]]":
        """The terms of the loss, and the losses: the first goes into the record."""
        moving = [
            i
            for i, p in enumerate(self._parameters)
            if p.requires_grad and p in self._moving
        ]
        if self._moved is None:
            loss, t = self._evaluate(args, kwargs)
            return t, _Part(loss, moving)

        # The model follows draws that were moved, the guide its objective.
        of_model = [i for i in moving if self._parameters[i] in self._of_model]
        if self._moved.start is None:
            return None, _Part(self._of_chains(args, kwargs), of_model)
        loss, t = self._evaluate(args, kwargs)
        of_guide = [i for i in moving if i not in of_model]
        of_chains = self._of_chains(args, kwargs)
        return t, _Part(loss, of_guide), _Part(of_chains, of_model)

    def _of_chains(self, args: Any, kwargs: Any) -> Tensor:
        """Minus log p(x, z') at moved draws, summed over the batch."""
        guide: Any = self._moved
        with self._precision(args):
            return -guide.gain(named(args[0], kwargs)).sum()

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
        with traced(), forked_random(), restored(self.buffers()):
            self.differentiate((batch(),), {})
        self.validated = validated

    def _evaluate(self, args: Any, kwargs: Any) -> tuple[Tensor, Terms | None]:
        with self._precision(args):
            return self._plainly(args, kwargs)

    def _precision(self, args: Any) -> AbstractContextManager[Any]:
        """In which the networks compute."""
        if self._autocast is None:
            return nullcontext()
        return torch.autocast(parts_of(args)[0].device.type, dtype=self._autocast)

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


def _check_unguided(loss: Any) -> None:
    """Refuse objectives that would change nothing, where there is no guide to learn by them."""
    if isinstance(loss, Objective) and type(loss) is not ELBO:
        raise InputError(
            f"{type(loss).__name__} is what a guide learns by, and Moved(guide=None) has none: its model learns by "
            "chains alone; leave the objective out"
        )
