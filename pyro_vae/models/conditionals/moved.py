"""A guide whose draws are moved towards the posterior by Markov chains before the model learns from them."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import pyro
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin as Distribution
from torch import Tensor, nn

from pyro_vae.distributions import DiagonalNormal
from pyro_vae.distributions.hamiltonian import (
    RATE,
    TARGET,
    Place,
    first_step,
    hamiltonian_move,
    jittered,
    tuned,
)
from pyro_vae.foundation.abstract import context_of
from pyro_vae.foundation.checks import Count, Steps, between
from pyro_vae.foundation.errors import InputError
from pyro_vae.foundation.memory import require
from pyro_vae.models.classes import Classifier, Reads
from pyro_vae.models.conditionals.base import Guide
from pyro_vae.models.conditionals.gaussian import MeanField
from pyro_vae.models.program import Factor
from pyro_vae.models.targets import Regressor

# Of the chains that stand for q(z|x) where there is no guide: how many, and their moves that are dropped and kept.
CHAINS, SETTLING, KEPT = 4, 20, 10
NARROWEST = 1e-6  # standard deviation of their draws


class Chains(nn.Module):
    """The chains of N training data, kept from visit to visit; not part of a `state_dict`.

    Args:
        size: N.
        count: C, of each datum.
        like: a vector of latents, `(D,)`.

    Attributes:
        z: where they are, `(N, C, D)`.
        steps: the length of their steps, `(N,)`; nan where they have not started.
        here: z of the data that are visited, `(batch, C, D)`; changed in place by a step.
        here_steps: their lengths of steps.
    """

    z: Tensor
    steps: Tensor
    here: Tensor
    here_steps: Tensor

    def __init__(self, size: int, count: int, like: Tensor) -> None:
        super().__init__()
        shape = (size, count, len(like))
        what = f"keeping chains={count} of {size} data"
        require(2 * math.prod(shape) * like.element_size(), what, "chains")
        values = {"z": like.new_zeros(shape), "steps": like.new_full((size,), math.nan)}
        values |= {
            "here": like.new_zeros(0, *shape[1:]),
            "here_steps": like.new_zeros(0),
        }
        for name, value in values.items():
            self.register_buffer(name, value, persistent=False)
        self._places: dict[int, tuple[Tensor, Tensor]] = {}

    def __len__(self) -> int:
        return len(self.steps)

    @contextmanager
    def visited(self, rows: Tensor, *, changed: bool = True) -> Iterator[None]:
        """Lay out the chains of some data for a step, then put them away; not `changed`, as if nothing had been."""
        rows = rows.to(self.z.device)
        with torch.no_grad():
            here = (self.z[rows], self.steps[rows])
            # At the same place each time, where a graph of the step looks for them.
            self.here, self.here_steps = self._places.setdefault(len(rows), here)
            self.here.copy_(here[0])
            self.here_steps.copy_(here[1])
        try:
            yield
            if changed:
                self.z[rows], self.steps[rows] = self.here, self.here_steps
        finally:
            self.here, self.here_steps = self.z[:0], self.steps[:0]


class Moved(Guide):
    """Draws of an amortised `guide`, moved towards p(z|x) before the model learns from them: Monte-Carlo EM.

    E-step: `moves` Hamiltonian moves that leave p(z|x) of the model as it is carry each draw from z to z'. M-step: the
    parameters of prior, decoder and likelihood follow `grad log p(x, z')`, which is `grad log p(x)` where z' is a draw
    of p(z|x). The guide learns by the objective at its own draws, as without moves. What is called q(z|x) and has a
    density is the guide inside: the ELBO that is reported, log p(x) and every question are those of that guide.

    Chains may be `persistent`: those of a training datum start where its last visit left them, at first from the guide,
    so that they come closer to p(z|x) with each epoch. With `guide=None` they start from the prior; then this is EM
    with an E-step by Markov chains alone, and where q(z|x) is asked for it is the normal with the means and deviations
    of 4 chains that were moved 30 times from the prior, the first 20 times to settle.

    The moves see the model as it is evaluated, without dropout and with the running statistics of batch normalisation.
    Step lengths follow what is accepted: one for all data, of persistent chains one for each.

    Args:
        encoder: as in the guide; not used without one.
        latent_dim: the length of `z`.
        guide: the amortised guide, a class or any function of encoder and latent_dim, or None.
        moves: of each chain at each visit; 0 is training without any.
        leapfrogs: steps of a move, each a gradient of log p(x, z) for each chain.
        chains: of each datum.
        persistent: whether the chains of training data are kept from visit to visit.
        features: as in `Guide`.

    Raises:
        InputError: for numbers out of range, for a guide that is a point, draws codes or is moved already, for chains
            that are to be kept and never moved, for `guide=None` without `persistent`.

    Source: Hoffman 2017, Learning Deep Latent Gaussian Models with Markov Chain Monte Carlo; with persistent chains
    Wei & Tanner 1990, A Monte Carlo Implementation of the EM Algorithm, by gradients.

    >>> from pyro_vae import MLP, FullRank
    >>> type(Moved(MLP((4,)), 2, guide=FullRank, moves=3).start).__name__
    'FullRank'
    """

    asks_model = True
    log_step: Tensor
    accepted: Tensor
    kept: Chains | None  # of all training data

    def __init__(
        self,
        encoder: nn.Module,
        latent_dim: Count,
        *,
        guide: Callable[..., Guide] | None = MeanField,
        moves: Annotated[int, between(0, 10_000)] = 5,
        leapfrogs: Steps = 5,
        chains: Count = 1,
        persistent: bool = False,
        features: Count | None = None,
    ) -> None:
        start = None
        if guide is not None:
            given = {} if features is None else {"features": features}
            start = guide(encoder, latent_dim, **given)
            _check_start(start)
        elif not persistent:
            raise InputError(
                "Moved(guide=None) starts chains from the prior, too far away to forget them at every visit: give "
                "persistent=True"
            )
        if persistent and not moves:
            raise InputError(
                "moves=0 of Moved never moves the chains that persistent=True keeps"
            )
        body = nn.Identity() if start is None else start.encoder
        width = 2 * latent_dim if start is None else start.features
        super().__init__(body, latent_dim, features=width)
        self.start = start
        if start is None:
            self.amortised = False
        else:
            del self.encoder  # which is that of the guide
            for name in ("amortised", "quick_density", "smooth"):
                setattr(self, name, getattr(start, name))
        self.moves, self.leapfrogs = moves, leapfrogs
        self.chains, self.persistent = chains, persistent
        self.register_buffer("log_step", torch.tensor(math.log(first_step(latent_dim))))
        self.register_buffer("accepted", torch.zeros(2, dtype=torch.long))
        self.kept = None

    def __getattr__(self, name: str) -> Any:
        if name == "encoder" and self.start is not None:
            return self.start.encoder
        return super().__getattr__(name)

    def connect(self, model: nn.Module) -> None:
        # Looked at, not owned: its parameters stay the model's alone.
        object.__setattr__(self, "_model", model)
        if self.start is None:
            super().connect(model)
        else:
            self.start.connect(model)
            self.fields = self.start.fields

    def classify(self, classifier: Classifier | Regressor, reads: Reads) -> None:
        raise InputError(
            "Moved moves one vector of reals z, and with a y there is one for each of its values: leave Moved out, or "
            "take a structure without y"
        )

    @property
    def model(self) -> Any:
        """The model whose posterior the chains are of."""
        model = getattr(self, "_model", None)
        if model is None:
            raise InputError("Moved looks at the model: put both into a VAE first")
        return model

    @property
    def bodies(self) -> list[nn.Module]:
        return [self.encoder] if self.start is None else self.start.bodies

    @property
    def context(self) -> int:
        """How many numbers of a condition the guide inside reads, or without one the model."""
        if self.start is not None:
            return self.start.context
        return context_of(getattr(self, "_model", None))

    def factors(self) -> Sequence[Factor]:
        return super().factors() if self.start is None else self.start.factors()

    def known(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return super().known(values) if self.start is None else self.start.known(values)

    def given(self, x: Tensor, *c: Tensor) -> Distribution:
        return super().given(x, *c) if self.start is None else self.start.given(x, *c)

    def posterior(self, h: Tensor) -> Distribution:
        return self.family(h) if self.start is None else self.start.posterior(h)

    def variational_parameters(self, h: Tensor) -> Tensor:
        return h if self.start is None else self.start.variational_parameters(h)

    def family(self, parameters: Tensor) -> Distribution:
        if self.start is not None:
            return self.start.family(parameters)
        return DiagonalNormal(*parameters.chunk(2, -1))

    def parameters_given(self, x: Tensor, *c: Tensor) -> Tensor:
        if self.start is not None:
            return self.start.parameters_given(x, *c)
        data = dict(zip("xc", (x, *c), strict=False))
        draws = self._settled(data)
        scale = draws.std(0).clamp_min(NARROWEST)
        return torch.cat([draws.mean(0), scale.log()], -1)

    def gain(self, data: Mapping[str, Tensor]) -> Tensor:
        """`1/C sum_c log p(x, z'_c)` at the moved draws z', `(batch,)`: what the model is to raise; it is no bound."""
        z = self.move(data)
        joint: Tensor = self.model.log_prob({**data, "z": z})
        return joint.mean(0)

    @torch.no_grad()
    def move(self, data: Mapping[str, Tensor]) -> Tensor:
        """The E-step for a batch: its chains after their moves, `(C, batch, D)`.

        Raises:
            InputError: for a step that does not say of which data the persistent chains are.
        """
        z, step = self._starts(data), self.log_step.exp().expand(len(data["x"]))
        if self.persistent:
            chains = self.kept
            if chains is None or len(chains.here) != len(step):
                raise InputError(
                    "Moved(persistent=True) keeps chains of each training datum, and this step does not say which data "
                    "it has: train by fit, or let it run in guide.kept.visited(rows)"
                )
            fresh = chains.here_steps.isnan()
            z = torch.where(fresh[:, None], z, chains.here.movedim(1, 0))
            step = torch.where(fresh, step, chains.here_steps)
        if not self.moves:
            return z
        with as_evaluated(self.model):
            place, taken = self._look(data, z), []
            for _ in range(self.moves):
                place, accepted, _ = self._move(data, place, step)
                taken.append(accepted)
        self._adapt(place.z, step, torch.stack(taken))
        return place.z

    def _starts(self, data: Mapping[str, Tensor], count: int | None = None) -> Tensor:
        """Draws of the guide, or without one of the prior, `(C, batch, D)`."""
        count = self.chains if count is None else count
        p = self.model.at("z", data) if self.start is None else self.start.at("z", data)
        lead = (count,) if p.batch_shape else (count, len(data["x"]))
        return p.sample(lead)  # type: ignore[no-any-return]

    def _look(self, data: Mapping[str, Tensor], z: Tensor) -> Place:
        """`log p(x, z)` and its gradient in z."""
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            joint = self.model.log_prob({**data, "z": z})
            (gradient,) = torch.autograd.grad(joint.sum(), z)
        return Place(z.detach(), joint.detach(), gradient.detach())

    def _move(self, data: Mapping[str, Tensor], place: Place, step: Tensor) -> Any:
        return hamiltonian_move(
            place, lambda z: self._look(data, z), jittered(step), self.leapfrogs
        )

    def _adapt(self, z: Tensor, step: Tensor, accepted: Tensor) -> None:
        """Count what was accepted, `(moves, C, batch)`, and let step lengths follow it."""
        share = accepted.to(step).mean((0, 1))
        count = torch.full_like(self.accepted[1], accepted.numel())
        self.accepted.add_(torch.stack([accepted.sum(), count]))
        if self.kept is None:
            self.log_step.add_(RATE * (share.mean() - TARGET))
            return
        step = tuned(step, share)
        self.log_step.copy_(step.log().mean())
        self.kept.here.copy_(z.movedim(0, 1))
        self.kept.here_steps.copy_(step)

    @torch.no_grad()
    def _settled(self, data: Mapping[str, Tensor]) -> Tensor:
        """Draws of chains that were moved from the prior until they settled, `(draws, batch, D)`."""
        with as_evaluated(self.model):
            z = self._starts(data, CHAINS)
            place, kept = self._look(data, z), []
            step = torch.full_like(place.log_density[0], first_step(self.latent_dim))
            for i in range(SETTLING + KEPT):
                place, accepted, _ = self._move(data, place, step)
                if i < SETTLING:
                    step = tuned(step, accepted.to(step).mean(0))
                else:
                    kept.append(place.z)
        return torch.cat(kept)

    def keep(self, size: int) -> None:
        """Make room for the chains of so many training data, none of which has started.

        Raises:
            InputError: for more than memory holds.
        """
        like = next(p for p in self.model.parameters() if p.is_floating_point())
        self.kept = Chains(size, self.chains, like.new_zeros(self.latent_dim))

    def training_state(self) -> dict[str, Tensor]:
        """What a run has to keep to go on, beside the parameters: the chains of all data and their step lengths."""
        if self.kept is None:
            return {}
        return {"z": self.kept.z, "steps": self.kept.steps}

    def put_training_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a `training_state`."""
        self.keep(len(state["steps"]))
        assert self.kept is not None
        self.kept.z.copy_(state["z"])
        self.kept.steps.copy_(state["steps"])

    def counted(self) -> float:
        """The share of moves that were accepted since the last call; nan where there were none."""
        taken, tried = self.accepted.tolist()
        self.accepted.zero_()
        return taken / tried if tried else math.nan


def _check_start(start: Any) -> None:
    """Refuse a guide whose draws cannot be moved."""
    name = type(start).__name__
    if isinstance(start, Moved):
        raise InputError(
            "Moved moves the draws of a guide, and those of Moved are moved already"
        )
    if not start.has_density:
        raise InputError(
            f"Moved starts at draws of a guide with a density, and {name} is a point: take another, such as MeanField"
        )
    if start.discrete:
        raise InputError(
            f"Moved follows gradients of reals, and the draws of {name} are codes: take another, such as MeanField"
        )


@contextmanager
def as_evaluated(model: nn.Module) -> Iterator[None]:
    """The model without dropout and in full precision, and no validation of what is far out."""
    modes = {m: m.training for m in model.modules() if m.training}
    device = next(model.parameters()).device.type
    for module in modes:
        module.training = False
    try:
        with pyro.validation_enabled(False), torch.autocast(device, enabled=False):
            yield
    finally:
        for module, training in modes.items():
            module.training = training
