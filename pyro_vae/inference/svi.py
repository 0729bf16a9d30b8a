"""Stochastic variational inference: one gradient step."""

import math
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, overload

import pyro.infer
import pyro.optim
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pyro_vae.data.inputs import rows_of
from pyro_vae.engine.adam import AdamNormGrad
from pyro_vae.engine.affine import products_of
from pyro_vae.engine.alike import Alike
from pyro_vae.engine.compiled import Compiled, made, restored
from pyro_vae.engine.processes import Exchange
from pyro_vae.engine.threads import free_threads, threads
from pyro_vae.engine.updates import MakeOptimizer, Updates, accumulate
from pyro_vae.foundation.abstract import forked_random, is_own, parameters_of
from pyro_vae.foundation.checks import check
from pyro_vae.foundation.errors import InputError
from pyro_vae.inference.averaging import Average, Memory
from pyro_vae.inference.em import EM
from pyro_vae.inference.objectives import Objective
from pyro_vae.inference.own_steps import OwnSteps
from pyro_vae.inference.pairs import Pair, opened
from pyro_vae.inference.pyro_steps import PyroSteps, Used, differentiated
from pyro_vae.inference.records import Record
from pyro_vae.inference.terms import Program, terms
from pyro_vae.models.conditionals import Moved

__all__ = ["SVI", "Record"]

Optim = Optimizer | MakeOptimizer | pyro.optim.PyroOptim
Loss = pyro.infer.ELBO | Callable[..., Any]


def _of_pair(make: Callable[..., None]) -> Callable[..., None]:
    """Let `SVI(model, guide, optim, loss)` be `SVI(vae, optim, loss)` too."""
    needed = ("model", "guide", "optim", "loss")

    @wraps(make)
    def call(self: Any, *args: Any, **kwargs: Any) -> None:
        make(self, *opened("SVI", needed, args, kwargs), **kwargs)

    return call


class SVI:
    """One gradient step at a time, with the verbs of `pyro.infer.SVI` and without reading anything back to the host.

    A pair of this package keeps its parameters in its modules, without the global parameter store. Any other pair is
    trained by Pyro's own rules: `pyro.param`, `pyro.module`, Pyro modules and AutoGuides keep theirs in the store, each
    parameter that the loss is seen to use is trained, and the numbers are those of `pyro.infer.SVI`.

    Args:
        model, guide: any Pyro pair, as two or as one thing: `SVI(vae, optim, loss)`, where the first may also be
            anything else with a `.model` and a `.guide`, or a tuple of both.
        optim: an optimizer of `pyro.optim`, a torch optimizer, or a function from parameters to one
            (`lambda p: torch.optim.Adam(p, lr=1e-3)`). A torch optimizer trains of a module that is the model or the
            guide what it was given.
        loss: an `Objective`, any `pyro.infer.ELBO`, or a function `loss(model, guide, *args, **kwargs)`.
        loss_and_grads: a function like `loss` that also adds the gradients, in the place of the loss's own.
        num_samples, num_steps: taken for programs that give them to `pyro.infer.SVI`, where they are for its deprecated
            `run`; without effect.
        reduction: `'sum'` for the loss summed over the batch, as in Pyro, or `'mean'` for nats per datum.
        autocast: run the networks in this lower precision (`torch.bfloat16`); the parameters keep theirs.
        weight_decay: lambda; each step also takes `rate * lambda` of themselves from the weights of linear layers and
            convolutions, whatever the torch optimizer, as AdamW does. Biases, scales, everything of the prior and
            parameters of your own outside such layers keep their size.
        clip_norm: the longest gradient, all parameters together; longer ones are shortened to it.
        average: the decay of an exponential moving average that follows the weights, such as 0.999, see `Average`:
            steps train the weights, and `with svi.averaged():` has their average in their place. With it go the
            buffers that a checkpoint keeps, such as running statistics.
        only: of a pair of this package, the module in it that is trained, such as `vae.model.prior`. Of the others no
            gradient is computed.
        compile: run loss and gradient as one compiled graph without Pyro's handlers, see `Compiled`: the same numbers
            from the same random numbers, up to rounding. Followed are parameters, buffers, tensors among the arguments
            and in objects that are arguments, globals, closures and attributes that the pair reads. What else it reads
            is fixed when the graph is made; some of the first hundred steps are held against Python to notice that.

    Attributes:
        objective: the `loss` as it was given.
        optim: the optimizer as it was given.
        average: the `Average`, or `None`.
        alike: what knows which steps are the same to the bit by fewer threads.
        exchange: what other processes that train the same pair are told in each step, or `None`.

    Raises:
        InputError: for another kind of `loss`, `optim` or `reduction`; for an `average` that is no number between 0 and
            1; for `clip_norm` beside `AdamNormGrad`, which divides each gradient by its length.

    Warns:
        CompileWarning: once, when the pair cannot be compiled and runs as it is.
        FutureWarning: for `num_samples` and `num_steps`.

    >>> from pyro_vae import MLP, Bernoulli, MeanField, StandardNormal, VAE
    >>> vae = VAE(StandardNormal(2), MLP((2,), (1, 4)), Bernoulli((4,)), MeanField(MLP((4,)), 2))
    >>> from pyro_vae import ELBO
    >>> svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-3}), ELBO())
    >>> svi.step(torch.ones(8, 4)).shape
    torch.Size([])
    """

    @overload
    def __init__(
        self, pair: Pair, /, optim: Optim, loss: Loss, **options: Any
    ) -> None: ...

    @overload
    def __init__(
        self,
        model: Program,
        guide: Program,
        optim: Optim,
        loss: Loss,
        loss_and_grads: Callable[..., Any] | None = None,
        num_samples: int = 0,
        num_steps: int = 0,
        **options: Any,
    ) -> None: ...

    @_of_pair
    def __init__(  # noqa: PLR0917  # the arguments of pyro.infer.SVI, in its order
        self,
        model: Program,
        guide: Program,
        optim: Optim,
        loss: Loss,
        loss_and_grads: Callable[..., Any] | None = None,
        num_samples: int = 0,
        num_steps: int = 0,
        *,
        reduction: str = "sum",
        autocast: torch.dtype | None = None,
        weight_decay: float = 0.0,
        clip_norm: float | None = None,
        average: float | None = None,
        only: nn.Module | None = None,
        compile: bool = False,
    ) -> None:
        if not (
            isinstance(loss, pyro.infer.ELBO)
            or (callable(loss) and not isinstance(loss, type))
        ):
            raise InputError(
                f"loss must be an Objective, a pyro.infer.ELBO or a function of model and guide, "
                f"not {loss.__name__ if isinstance(loss, type) else type(loss).__name__}"
            )
        if reduction not in ("sum", "mean"):
            raise InputError(f"reduction={reduction!r} must be 'sum' or 'mean'")
        for name, value in (("weight_decay", weight_decay), ("clip_norm", clip_norm)):
            if value is not None and not (
                isinstance(value, int | float) and 0 <= value < math.inf
            ):
                raise InputError(
                    f"{name}={value!r} must be a finite number of at least 0"
                )
        if clip_norm == 0:
            raise InputError(
                "clip_norm=0 would let nothing move; give it a positive number"
            )
        if num_samples or num_steps:
            warnings.warn(
                "num_samples and num_steps of SVI are deprecated in Pyro and have no effect: "
                "call svi.step in a loop, and draw with pyro.infer.Predictive",
                FutureWarning,
                stacklevel=2,
            )
        self.model, self.guide, self.reduction = model, guide, reduction
        self.weight_decay, self.clip_norm = weight_decay, clip_norm
        self.objective: Any = loss
        self.optim, self.autocast = optim, autocast
        self._loss_and_grads = loss_and_grads
        programs = [
            program for program in (model, guide) if isinstance(program, nn.Module)
        ]
        self.only = only
        self._moving = None if only is None else set(only.parameters())
        self._updates = Updates(
            optim, [p for module in programs for p in module.parameters()]
        )
        if weight_decay and self._updates.by_parameter:
            raise InputError(
                "weight_decay goes by the one rate of a torch optimizer; with pyro.optim give it to the optimizer, "
                'as in pyro.optim.AdamW({"weight_decay": ...})'
            )
        check("average", average, Memory | None, owner="SVI")
        self.average = None if average is None else Average(average)
        self.exchange: Exchange | None = None
        self._kept: list[Tensor] | None = None
        self._taken = 0  # steps
        self.alike = Alike()
        self._compiled: Compiled | None = None
        self._batch: int | None = None
        self._weights: list[Tensor] | None = None
        self._pair: OwnSteps | PyroSteps
        if (
            is_own(model, guide)
            and loss_and_grads is None
            and hasattr(loss, "differentiable_loss")
        ):
            self._pair = OwnSteps(model, guide, loss, autocast, self._moving)  # type: ignore[arg-type]
            if self._pair.parameters():
                self._updates.add(self._moved(range(0)), self._pair.names)
            self._prepare_em()
            self._check_clipping()
        elif only is not None:
            raise InputError(
                "only= is for a pair of this package and a loss that is differentiable, and these are trained by "
                "Pyro's rules: take ELBO"
            )
        elif isinstance(guide, Moved):
            raise InputError(
                "Moved gives model and guide a loss each, so it is trained with a model of this package, by an "
                "Objective or an ELBO of pyro.infer"
            )
        else:
            if isinstance(loss, Objective):
                loss.connect(model, guide)
                _check_learns_nothing(loss)
            self._pair = PyroSteps(model, guide, loss, loss_and_grads, autocast)
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
        if self.em is not None:
            if warn is not None:
                warn("not the steps of EM, which take no gradients")
            return
        self._batch = batch_size
        own = isinstance(self._pair, OwnSteps)
        self._compiled = Compiled(
            self._differentiate,
            state=self._pair.state,
            name="the step",
            limit=limit,
            warn=warn,
            products=products_of(self._pair.modules()) if own else "torch",
            checked=not own,
        )

    @property
    def em(self) -> EM | None:
        """The optimizer, where it is `EM` and follows no gradients."""
        single = self._updates.single
        return single if isinstance(single, EM) else None

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """In which the weights are their average, where one follows them."""
        if self.average is None:
            yield
            return
        with self.average.put():
            yield

    @contextmanager
    def labelled(self, every: bool) -> Iterator[None]:
        """Steps in which all data have a label, where `every` is true: then a class is observed, and not enumerated.

        A datum without one would have no class at all, and ends such a step with an error.
        """
        pair = self._pair
        if isinstance(pair, OwnSteps):
            pair.labelled = every
        try:
            yield
        finally:
            if isinstance(pair, OwnSteps):
                pair.labelled = False

    def meet(self, size: int) -> None:
        """Say how many data an epoch has, for an optimizer that waits for all of them."""
        if self.em is not None:
            self.em.size = size
            self.em.exchange = self.exchange

    def _prepare_em(self) -> None:
        """Let EM take up the pair, where it is the optimizer."""
        if self.em is not None:
            if self._moving is not None:
                raise InputError(
                    "EM sets all that the model learns, and only= names a part: leave one of them out"
                )
            others = {"weight_decay": self.weight_decay, "clip_norm": self.clip_norm}
            others["average"] = None if self.average is None else self.average.decay
            given = {k: v for k, v in others.items() if v}
            self.em.prepare(self.model, self.guide, self.objective, **given)

    def _check_clipping(self) -> None:
        """Refuse to shorten gradients together where each is divided by its length then."""
        normalised = isinstance(self._updates.single, AdamNormGrad)
        if self.clip_norm is not None and normalised:
            raise InputError(
                f"clip_norm={self.clip_norm:g} shortens all gradients by one factor, and AdamNormGrad divides each by "
                "its length: leave one of them out"
            )

    @property
    def compiled(self) -> bool:
        """Whether steps are compiled: asked for, and not found impossible."""
        return self._compiled is not None and not self._compiled.failed

    @property
    def has_optimizer(self) -> bool:
        """Whether there is a torch optimizer for all parameters, and it exists yet."""
        return self._updates.single is not None

    @property
    def optimizer(self) -> Optimizer:
        """The torch optimizer; where it is made from parameters of functions it exists from the first step on."""
        if self._updates.by_parameter:
            raise InputError(
                "an optimizer of pyro.optim keeps a torch optimizer for each parameter: see svi.optim"
            )
        if self._updates.single is None:
            raise InputError(
                "the optimizer is made at the first step, when the parameters are known"
            )
        return self._updates.single

    def step(self, *args: Any, **kwargs: Any) -> Any:
        """Take one gradient step and return the loss before it, a tensor on the device of the parameters.

        A loss that is a tuple of numbers, such as that of `pyro.infer.ReweightedWakeSleep`, is returned as one.
        """
        values, used = self._step(args, kwargs)
        return tuple(values) if used.losses else values[0]

    def step_and_record(self, *args: Any, **kwargs: Any) -> Record:
        """Take one gradient step; the loss before it, and what it was made of."""
        values, used = self._step(args, kwargs)
        return Record(values, used.sites)

    def differentiate(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Record]:
        """The loss and what it was made of, with the gradients added to the parameters; no step is taken."""
        (values, *gradients), used, _ = self._differentiated(args, kwargs)
        parameters = self._pair.parameters()
        accumulate([parameters[i] for i in used.moved], gradients)
        return values[0], Record(values, used.sites)

    def loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Any:
        """The loss of any pair without a step, as the attribute of that name of `pyro.infer.SVI`."""
        if isinstance(self.objective, pyro.infer.ELBO):
            return self.objective.loss(model, guide, *args, **kwargs)  # type: ignore[attr-defined]
        return self.objective(model, guide, *args, **kwargs)

    def loss_and_grads(self, *args: Any, **kwargs: Any) -> Any:
        """The loss of any pair with the gradients added, `loss_and_grads(model, guide, ...)` as in `pyro.infer.SVI`.

        Called with data alone it is `differentiate`.
        """
        if len(args) < 2 or not (callable(args[0]) and callable(args[1])):
            return self.differentiate(*args, **kwargs)
        if self._loss_and_grads is not None:
            return self._loss_and_grads(*args, **kwargs)
        if isinstance(self.objective, pyro.infer.ELBO):
            return self.objective.loss_and_grads(*args, **kwargs)  # type: ignore[attr-defined]
        return differentiated(self.objective, *args, **kwargs)

    def evaluate_loss(self, *args: Any, **kwargs: Any) -> Any:
        """The loss without a step: a tensor for a pair of this package, otherwise what Pyro returns."""
        return self._pair.evaluate(args, kwargs)

    def run(self, *args: Any, **kwargs: Any) -> None:
        """Not offered: the deprecated way of `pyro.infer.SVI` to draw from the posterior.

        Raises:
            InputError: always, with what to call in its place.
        """
        raise InputError(
            "SVI.run is deprecated in Pyro: call svi.step in a loop, and draw with pyro.infer.Predictive"
        )

    def check(self, *args: Any, **kwargs: Any) -> None:
        """Raise `InputError` when the objective asks what the pair does not offer; no parameter moves.

        The first step does the same; this is for those who want to know before, from a few data.
        """
        if isinstance(self.objective, Objective):
            buffers = [
                b
                for program in (self.model, self.guide)
                if isinstance(program, nn.Module)
                for b in program.buffers()
            ]
            with (
                parameters_of(self.model, self.guide),
                forked_random(),
                restored(buffers),
            ):
                self.objective.check(
                    terms(self.model, self.guide, *args, num_particles=1, **kwargs)
                )
        if isinstance(self._pair, OwnSteps):
            self._pair.checked = True

    def changes(self, batch: Any) -> list[str]:
        """The names of the buffers that a step changes by itself, such as running statistics; all stays as it was."""
        programs = [p for p in (self.model, self.guide) if isinstance(p, nn.Module)]
        if not isinstance(self._pair, OwnSteps):
            return []
        named = {name: b for p in programs for name, b in p.named_buffers()}
        before = {name: buffer.clone() for name, buffer in named.items()}
        modes = {m: m.training for p in programs for m in p.modules()}
        validated = self._pair.validated
        with forked_random(), restored(self._pair.buffers()):
            for program in programs:
                program.train(self.only is None)
            self._pair.differentiate((batch,), {})
            pairs = {name: (b, before[name]) for name, b in named.items()}
            changed = [n for n, (b, old) in pairs.items() if _differ(b, old)]
        self._pair.validated = validated
        for module, mode in modes.items():
            module.training = mode
        return changed

    def rehearse(self, batch: Callable[[], Tensor]) -> bool:
        """Compute loss and gradients of a batch as a graph would, and leave everything as it was.

        Returns False, and does nothing, for a pair that is trained by Pyro's rules: a step may make parameters.
        """
        if not isinstance(self._pair, OwnSteps):
            return False
        self._pair.rehearse(batch)
        return True

    def _step(self, args: Any, kwargs: Any) -> tuple[Tensor, Used]:
        """Compute the gradients and move the parameters by them; what is left of the step."""
        if self.em is not None and isinstance(self._pair, OwnSteps):
            args = made(list(args))
            values, used = self._pair.recorded(args, kwargs)
            if self.exchange is not None:
                values, _ = self.exchange.step(values, (), ())
            self.em.take(*args, **kwargs)
            return values, used
        (values, *gradients), used, by_graph = self._differentiated(args, kwargs)
        parameters = self._pair.parameters()
        if self.exchange is not None:
            values, gradients, used = self._exchanged(values, gradients, used)
        self._updates.add(self._moved(used.replaced), self._pair.names)
        if self.em is not None:
            raise InputError("EM fits a VAE of this package, and this pair is another")
        self._check_clipping()
        if self.clip_norm is not None:
            gradients = _clipped(gradients, self.clip_norm, self.alike)
        if self.weight_decay:
            self._decay(self.optimizer.param_groups[0]["lr"])
        moved: list[Tensor | None] = [None] * len(parameters)
        for place, gradient in zip(used.moved, gradients, strict=True):
            moved[place] = gradient
        self._updates.step(
            [parameters[i] for i in used.seen],
            [moved[i] for i in used.seen],
            fast=by_graph or isinstance(self._pair, OwnSteps),
        )
        if self.average is not None:
            self.average.follow(self._lasting(used.replaced))
        self._taken += 1
        return values, used

    def _exchanged(
        self, values: Tensor, gradients: list[Tensor], used: Used
    ) -> tuple[Tensor, list[Tensor], Used]:
        """Record and gradients of a batch whose data are shared among processes."""
        assert self.exchange is not None
        parameters = self._moved(used.replaced)
        places = {p: i for i, p in enumerate(self._pair.parameters())}
        mine = dict(zip(used.moved, gradients, strict=True))
        given = [mine.get(places[p]) for p in parameters]
        values, found = self.exchange.step(values, given, parameters)
        pairs = zip(parameters, found, strict=True)
        whole = {places[p]: g for p, g in pairs if g is not None}
        moved = tuple(sorted(whole))
        seen = tuple(sorted({*used.seen, *moved}))
        return values, [whole[i] for i in moved], used._replace(seen=seen, moved=moved)

    def _moved(self, replaced: Collection[int]) -> list[Tensor]:
        """The parameters that the optimizer moves: all, or those of `only`, but for those that Python sets anew."""
        every = self._pair.parameters()
        lasting = [p for i, p in enumerate(every) if i not in replaced]
        if self._moving is None:
            return lasting
        return [p for p in lasting if p in self._moving]

    def _lasting(self, replaced: Collection[int]) -> list[Tensor]:
        """What steps change and a checkpoint keeps: the parameters that move, and buffers of real numbers."""
        if isinstance(self._pair, PyroSteps):
            found = [*self._moved(replaced), *self._pair.buffers()]
            return [t for t in dict.fromkeys(found) if t.is_floating_point()]
        if self._kept is None:
            programs: list[Any] = [self.model, self.guide]
            modules = programs if self.only is None else [self.only]
            states = [
                m.state_dict(keep_vars=True)
                for m in modules
                if isinstance(m, nn.Module)
            ]
            found = [t for state in states for t in state.values()]
            self._kept = [t for t in dict.fromkeys(found) if t.is_floating_point()]
        return self._kept

    def _decay(self, rate: float) -> None:
        if self._weights is None:
            every = _weights(self._pair.modules(), [self.model, self.guide])
            moving = self._moving
            self._weights = [w for w in every if moving is None or w in moving]
        if not self._weights:
            return
        with torch.no_grad(), threads(free_threads()):
            torch._foreach_mul_(self._weights, 1 - rate * self.weight_decay)

    def _differentiated(
        self, args: Any, kwargs: Any
    ) -> tuple[list[Tensor], Used, bool]:
        """Values and gradients, what they are, and whether a graph may have made them."""
        if not self._by_graph(args, kwargs):
            outputs, used = self._by_python(args, kwargs)
            return outputs[: len(outputs) - len(used.replaced)], used, False
        assert self._compiled is not None
        if self._taken == 0:  # what the first step would check
            with forked_random(), restored(self._pair.buffers()):
                self._differentiate(args, kwargs)
        outputs, used = self._compiled(args, kwargs)
        if outputs[0].is_cuda:
            outputs[0] = outputs[
                0
            ].clone()  # a CUDA graph writes its next values to the same place
        if not used.replaced:
            return outputs, used, True

        # What Python sets anew in Pyro's store, a graph gives back.
        numbers = len(outputs) - len(used.replaced)
        parameters = self._pair.parameters()
        with torch.no_grad():
            for place, value in zip(used.replaced, outputs[numbers:], strict=True):
                parameters[place].copy_(value)
        return outputs[:numbers], used, True

    def _by_graph(self, args: Any, kwargs: Any) -> bool:
        """Whether this step goes by a graph: compiling was asked for, and nothing speaks against it now."""
        if self._compiled is None or self._compiled.failed:
            return False
        if self._batch is not None and self._batch != rows_of(args, kwargs):
            return False
        if isinstance(self._pair, OwnSteps):
            return not self._pair.hooked
        try:
            by_graph = self._taken > 0 and not self._pair.hooked
        except KeyError:  # the store was cleared
            self._pair.forget()
            return False
        self._pair.plain = by_graph
        return by_graph

    def _by_python(self, args: Any, kwargs: Any) -> tuple[list[Tensor], Used]:
        """Loss and gradients without a graph, by as many threads as others leave room for where that changes no bit."""
        if not isinstance(self._pair, OwnSteps) or isinstance(self.guide, Moved):
            return self._differentiate(
                args, kwargs
            )  # what else they change is not known
        uses: list[Used] = []

        def differentiate() -> list[Tensor]:
            outputs, used = self._differentiate(args, kwargs)
            uses.append(used)
            return outputs

        modes = [module.training for module in self._pair.modules()]
        way = (rows_of(args, kwargs), self._pair.labelled, *modes)
        outputs = self.alike(way, differentiate, self._pair.buffers())
        return outputs, uses[-1]

    def _differentiate(self, args: Any, kwargs: Any) -> tuple[list[Tensor], Used]:
        if self.reduction == "sum":
            return self._pair.differentiate(args, kwargs)
        rows = rows_of(args, kwargs)
        if rows is None:
            raise InputError(
                "reduction='mean' divides by the number of data, and no argument is a batch; take 'sum'"
            )
        return self._pair.differentiate(args, kwargs, rows)


LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
LAYERS_BACK = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def _weights(modules: list[nn.Module], programs: list[Any]) -> list[Tensor]:
    """What weight decay is for: matrices and kernels of layers, but for those of a model's `prior`."""
    priors = [getattr(program, "prior", None) for program in programs]
    exempt = {
        p
        for prior in priors
        if isinstance(prior, nn.Module)
        for p in prior.parameters()
    }
    weights = [m.weight for m in modules if isinstance(m, LAYERS + LAYERS_BACK)]
    return [w for w in dict.fromkeys(weights) if w.requires_grad and w not in exempt]


def _check_learns_nothing(loss: Objective) -> None:
    """Refuse an objective with a network of its own where Pyro's rules say what is trained."""
    if loss.learned is not None:
        raise InputError(
            f"{type(loss).__name__} trains a network of its own beside a pair of this package, and this one is trained "
            "by Pyro's rules; take ELBO"
        )


def _differ(a: Tensor, b: Tensor) -> bool:
    return not bool(((a == b) | (a.isnan() & b.isnan())).all())


def _clipped(gradients: list[Tensor], longest: float, alike: Alike) -> list[Tensor]:
    """The gradients, shortened together to a length of `longest` where they are longer; nothing waits for a device."""
    if not gradients:
        return gradients
    way = ("length", len(gradients))
    length = alike(way, lambda: [nn.utils.get_total_norm(gradients)])[0]
    factor = longest / length.clamp_min(1e-12)
    # A processor need not multiply by 1.
    if not factor.is_cuda and bool(factor >= 1):
        return gradients
    with threads(free_threads()):
        return list(torch._foreach_mul(gradients, factor.clamp_max(1.0)))
