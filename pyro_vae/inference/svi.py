"""Stochastic variational inference: one gradient step."""

from collections.abc import Callable
from typing import Any

import pyro.infer
import pyro.optim
import torch
from pyro import poutine
from torch import Tensor, nn
from torch.optim import Optimizer

from pyro_vae._abstract import forked_random, local_parameters, localise
from pyro_vae._errors import InputError
from pyro_vae.inference.importance import Program, Terms, terms
from pyro_vae.inference.objectives import Objective

MakeOptimizer = Callable[[list[Tensor]], Optimizer]


class SVI:
    """One gradient step at a time, with the verbs of `pyro.infer.SVI` and without reading anything back to the host.

    The parameters are those of the modules `model` and `guide`, without the global parameter store; pairs written as
    functions with `pyro.param` and `pyro.module` work too and keep theirs in the store, as in Pyro.

    Args:
        model, guide: any Pyro pair.
        optim: a torch optimizer, a function from parameters to one (`lambda p: torch.optim.Adam(p, lr=1e-3)`), or an
            optimizer of `pyro.optim` with constant arguments.
        loss: an `Objective`, or any `pyro.infer.ELBO`.
        reduction: `'sum'` for the loss summed over the batch, as in Pyro, or `'mean'` for nats per datum.
        autocast: run the networks in this lower precision (`torch.bfloat16`); the parameters keep theirs.

    Raises:
        InputError: for another kind of `loss`, `optim` or `reduction`.

    >>> from pyro_vae import MLP, Bernoulli, MeanField, StandardNormal, VAE
    >>> vae = VAE(StandardNormal(2), MLP((2,), (1, 4)), Bernoulli((4,)), MeanField(MLP((4,)), 2))
    >>> from pyro_vae import ELBO
    >>> svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-3}), ELBO())
    >>> svi.step(torch.ones(8, 4)).shape
    torch.Size([])
    """

    def __init__(
        self,
        model: Program,
        guide: Program,
        optim: Optimizer | MakeOptimizer | pyro.optim.PyroOptim,
        loss: pyro.infer.ELBO,
        *,
        reduction: str = "sum",
        autocast: torch.dtype | None = None,
    ) -> None:
        if not isinstance(loss, pyro.infer.ELBO):
            raise InputError(f"loss must be an Objective or a pyro.infer.ELBO, not {type(loss).__name__}")
        if not hasattr(loss, "differentiable_loss"):
            name = type(loss).__name__
            raise InputError(f"{name} has no differentiable_loss, which SVI needs; take an Objective such as IWAE")
        if reduction not in ("sum", "mean"):
            raise InputError(f"reduction={reduction!r} must be 'sum' or 'mean'")
        self.model, self.guide, self.reduction = model, guide, reduction
        self.loss: Any = loss
        self.autocast = autocast
        self._modules = [program for program in (model, guide) if isinstance(program, nn.Module)]
        self._steps = 0
        self._checked = False
        localise(model, guide)
        self._optimizer: Optimizer | None = optim if isinstance(optim, Optimizer) else None
        self._make = _maker(optim)
        if self._optimizer is None and len(self._modules) == 2 and self._module_parameters():
            self._optimizer = self._make(self._module_parameters())

    @property
    def has_optimizer(self) -> bool:
        """Whether the optimizer exists yet."""
        return self._optimizer is not None

    @property
    def optimizer(self) -> Optimizer:
        """The torch optimizer; for pairs written as functions it exists from the first step on."""
        if self._optimizer is None:
            raise InputError("the optimizer is made at the first step, when the parameters are known")
        return self._optimizer

    def step(self, *args: Any, **kwargs: Any) -> Tensor:
        """Take one gradient step and return the loss before it, a tensor on the device of the parameters."""
        return self.step_and_terms(*args, **kwargs)[0]

    def step_and_terms(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Terms | None]:
        """Take one gradient step; the loss, and the terms it was made of (`None` for an ELBO of Pyro's)."""
        loss, t = self.loss_and_grads(*args, **kwargs)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss, t

    def loss_and_grads(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Terms | None]:
        """The loss and its terms, with the gradients added to the parameters; no step is taken."""
        validate = pyro.settings.get("validate_poutine") and self._steps == 0  # costs a third of a millisecond
        self._steps += 1
        capture = poutine.trace(param_only=True)
        with local_parameters(), pyro.validation_enabled(validate):
            if len(self._modules) == 2:
                loss, t = self._evaluate(args, kwargs)
            else:
                with capture:
                    loss, t = self._evaluate(args, kwargs)
                self._adopt(capture.trace)
        if self.reduction == "mean":
            loss = loss / len(args[0])
        loss.backward()
        return loss.detach(), t

    def evaluate_loss(self, *args: Any, **kwargs: Any) -> Tensor:
        """The loss without a step, a tensor."""
        with torch.no_grad(), local_parameters():
            return self._evaluate(args, kwargs)[0]

    def _evaluate(self, args: Any, kwargs: Any) -> tuple[Tensor, Terms | None]:
        if self.autocast is None:
            return self._evaluate_plainly(args, kwargs)
        with torch.autocast(args[0].device.type, dtype=self.autocast):
            return self._evaluate_plainly(args, kwargs)

    def _evaluate_plainly(self, args: Any, kwargs: Any) -> tuple[Tensor, Terms | None]:
        if not isinstance(self.loss, Objective):
            return self.loss.differentiable_loss(self.model, self.guide, *args, **kwargs), None
        t = terms(self.model, self.guide, *args, num_particles=self.loss.num_particles, **kwargs)
        if not self._checked:
            self.loss.check(t)
            self._checked = True
        return self.loss.loss_of(t), t

    def check(self, *args: Any, **kwargs: Any) -> None:
        """Raise `InputError` when the objective asks what the pair does not offer; nothing is changed.

        The first step does the same; this is for those who want to know before, from a few data.
        """
        if isinstance(self.loss, Objective):
            with torch.no_grad(), local_parameters(), forked_random():
                self.loss.check(terms(self.model, self.guide, *args, num_particles=1, **kwargs))

    def _module_parameters(self) -> list[Tensor]:
        return list(dict.fromkeys(p for module in self._modules for p in module.parameters() if p.requires_grad))

    def _adopt(self, trace: poutine.Trace) -> None:
        """Give parameters that `pyro.param` made to the optimizer."""
        values: list[Any] = [site["value"] for site in trace.nodes.values() if site["type"] == "param"]
        found = [v.unconstrained() for v in values if hasattr(v, "unconstrained")]
        if self._optimizer is None:
            self._optimizer = self._make(list(dict.fromkeys([*self._module_parameters(), *found])))
        known = {p for group in self._optimizer.param_groups for p in group["params"]}
        if new := [p for p in dict.fromkeys(found) if p not in known]:
            self._optimizer.add_param_group({"params": new})


def _maker(optim: Any) -> MakeOptimizer:
    if isinstance(optim, pyro.optim.PyroOptim):
        make, arguments = optim.pt_optim_constructor, optim.pt_optim_args
        if not isinstance(arguments, dict):
            raise InputError("an optimizer of pyro.optim must have constant arguments, not a function of the name")
        return lambda parameters: make(parameters, **arguments)  # type: ignore[operator]
    if not isinstance(optim, Optimizer) and not callable(optim):
        raise InputError(f"optim must be an optimizer or a function that makes one, not {type(optim).__name__}")
    return optim
