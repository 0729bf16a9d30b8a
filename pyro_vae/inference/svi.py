"""Stochastic variational inference: one gradient step."""

import math
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import pyro.infer
import pyro.optim
import torch
from pyro import poutine
from torch import Tensor, nn
from torch.optim import Optimizer

from pyro_vae._abstract import forked_random, local_parameters, localise, traced
from pyro_vae._errors import InputError
from pyro_vae.inference.compiled import Compiled, Later, restored
from pyro_vae.inference.importance import Program, Terms, terms
from pyro_vae.inference.objectives import Objective
from pyro_vae.networks.products import products_of

MakeOptimizer = Callable[[list[Tensor]], Optimizer]


class Record(NamedTuple):
    """What a step leaves behind, on the device: `values[0]` is the loss.

    The rest are sums over the batch, in nats, without gradients: `values[1:3]` the reconstruction and the KL (nan for
    an ELBO of Pyro's, which keeps its terms to itself), `values[3:]` the log-probability of each of `sites`.
    """

    values: Tensor
    sites: tuple[str, ...]


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
        weight_decay: lambda; each step also takes `rate * lambda` of themselves from the weights of linear layers and
            convolutions, whatever the optimizer, as AdamW does. Biases, scales, everything of the prior and parameters
            of your own outside such layers keep their size.
        clip_norm: the longest gradient, all parameters together; longer ones are shortened to it.
        compile: run loss and gradient as one compiled graph without Pyro's handlers, see `Compiled`: the same numbers
            from the same random numbers, up to rounding. What else the pair reads than parameters, buffers, tensors
            among the arguments and tensors that are attributes of the objective is fixed when the graph is made.

    Raises:
        InputError: for another kind of `loss`, `optim` or `reduction`.

    Warns:
        CompileWarning: once, when the pair cannot be compiled and runs as it is.

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
        weight_decay: float = 0.0,
        clip_norm: float | None = None,
        compile: bool = False,
    ) -> None:
        if not isinstance(loss, pyro.infer.ELBO):
            raise InputError(
                f"loss must be an Objective or a pyro.infer.ELBO, not {type(loss).__name__}"
            )
        if not hasattr(loss, "differentiable_loss"):
            name = type(loss).__name__
            raise InputError(
                f"{name} has no differentiable_loss, which SVI needs; take an Objective such as IWAE"
            )
        if reduction not in ("sum", "mean"):
            raise InputError(f"reduction={reduction!r} must be 'sum' or 'mean'")
        for name, value in (("weight_decay", weight_decay), ("clip_norm", clip_norm)):
            if value is not None and not (isinstance(value, int | float) and 0 <= value < math.inf):
                raise InputError(f"{name}={value!r} must be a finite number of at least 0")
        if clip_norm == 0:
            raise InputError("clip_norm=0 would let nothing move; give it a positive number")
        self.model, self.guide, self.reduction = model, guide, reduction
        self.weight_decay, self.clip_norm = weight_decay, clip_norm
        self.loss: Any = loss
        self.autocast = autocast
        self._modules = [program for program in (model, guide) if isinstance(program, nn.Module)]
        self._steps = 0
        self._checked = False
        localise(model, guide)
        self._weights = _weights(self._modules) if weight_decay else []
        self._optimizer: Optimizer | None = optim if isinstance(optim, Optimizer) else None
        self._make = _maker(optim)
        self._compiled: Compiled | None = None
        self._batch: int | None = None
        self._buffers = list(dict.fromkeys(b for module in self._modules for b in module.buffers()))
        self._own: list[Tensor] = list(
            dict.fromkeys(p for module in self._modules for p in module.parameters())
        )
        if self._optimizer is None and len(self._modules) == 2 and self._own:
            self._optimizer = self._make([p for p in self._own if p.requires_grad])
        if compile:
            self.compile()

    def compile(
        self,
        *,
        batch_size: int | None = None,
        limit: int | None = None,
        warn: Callable[[str], None] | None = None,
    ) -> None:
        """Compile the steps from now on, unless their graph has more than `limit` operations.

        With a `batch_size` only batches of that size are compiled. `warn` is called with the reason where compiling is
        not possible, instead of a `CompileWarning`.
        """
        self._batch = batch_size
        modules = [module for program in self._modules for module in program.modules()]

        def state() -> tuple[list[Tensor], Hashable]:
            tensors, others = _attributes(self.loss)
            constants = (*(module.training for module in modules), *others)
            return [*self._parameters(), *self._buffers, *tensors], constants

        self._compiled = Compiled(
            self._gradients,
            state=state,
            name="the step",
            limit=limit,
            warn=warn,
            products=products_of(modules),
        )

    @property
    def compiled(self) -> bool:
        """Whether steps are compiled: asked for, and not found impossible."""
        return self._compiled is not None and not self._compiled.failed

    @property
    def has_optimizer(self) -> bool:
        """Whether the optimizer exists yet."""
        return self._optimizer is not None

    @property
    def optimizer(self) -> Optimizer:
        """The torch optimizer; for pairs written as functions it exists from the first step on."""
        if self._optimizer is None:
            raise InputError(
                "the optimizer is made at the first step, when the parameters are known"
            )
        return self._optimizer

    def step(self, *args: Any, **kwargs: Any) -> Tensor:
        """Take one gradient step and return the loss before it, a tensor on the device of the parameters."""
        return self.step_and_record(*args, **kwargs).values[0]

    def step_and_record(self, *args: Any, **kwargs: Any) -> Record:
        """Take one gradient step; the loss before it, and what it was made of."""
        record, used, gradients = self._differentiated(args, kwargs)
        parameters = self._parameters()
        moved = [parameters[i] for i in used]
        if self.clip_norm is not None:
            gradients = _clipped(gradients, self.clip_norm)
        if self._weights:
            rate = self.optimizer.param_groups[0]["lr"]
            with torch.no_grad():
                torch._foreach_mul_(self._weights, 1 - rate * self.weight_decay)
        if not _fused_adam(self.optimizer, moved, gradients):
            _accumulate(moved, gradients)
            self.optimizer.step()
            self.optimizer.zero_grad()
        return record

    def loss_and_grads(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Record]:
        """The loss and what it was made of, with the gradients added to the parameters; no step is taken."""
        record, used, gradients = self._differentiated(args, kwargs)
        parameters = self._parameters()
        _accumulate([parameters[i] for i in used], gradients)
        return record.values[0], record

    def rehearse(self, batch: Callable[[], Tensor]) -> None:
        """Compute loss and gradients of a batch as a graph would, and leave everything as it was."""
        with traced(), forked_random(), restored(self._buffers):
            self._gradients((batch(),), {})

    def _differentiated(self, args: Any, kwargs: Any) -> tuple[Record, list[int], list[Tensor]]:
        """The record, and the gradients with the places of their parameters."""
        compiled = self._compiled is not None and self._batch in (None, _rows(args))
        if (
            compiled and self._steps == 0 and len(self._modules) == 2
        ):  # what the first step would check
            with forked_random(), restored(self._buffers):
                self._gradients(args, kwargs)
            self._steps = 1
        if (
            self._compiled is None or not compiled or self._steps == 0
        ):  # the first step finds functions' parameters
            (values, *gradients), (sites, used) = self._gradients(args, kwargs)
        else:
            (values, *gradients), (sites, used) = self._compiled(args, kwargs)
            if values.is_cuda:
                values = values.clone()  # a CUDA graph writes its next values to the same place
        self._steps += 1
        return Record(values, sites), used, gradients

    def _gradients(self, args: Any, kwargs: Any) -> tuple[list[Tensor], Any]:
        """The values of a record, then the gradients; the names of its sites, and which parameters have a gradient."""
        args = [arg.made() if isinstance(arg, Later) else arg for arg in args]
        validate = (
            pyro.settings.get("validate_poutine") and self._steps == 0
        )  # costs a third of a millisecond
        with local_parameters(), pyro.validation_enabled(validate):
            if len(self._modules) == 2:
                loss, t = self._evaluate(args, kwargs)
            else:
                with poutine.trace(param_only=True) as capture:
                    loss, t = self._evaluate(args, kwargs)
                self._adopt(capture.trace)
        if self.reduction == "mean":
            loss = loss / len(args[0])
        parameters = [(i, p) for i, p in enumerate(self._parameters()) if p.requires_grad]
        gradients = torch.autograd.grad(loss, [p for _, p in parameters], allow_unused=True)
        found = [
            (i, _as_laid_out(g, p))
            for (i, p), g in zip(parameters, gradients, strict=True)
            if g is not None
        ]
        record = _record(loss.detach(), t)
        return [record.values, *(g for _, g in found)], (record.sites, [i for i, _ in found])

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
        self._checked = True

    def _parameters(self) -> list[Tensor]:
        """The parameters of the modules, and those of functions as far as they are known, in an order that stays."""
        if len(self._modules) == 2 or self._optimizer is None:
            return self._own
        return list(
            dict.fromkeys(
                [*self._own, *(p for g in self._optimizer.param_groups for p in g["params"])]
            )
        )

    def _adopt(self, trace: poutine.Trace) -> None:
        """Give parameters that `pyro.param` made to the optimizer."""
        values: list[Any] = [
            site["value"] for site in trace.nodes.values() if site["type"] == "param"
        ]
        found = [v.unconstrained() for v in values if hasattr(v, "unconstrained")]
        if self._optimizer is None:
            self._optimizer = self._make(
                list(dict.fromkeys([p for p in self._own if p.requires_grad] + found))
            )
        known = {p for group in self._optimizer.param_groups for p in group["params"]}
        if new := [p for p in dict.fromkeys(found) if p not in known]:
            self._optimizer.add_param_group({"params": new})


LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
LAYERS_BACK = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def _weights(programs: list[nn.Module]) -> list[Tensor]:
    """What weight decay is for: matrices and kernels of layers, but for those of a model's `prior`."""
    priors = [getattr(program, "prior", None) for program in programs]
    exempt = {p for prior in priors if isinstance(prior, nn.Module) for p in prior.parameters()}
    layers = [m for program in programs for m in program.modules()]
    weights = [m.weight for m in layers if isinstance(m, LAYERS + LAYERS_BACK)]
    return [w for w in dict.fromkeys(weights) if w.requires_grad and w not in exempt]


def _clipped(gradients: list[Tensor], longest: float) -> list[Tensor]:
    """The gradients, shortened together to a length of `longest` where they are longer; nothing is read to the host."""
    length = nn.utils.get_total_norm(gradients)
    factor = (longest / length.clamp_min(1e-12)).clamp_max(1.0)
    return list(torch._foreach_mul(gradients, factor))


def _rows(args: Any) -> int:
    return args[0].size if isinstance(args[0], Later) else len(args[0])


def _as_laid_out(gradient: Tensor, parameter: Tensor) -> Tensor:
    """The gradient in the memory layout of its parameter, which fused optimizers take for granted.

    What autograd returns can be transposed, or one number expanded over a shape; a kernel that walks through memory
    would give elements the gradients of others.
    """
    same = gradient.stride() == parameter.stride() and gradient.dtype == parameter.dtype
    return gradient if same else torch.empty_like(parameter).copy_(gradient)


def _accumulate(parameters: list[Tensor], gradients: list[Tensor]) -> None:
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient


@torch.no_grad()
def _fused_adam(optimizer: Optimizer, parameters: list[Tensor], gradients: list[Tensor]) -> bool:
    """Take a step of `torch.optim.Adam(fused=True)`, with its kernel and its state but without its bookkeeping.

    That takes as long as the kernel on a small network. Returns False, and does nothing, for another optimizer, for its
    first step, and where gradients wait to be added.
    """
    group, state = optimizer.param_groups[0], optimizer.state
    plain = type(optimizer) is torch.optim.Adam and group["fused"] and not group["amsgrad"]
    hooks = optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks
    if (
        not plain
        or hooks
        or len(optimizer.param_groups) > 1
        or len(parameters) < len(group["params"])
    ):
        return False
    states: list[Any] = [state.get(p) for p in parameters]
    if not all(states) or any(
        p.grad is not None or p.dtype != gradients[0].dtype for p in parameters
    ):
        return False
    steps = [s["step"] for s in states]
    torch._foreach_add_(
        steps, [torch.ones_like(steps[0])] * len(steps)
    )  # a third of the time that a number takes
    torch._fused_adam_(
        parameters,
        gradients,
        [s["exp_avg"] for s in states],
        [s["exp_avg_sq"] for s in states],
        [],
        steps,
        lr=group["lr"],
        beta1=group["betas"][0],
        beta2=group["betas"][1],
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        amsgrad=False,
        maximize=group["maximize"],
    )
    return True


def _record(loss: Tensor, t: Terms | None) -> Record:
    if t is None:
        return Record(torch.stack([loss, *(torch.full_like(loss, math.nan),) * 2]), ())
    named = [t.log_px, t.log_qz - t.log_pz]
    sites = []
    for name, site in t.sites.items():
        for log_prob, program in ((site.log_q, "guide"), (site.log_p, "model")):
            if log_prob is not None:
                sites.append(f"{name!r} under the {program}")
                named.append(log_prob)
    sums = torch.cat([log_prob.detach() for log_prob in named]).view(len(named), -1).sum(1)
    particles = named[0].shape[0]
    sums = sums if particles == 1 else sums / particles
    return Record(torch.cat([loss.unsqueeze(0), sums.to(loss.dtype)]), tuple(sites))


def _attributes(loss: Any) -> tuple[list[Tensor], list[Hashable]]:
    """The tensors among the attributes of an objective and of those that it wraps, and the plain values."""
    tensors: list[Tensor] = []
    others: list[Hashable] = []
    for name, value in vars(loss).items():
        if isinstance(value, Tensor):
            tensors.append(value)
        elif isinstance(value, Objective):
            inner = _attributes(value)
            tensors += inner[0]
            others += inner[1]
        elif isinstance(value, int | float | str):
            others.append((name, value))
    return tensors, others


def _maker(optim: Any) -> MakeOptimizer:
    if isinstance(optim, pyro.optim.PyroOptim):
        make, arguments = optim.pt_optim_constructor, optim.pt_optim_args
        if not isinstance(arguments, dict):
            raise InputError(
                "an optimizer of pyro.optim must have constant arguments, not a function of the name"
            )
        return lambda parameters: make(parameters, **arguments)  # type: ignore[operator]
    if not isinstance(optim, Optimizer) and not callable(optim):
        raise InputError(
            f"optim must be an optimizer or a function that makes one, not {type(optim).__name__}"
        )
    return optim
