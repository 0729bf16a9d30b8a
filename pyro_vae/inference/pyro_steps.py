"""Loss and gradients of any Pyro pair, as `pyro.infer.SVI` has them."""

from collections.abc import Callable, Hashable
from contextlib import nullcontext
from typing import Any, NamedTuple

import pyro
import pyro.infer
import torch
from pyro import poutine
from pyro.nn import PyroModule
from pyro.ops.provenance import detach_provenance
from torch import Tensor, nn

from pyro_vae.engine.bindings import Bindings
from pyro_vae.engine.compiled import made
from pyro_vae.engine.readings import ReadingError
from pyro_vae.foundation.abstract import AbstractProgram, alone, announced, is_traced
from pyro_vae.inference.objectives import Objective
from pyro_vae.inference.records import as_laid_out, record
from pyro_vae.inference.terms import Program, Terms

LossAndGrads = Callable[..., Any]


class Used(NamedTuple):
    """What a step is about beside its numbers: the same for each call of a graph.

    Attributes:
        losses: how many numbers the loss is; 0 for one that is no tuple.
        sites: the names of a record's sites.
        seen: the places of the parameters that the loss was seen to use.
        moved: the places of those among them that have a gradient.
        replaced: the places of parameters that the step itself sets to another value in Pyro's store, such as the
            decaying averages of `TraceGraph_ELBO`.
    """

    losses: int
    sites: tuple[str, ...]
    seen: tuple[int, ...]
    moved: tuple[int, ...]
    replaced: tuple[int, ...] = ()


class PyroSteps:
    """The loss of any pair with its gradients, by Pyro's rules.

    Parameters are those that the loss is seen to use: of `pyro.param`, `pyro.module`, Pyro modules and AutoGuides, in
    Pyro's store under their names, and those of plain torch modules that are the model or the guide. They are looked up
    at each step, so that a store that was cleared or loaded in between, and parameters that appear late, are followed.

    Args:
        model, guide: any Pyro pair.
        loss: an `Objective`, any `pyro.infer.ELBO`, or a function `loss(model, guide, *args, **kwargs)`.
        loss_and_grads: a function like `loss` that also adds the gradients, in the place of the loss's own.
        autocast: as in `SVI`.
    """

    def __init__(
        self,
        model: Program,
        guide: Program,
        loss: Any,
        loss_and_grads: LossAndGrads | None,
        autocast: torch.dtype | None,
    ) -> None:
        self.model, self.guide = announced(model), announced(guide)
        self._loss: Any = loss
        self._autocast = autocast
        self._loss_and_grads = loss_and_grads
        self._programs = [p for p in (model, guide) if isinstance(p, nn.Module)]
        self._names: dict[str, None] = {}
        self._loose: dict[Tensor, str] = {}
        self._bindings: Bindings | None = None
        self.plain = False  # leave out TorchScript where the loss would compile with it

    def parameters(self) -> list[Tensor]:
        """Those that were seen so far, in an order that stays; `KeyError` where the store was cleared."""
        store = pyro.get_param_store()._params
        return [*[store[name] for name in self._names], *self._loose]

    def names(self) -> dict[Tensor, str]:
        """The name of each parameter."""
        return dict(
            zip(self.parameters(), [*self._names, *self._loose.values()], strict=True)
        )

    def buffers(self) -> list[Tensor]:
        """Of all modules that the pair can reach."""
        modules = self._reached().modules
        return list(
            dict.fromkeys(
                b
                for module in modules
                for b in module._buffers.values()
                if b is not None
            )
        )

    def modules(self) -> list[nn.Module]:
        """All modules that the pair can reach."""
        return self._reached().modules

    def state(self) -> tuple[list[Tensor], Hashable]:
        """What a step reads beside its arguments: tensors, and a value of all else that can be watched."""
        reached = self._reached()
        tensors, others = attributes(self._loss)
        state = [*self.parameters(), *self.buffers(), *reached.tensors(), *tensors]
        # Which Pyro stores around averages.
        state = [detach_provenance(tensor) for tensor in state]
        return list(dict.fromkeys(state)), (reached.plain(), tuple(others))

    @property
    def hooked(self) -> bool:
        """Whether somebody listens to gradients, whom a graph would not tell."""
        return any(p._backward_hooks for p in self.parameters())

    def forget(self) -> None:
        """Look anew for parameters and for what the pair reads: the store was cleared."""
        self._names, self._loose, self._bindings = {}, {}, None

    def differentiate(
        self, args: Any, kwargs: Any, rows: int | None = None
    ) -> tuple[list[Tensor], Used]:
        """The values of a `Record`, the gradients, and the new values of what is replaced in the store.

        Nothing is added to the gradients of the parameters. With `rows` loss and gradients are divided by it.
        """
        args = made(list(args))
        store = pyro.get_param_store()._params
        before = dict(store)
        plain = self._reached().plain() if is_traced() else ()
        known = [*[store[name] for name in self._names if name in store], *self._loose]
        waiting = {p: p.grad for p in [*known, *self._of_modules()]}
        for parameter in waiting:
            parameter.grad = None
        try:
            with alone(), self._lowered(), poutine.trace(param_only=True) as capture:
                loss, t = self._backward(args, kwargs)
            seen, replaced = self._adopt(capture.trace, before)
            values, losses = _as_tensors(loss, next(iter(seen), None))
            sites: tuple[str, ...] = ()
            if losses == 0:
                values, sites = record(values, t)
            places = {p: i for i, p in enumerate(self.parameters())}
            moved = [p for p in seen if p.grad is not None]
            gradients = [as_laid_out(p.grad, p) for p in moved]  # type: ignore[arg-type]
            if rows is not None:
                values = torch.cat([values[:1] / rows, values[1:]])
                gradients = [gradient / rows for gradient in gradients]
            if (
                is_traced()
            ):  # a step whose numbers are not finite is taken by Python, which warns
                total = torch.stack(
                    [values[0], *[g.sum().to(values) for g in gradients]]
                ).sum()
                bool(total.isfinite())
                if label := self._reached().changed(plain):
                    raise ReadingError(f"the pair itself changes {label!r} in a step")
            news = [detach_provenance(store[name]).detach() for name in replaced]
            set_anew = tuple(places[store[name]] for name in replaced)
        finally:
            if is_traced():
                store.update(before)
            for parameter, gradient in waiting.items():
                parameter.grad = gradient
        for parameter in seen:
            if parameter not in waiting:
                parameter.grad = None
        used = Used(
            losses,
            sites,
            seen=tuple(places[p] for p in seen),
            moved=tuple(places[p] for p in moved),
            replaced=set_anew,
        )
        return [values, *gradients, *news], used

    def evaluate(self, args: Any, kwargs: Any) -> Any:
        """The loss alone."""
        with torch.no_grad(), alone(), self._lowered():
            is_elbo = isinstance(self._loss, pyro.infer.ELBO)
            loss: Any = self._loss.loss if is_elbo else self._loss
            return loss(self.model, self.guide, *args, **kwargs)

    def _lowered(self) -> Any:
        if self._autocast is None:
            return nullcontext()
        device = next((p.device.type for p in self.parameters()), "cpu")
        return torch.autocast(device, dtype=self._autocast)

    def _backward(self, args: Any, kwargs: Any) -> tuple[Any, Terms | None]:
        """Add the gradients of the loss to the parameters, and return it."""
        if self._loss_and_grads is not None:
            return self._loss_and_grads(self.model, self.guide, *args, **kwargs), None
        if isinstance(self._loss, Objective):
            t = self._loss.terms_of(self.model, self.guide, *args, **kwargs)
            self._loss.check(t)
            loss = self._loss.loss_of(t)
            if loss.requires_grad:
                loss.backward()  # type: ignore[no-untyped-call]
            return loss.detach(), t
        if isinstance(self._loss, pyro.infer.ELBO):
            elbo: Any = self._loss
            loss_and_grads = _plain(elbo) if self.plain else elbo.loss_and_grads
            return loss_and_grads(self.model, self.guide, *args, **kwargs), None
        return differentiated(self._loss, self.model, self.guide, *args, **kwargs), None

    def _adopt(
        self, trace: poutine.Trace, before: dict[str, Tensor]
    ) -> tuple[list[Tensor], list[str]]:
        """The parameters that a loss was seen to use, of which new ones are remembered.

        Also the names of those that the store holds another tensor for than `before` the step, or than the step read:
        what was read then is nobody's any more.
        """
        store = pyro.get_param_store()
        held = store._params
        replaced = dict.fromkeys(
            n for n, p in before.items() if held.get(n, p) is not p
        )
        seen: dict[Tensor, None] = {}
        for name, site in trace.nodes.items():
            if site["type"] != "param":
                continue
            value: Any = site["value"]
            parameter = (
                value.unconstrained() if hasattr(value, "unconstrained") else value
            )
            if not (isinstance(parameter, Tensor) and parameter.is_leaf):
                continue
            stored = store.param_name(parameter)
            made_now = stored not in before and parameter not in self._loose
            if (
                stored is not None
                and made_now
                and held.get(stored, parameter) is not parameter
            ):
                replaced.setdefault(stored)
            if stored in replaced and before.get(stored, parameter) is parameter:
                continue
            seen[parameter] = None
            if stored is not None and held.get(stored) is parameter:
                self._names.setdefault(stored)
            else:
                self._loose.setdefault(parameter, name)
        for name in replaced:
            self._names.setdefault(name)

        # Of two announced parameters with one name the trace holds one. Where the store holds another layer's under a
        # name, Pyro leaves that of a layer as it is. A Pyro module itself takes what the store holds.
        for name, layer in (
            n for program in self._programs for n in program.named_modules()
        ):
            if isinstance(layer, PyroModule) and not isinstance(layer, AbstractProgram):
                continue
            for leaf, parameter in layer._parameters.items():
                if (
                    parameter is not None
                    and parameter not in seen
                    and parameter.grad is not None
                ):
                    seen[parameter] = None
                    self._loose.setdefault(parameter, f"{name}.{leaf}")
        return list(seen), list(replaced)

    def _of_modules(self) -> list[Tensor]:
        return [p for module in self._programs for p in module.parameters()]

    def _reached(self) -> Bindings:
        if self._bindings is None:
            loss = [] if isinstance(self._loss, pyro.infer.ELBO) else [self._loss]
            self._bindings = Bindings(self.model, self.guide, *loss)
        return self._bindings


def differentiated(loss: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What a function that is a loss returns, with its gradients added to the parameters, as in Pyro."""
    value = loss(*args, **kwargs)
    if getattr(value, "requires_grad", False):
        value.backward(retain_graph=True)
    return value


def attributes(loss: Any) -> tuple[list[Tensor], list[Hashable]]:
    """The tensors among the attributes of an objective and of those that it wraps, and the plain values."""
    tensors: list[Tensor] = []
    others: list[Hashable] = []
    if not isinstance(loss, pyro.infer.ELBO):
        return tensors, others
    for name, value in vars(loss).items():
        if type(value) in (int, float, str, bool):
            others.append((name, value))
        elif isinstance(value, Tensor):
            tensors.append(value)
        elif isinstance(value, pyro.infer.ELBO):
            inner = attributes(value)
            tensors += inner[0]
            others += inner[1]
    return tensors, others


def _plain(loss: pyro.infer.ELBO) -> Callable[..., Any]:
    """What gives a loss with its gradients: where TorchScript compiles it, its plain form, which does the same."""
    plain = next(
        cls for cls in type(loss).__mro__ if not cls.__name__.startswith("Jit")
    )
    return lambda *args, **kwargs: plain.loss_and_grads(loss, *args, **kwargs)  # type: ignore[attr-defined]


def _as_tensors(loss: Any, like: Tensor | None) -> tuple[Tensor, int]:
    """A loss as a tensor without gradient, and how many numbers a tuple of losses has."""
    if isinstance(loss, tuple):
        return torch.stack([_as_tensors(part, like)[0] for part in loss]), len(loss)
    if isinstance(loss, Tensor):
        return loss.detach().reshape(()), 0
    device = torch.device("cpu") if like is None else like.device
    # Pyro adds Python's numbers.
    dtype = torch.float32 if device.type == "mps" else torch.float64
    return torch.tensor(float(loss), dtype=dtype, device=device), 0
