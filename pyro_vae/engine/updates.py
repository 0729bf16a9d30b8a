"""How gradients move parameters: torch optimizers, and those of `pyro.optim` with all that they can do."""

from collections.abc import Callable, Mapping, Sequence
from operator import is_
from typing import Any

import pyro
import pyro.optim
import torch
from torch import Tensor
from torch.optim import Optimizer

from pyro_vae.engine.adam import AdamNormGrad, normalised
from pyro_vae.engine.threads import free_threads, threads
from pyro_vae.foundation.errors import InputError

MakeOptimizer = Callable[[list[Tensor]], Optimizer]


class Updates:
    """The optimizer of a pair, in whatever form it was given.

    Args:
        optim: a torch optimizer, a function from parameters to one, or an optimizer of `pyro.optim`. The last keeps a
            torch optimizer for each parameter, with arguments, clipping and schedule of its own, and saves their state
            by name, as in Pyro.
        at_hand: parameters that a torch optimizer could have been given: those that it was not given are left alone.

    Raises:
        InputError: for anything else.
    """

    def __init__(self, optim: Any, at_hand: Sequence[Tensor] = ()) -> None:
        self._pyro = optim if isinstance(optim, pyro.optim.PyroOptim) else None
        self._single: Optimizer | None = optim if isinstance(optim, Optimizer) else None
        if not (self._pyro or self._single or callable(optim)):
            raise InputError(
                f"optim must be an optimizer or a function that makes one, not {type(optim).__name__}"
            )
        self._make: MakeOptimizer = optim
        self._left_out = (
            set(at_hand) - _in(optim) if isinstance(optim, Optimizer) else set()
        )
        self._added: list[
            Tensor
        ] = []  # the parameters of the last call that were all taken in
        self._together: _Together | None = None
        self._fused: _Fused | None = None
        self._zeros: dict[
            Tensor, tuple[Tensor, int]
        ] = {}  # gradients, and versions of then

    @property
    def single(self) -> Optimizer | None:
        """The torch optimizer for all parameters, if there is one and it exists."""
        return self._single

    @property
    def by_parameter(self) -> bool:
        """Whether each parameter has an optimizer of its own, as in Pyro."""
        return self._pyro is not None

    def add(
        self, parameters: Sequence[Tensor], names: Callable[[], Mapping[Tensor, str]]
    ) -> None:
        """Take in the parameters that are new, with their names."""
        if _are(parameters, self._added):
            return
        if self._pyro is not None:
            known_names = pyro.get_param_store()._param_to_name
            for parameter, name in names().items():
                if parameter not in self._pyro.optim_objs:
                    known_names.setdefault(parameter, name)
            self._added = list(parameters)
            return
        known = set() if self._single is None else _in(self._single)
        self._left_out -= known  # which its owner may have given it since
        wanted = [p for p in parameters if p.requires_grad and p not in self._left_out]
        if self._single is None:
            self._single = self._make(wanted)
            known = _in(self._single)
        if new := [p for p in wanted if p not in known]:
            self._single.add_param_group({"params": new})
        if len(wanted) == len(parameters):  # none is frozen, which may be released
            self._added = list(parameters)

    def step(
        self,
        parameters: Sequence[Tensor],
        gradients: Sequence[Tensor | None],
        *,
        fast: bool,
    ) -> None:
        """Move the parameters by their gradients.

        Args:
            parameters: those that the loss was seen to use.
            gradients: of each; `None` where it has none. Gradients that wait are added. An optimizer of `pyro.optim`
                takes zero for one that had a gradient in an earlier step, whose momentum moves it on, as
                `pyro.infer.SVI` does.
            fast: let one kernel take the steps of all `pyro.optim.Adam`: rounded otherwise in the last digit.
        """
        if self._pyro is not None:
            self._step_each(self._pyro, parameters, gradients, fast=fast)
            return
        if self._single is None:
            raise InputError(
                "the loss uses no parameter that can be trained: let the pair name its networks by pyro.module, or "
                "give modules as model and guide"
            )
        moved, given = self._mine(parameters, gradients)
        if not moved:
            return
        if not self._step_fused(self._single, moved, given):
            accumulate(moved, given)
            self._single.step()
            self._single.zero_grad()

    def _mine(
        self, parameters: Sequence[Tensor], gradients: Sequence[Tensor | None]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """The parameters that have gradients and are not left alone, and these."""
        pairs = zip(parameters, gradients, strict=True)
        mine = [(p, g) for p, g in pairs if g is not None]
        if self._left_out:
            mine = [(p, g) for p, g in mine if p not in self._left_out]
        return [p for p, _ in mine], [g for _, g in mine]

    @torch.no_grad()
    def _step_fused(
        self, optimizer: Optimizer, parameters: list[Tensor], gradients: list[Tensor]
    ) -> bool:
        """Take a step of a fused Adam by its kernel; False, and nothing, where that cannot be."""
        if self._fused is None or not self._fused.is_for(optimizer, parameters):
            try:
                self._fused = _Fused(optimizer, parameters)
            except ValueError:
                return False
        return self._fused.step(gradients)

    def _step_each(
        self,
        optim: pyro.optim.PyroOptim,
        parameters: Sequence[Tensor],
        gradients: Sequence[Tensor | None],
        *,
        fast: bool,
    ) -> None:
        """A step of an optimizer of Pyro's, after which gradients are zero, not absent."""
        if fast and self._step_together(optim, parameters, gradients):
            return
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if gradient is None:
                continue
            waits = parameter.grad is not None and not self._is_zero(parameter)
            parameter.grad = parameter.grad + gradient if waits else gradient  # type: ignore[operator]
        optim(list(parameters))
        for parameter in parameters:
            if parameter.grad is not None:
                self._zero(parameter)

    def _zero(self, parameter: Tensor) -> None:
        zero = parameter.grad = torch.zeros_like(parameter)
        self._zeros[parameter] = zero, zero._version

    def _is_zero(self, parameter: Tensor) -> bool:
        """Whether the gradient is the zero that an earlier step left, to which nobody added."""
        zero, version = self._zeros.get(parameter, (None, 0))
        return zero is not None and parameter.grad is zero and zero._version == version

    @torch.no_grad()
    def _step_together(
        self,
        optim: pyro.optim.PyroOptim,
        parameters: Sequence[Tensor],
        gradients: Sequence[Tensor | None],
    ) -> bool:
        """Take the steps of `pyro.optim.Adam` by one kernel and in their states; False, and nothing, where none can."""
        if any(p.grad is not None and not self._is_zero(p) for p in parameters):
            return False
        given = [
            p.grad if g is None else g
            for p, g in zip(parameters, gradients, strict=True)
        ]
        moved = [p for p, g in zip(parameters, given, strict=True) if g is not None]
        if self._together is None or not self._together.are(moved):
            try:
                self._together = _Together(optim, moved)
            except ValueError:
                return False
        self._together.step([g for g in given if g is not None])
        for parameter in moved:
            if parameter.grad is None:
                self._zero(parameter)
        return True


def _are(some: Sequence[Any], others: Sequence[Any]) -> bool:
    """Whether they are the same objects in the same order."""
    return len(some) == len(others) and all(map(is_, some, others))


def _in(optimizer: Optimizer) -> set[Tensor]:
    """The parameters of a torch optimizer."""
    return {p for group in optimizer.param_groups for p in group["params"]}


def accumulate(parameters: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
    """Add gradients to those that the parameters have."""
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = (
            gradient if parameter.grad is None else parameter.grad + gradient
        )


class _Fused:
    """A fused Adam or `AdamNormGrad`, whose kernel and state are taken without its bookkeeping.

    That takes as long as the kernel on a small network.

    Args:
        optimizer: of all parameters.
        parameters: those that move in a step.

    Raises:
        ValueError: for another optimizer, with several groups, and before the first step.
    """

    def __init__(self, optimizer: Optimizer, parameters: list[Tensor]) -> None:
        self._optimizer, self._parameters = optimizer, parameters
        self._groups, self._state = optimizer.param_groups, optimizer.state
        if (
            type(optimizer) not in (torch.optim.Adam, AdamNormGrad)
            or len(self._groups) > 1
            or len(parameters) < len(self._groups[0]["params"])
        ):
            raise ValueError("another optimizer")
        states: list[Any] = [self._state.get(p) for p in parameters]
        if not all(states):
            raise ValueError("no step was taken")
        self._entries = list(self._state.values())
        self._kernel = _Kernel(parameters, states, _arguments(optimizer))

    def is_for(self, optimizer: Optimizer, parameters: list[Tensor]) -> bool:
        """Whether these are the optimizer and the parameters, and nobody gave it another state since."""
        return (
            optimizer is self._optimizer
            and optimizer.param_groups is self._groups
            and len(self._groups) == 1
            and optimizer.state is self._state
            and _are(list(self._state.values()), self._entries)
            and _are(parameters, self._parameters)
            and self._kernel.is_fresh()
        )

    def step(self, gradients: list[Tensor]) -> bool:
        """Move the parameters; False, and nothing, with hooks and where gradients wait to be added."""
        optimizer, group = self._optimizer, self._groups[0]
        if (
            not group["fused"]
            or group["amsgrad"]
            or optimizer._optimizer_step_pre_hooks
            or optimizer._optimizer_step_post_hooks
            or any(p.grad is not None for p in self._parameters)
            or any(p.dtype != gradients[0].dtype for p in self._parameters)
        ):
            return False
        if isinstance(optimizer, AdamNormGrad):
            gradients = normalised(gradients)
        self._kernel.arguments = _arguments(optimizer)
        self._kernel.step(gradients)
        return True


class _Together:
    """The states of `pyro.optim.Adam`, one torch optimizer for each parameter, that one kernel can move together.

    Args:
        optim: an optimizer of `pyro.optim`.
        parameters: those that move in a step.

    Raises:
        ValueError: for another optimizer, with clipping, hooks or a schedule, and before the first step.
    """

    def __init__(
        self, optim: pyro.optim.PyroOptim, parameters: Sequence[Tensor]
    ) -> None:
        self.parameters = list(parameters)
        self._optimizers: list[Any] = []
        self._states: list[Any] = []
        self._arguments: list[Any] = []
        self._groups: list[tuple[list[int], _Kernel]] = []
        for parameter in parameters:
            optimizer = optim.optim_objs.get(parameter)
            if (
                type(optimizer) is not torch.optim.Adam
                or optim.grad_clip[parameter] is not None
            ):
                raise ValueError("another optimizer")
            group, state = optimizer.param_groups[0], optimizer.state.get(parameter)
            others = group["amsgrad"] or group["capturable"] or group["differentiable"]
            hooks = (
                optimizer._optimizer_step_pre_hooks
                or optimizer._optimizer_step_post_hooks
            )
            if not state or others or hooks or isinstance(group["lr"], Tensor):
                raise ValueError("other arguments")
            self._optimizers.append(optimizer)
            self._states.append((optimizer.state, state))

    def are(self, parameters: Sequence[Tensor]) -> bool:
        """Whether these are the parameters, and nobody loaded other states since."""
        states = zip(self._optimizers, self._states, strict=True)
        return (
            _are(parameters, self.parameters)
            and all(optimizer.state is these for optimizer, (these, _) in states)
            and all(kernel.is_fresh() for _, kernel in self._groups)
        )

    def step(self, gradients: Sequence[Tensor]) -> None:
        """Move the parameters, those with the same arguments at once."""
        arguments = [_arguments(optimizer) for optimizer in self._optimizers]
        if arguments != self._arguments:
            self._arguments, self._groups = arguments, self._grouped(arguments)
        for places, kernel in self._groups:
            kernel.step([gradients[i] for i in places])

    def _grouped(self, arguments: list[Any]) -> list[tuple[list[int], "_Kernel"]]:
        groups: dict[Any, list[int]] = {}
        for i, parameter in enumerate(self.parameters):
            key = (parameter.dtype, parameter.device, arguments[i])
            groups.setdefault(key, []).append(i)
        return [
            (
                places,
                _Kernel(
                    [self.parameters[i] for i in places],
                    [self._states[i][1] for i in places],
                    key[2],
                ),
            )
            for key, places in groups.items()
        ]


def _arguments(optimizer: Any) -> tuple[Any, ...]:
    group = optimizer.param_groups[0]
    return (
        group["lr"],
        group["betas"],
        group["eps"],
        group["weight_decay"],
        group["maximize"],
    )


class _Kernel:
    """The step of Adam for some parameters with their states, all with the same arguments."""

    def __init__(
        self, parameters: list[Tensor], states: list[Any], arguments: tuple[Any, ...]
    ) -> None:
        self._parameters = parameters
        self._states = states
        self._first = [s["exp_avg"] for s in states]
        self._second = [s["exp_avg_sq"] for s in states]
        self._steps = [s["step"] for s in states]
        # A tensor of ones takes a third of the time that a number takes.
        self._ones = [torch.ones_like(self._steps[0])] * len(states)
        self.arguments = arguments

    def is_fresh(self) -> bool:
        """Whether the states hold the tensors that they held, to which nobody gave others."""
        return (
            _are([s["exp_avg"] for s in self._states], self._first)
            and _are([s["exp_avg_sq"] for s in self._states], self._second)
            and _are([s["step"] for s in self._states], self._steps)
        )

    def step(self, gradients: list[Tensor]) -> None:
        rate, betas, eps, weight_decay, maximize = self.arguments
        torch._foreach_add_(self._steps, self._ones)
        with threads(free_threads()):
            torch._fused_adam_(
                self._parameters,
                gradients,
                self._first,
                self._second,
                [],
                self._steps,
                lr=rate,
                beta1=betas[0],
                beta2=betas[1],
                weight_decay=weight_decay,
                eps=eps,
                amsgrad=False,
                maximize=maximize,
            )
