"""What an objective is, and what it may ask of a pair."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import pyro.infer
import torch
from pyro.poutine import Trace
from torch import Tensor, nn

from pyro_vae.distributions import Word
from pyro_vae.foundation.checks import Count
from pyro_vae.foundation.errors import InputError
from pyro_vae.foundation.sizes import Declared
from pyro_vae.inference.pairs import method_of_pair
from pyro_vae.inference.terms import (
    Program,
    Several,
    Site,
    Terms,
    has_density,
    kind,
    terms,
    traces,
)


class Objective(Declared, pyro.infer.ELBO, ABC):
    """A bound to be maximised; an instance of `pyro.infer.ELBO`, so that it works wherever Pyro takes one.

    To write one: implement `bound`, from the `Terms` of `num_particles` draws to one number for each datum. `ELBO` is
    the simplest example. `objective(model, guide)`, or `objective(vae)`, is a torch module whose call returns the loss,
    minus the bound summed over the batch; `SVI` and `pyro.infer.SVI` take the objective as their `loss`.

    Latent sites that cannot be reparameterised get the score-function estimator, unbiased for every bound: the gradient
    is `grad bound + sum_k (bound - baseline_k) grad log q(z_k|x)`. A bound that is a function of `log_px`, `log_pz` and
    `log_qz` alone says so by `by_particle`; then `baseline_k` is the bound with particle k replaced by the mean of the
    others, of a single particle the mean of the other data's bounds. Else it is 0.

    Args:
        num_particles: K, the number of latent draws for each datum.
    """

    needs: tuple[str, ...] = ()  # of REQUIREMENTS: what each latent site must offer
    apart: bool = (
        False  # True: takes the guide's density at each site apart from the draw
    )
    score_function: bool = True  # False: the bound's gradient is right as it is for latents without reparameterisation
    by_particle: bool = False  # True: a function of the particles' log_px, log_pz and log_qz, datum by datum
    needs_draws: bool = False  # True: where nothing is drawn this is log p(x) whatever the guide, which learns nothing
    across_data: bool = (
        False  # True: what a datum adds depends on which others are in its batch
    )
    takes_shares: bool = False  # True: it averages over particles by `t.mean`, `t.log_mean` and their kin alone

    def __init__(self, *, num_particles: Count = 1) -> None:
        super().__init__(num_particles=num_particles)

    # The name of the bound on log p(x) that is maximised where it is another than the ELBO, `{K}` for the particles:
    # the best epoch is then chosen by it. Objectives that are no such bound, such as penalised ones, have none.
    own_bound: str | None = None

    @property
    def tightens(self) -> bool:
        """Whether the best epoch is chosen by this objective's own bound instead of the ELBO."""
        return self.own_bound is not None and self.num_particles > 1

    @property
    def judged_by(self) -> str:
        """What the best epoch is chosen by, such as `'ELBO'` or `'IWAE-5 bound'`."""
        own = self.own_bound if self.tightens else None
        return "ELBO" if own is None else own.format(K=self.num_particles)

    @property
    def plain(self) -> "Objective":
        """The objective without what changes while training goes on."""
        return self

    def settled(self, epoch: float) -> bool:
        """Whether, when so many epochs are done, the objective is what it will be: no warm-up goes on."""
        return True

    @abstractmethod
    def bound(self, t: Terms) -> Tensor:
        """`(num_particles, batch)` terms -> `(batch,)` bound, in nats per datum."""

    def terms_of(
        self, model: Program, guide: Program, *args: Any, **kwargs: Any
    ) -> Terms:
        """The terms of `num_particles` draws for each datum, of which the loss is made."""
        return terms(model, guide, *args, num_particles=self.num_particles, **kwargs)

    def check(self, t: Terms) -> None:
        """Raise `InputError` when the sites of a pair, seen in its terms, do not offer what this objective `needs`."""
        self._check_shares(t)
        latents = [s for s in t.sites.values() if s.q is not None and s.drawn]
        if self.needs_draws and latents and all(s.listed for s in latents):
            raise InputError(
                f"{type(self).__name__} is log p(x) itself where all values of the latents are enumerated, and its "
                "guide would learn nothing; take ELBO, or ReweightedWakeSleep"
            )
        for need in self.needs:
            holds, reason = REQUIREMENTS[need]
            for name, site in t.sites.items():
                if site.q is None or (not site.drawn and need not in PAIRED):
                    continue
                if site.p is None and need in PAIRED:
                    raise InputError(
                        f"{type(self).__name__} looks at each latent under guide and model, and site {name!r} of the "
                        "guide does not stand in the model; take ELBO or IWAE"
                    )
                if not holds(site):
                    raise InputError(
                        f"{type(self).__name__} {reason.format(name=name, q=kind(site.q), p=kind(site.p))}"
                    )
        if self.apart and (names := _chained(t)):
            raise InputError(
                f"{type(self).__name__} takes the guide's density apart from its draws site by site, and its q of "
                f"{names[1]!r} depends on {names[0]!r}, so the gradient would be wrong; take ELBO or IWAE"
            )

        if "closed KL" in self.needs and (names := _turned(t)):
            raise InputError(
                f"{type(self).__name__} takes the KL of each latent by itself, and the model draws {names[0]!r} given "
                f"{names[1]!r}, which the guide draws after it, so they would add up to another number; take ELBO"
            )

    def _check_shares(self, t: Terms) -> None:
        """Raise `InputError` where particles stand for enumerated values and the objective takes them for draws."""
        if t.log_share is not None and not self.takes_shares:
            listed = next(name for name, site in t.sites.items() if site.listed)
            raise InputError(
                f"{type(self).__name__} looks at draws of each latent, and all values of site {listed!r} are "
                "enumerated instead; take ELBO, or draw it. An objective of your own averages by t.mean and "
                "t.log_mean, and says so by takes_shares = True"
            )

    @property
    def learned(self) -> nn.Module | None:
        """What the objective itself learns, beside the pair: it is trained and kept with it."""
        return None

    def connect(self, model: Program, guide: Program) -> None:
        """Told which pair is to be trained, before it is asked what it `learned`."""

    def prepare(self, size: int, epochs: int) -> None:
        """Told before training: how many data there are, and how many epochs the run will have."""

    def advance(self, epoch: float) -> None:
        """Told before each step: how many epochs are done, as a fraction; for objectives that change on the way."""

    def loss_of(self, t: Terms) -> Tensor:
        """The scalar to be differentiated: minus the bound, summed over the batch (and scaled to the whole plate)."""
        self._check_shares(t)
        gain = self.gain_of(t)
        wanted = tuple(t.log_px.shape[1:])
        found = tuple(gain.shape) if isinstance(gain, Tensor) else type(gain).__name__
        if found != wanted:
            raise InputError(
                f"the bound of {type(self).__name__} must be one number for each datum, of shape {wanted}, not {found}"
            )
        loss = -gain.sum()
        return loss if t.scale == 1 else t.scale * loss

    def gain_of(self, t: Terms) -> Tensor:
        """What is to be differentiated, `(batch,)`: the bound, with the score function of draws that carry no gradient.

        Its value is the bound, with what the guide adds to the objective.
        """
        bound = self.bound(t)
        if self.score_function and t.log_score is not None:
            signal = bound.detach() - self._baseline(
                t, bound
            )  # (batch,) or (num_particles, batch)
            score = t.log_score
            bound = bound + (signal * (score - score.detach())).sum(0)
        return bound if t.aim is None else bound + t.aim

    @torch.no_grad()
    def _baseline(self, t: Terms, bound: Tensor) -> Tensor:
        """What the score function takes off the bound: a number that does not depend on the particle's own draws.

        Source: Mnih & Rezende 2016, Variational Inference for Monte Carlo Objectives, equation 10; of the ELBO it is
        the mean over the other particles, Kool, van Hoof & Welling 2019, Buy 4 REINFORCE Samples, Get a Baseline for
        Free!
        """
        k, size = t.log_px.shape
        if not self.by_particle or t.log_share is not None or k * size == 1:
            return torch.zeros_like(bound)
        others = (bound.sum() - bound) / max(size - 1, 1)
        baseline = others if k == 1 else self.bound(left_one_out(t))
        return baseline.where(baseline.isfinite(), 0.0)

    @method_of_pair
    def __call__(self, model: Program, guide: Program) -> Any:
        """A module whose call with data is the loss."""
        return super().__call__(model, guide)  # type: ignore[arg-type]  # functions too

    @method_of_pair
    def differentiable_loss(
        self, model: Program, guide: Program, *args: Any, **kwargs: Any
    ) -> Tensor:
        """The loss of one draw of the terms, as a tensor: nothing is read back to the host."""
        return self.loss_of(self.terms_of(model, guide, *args, **kwargs))

    @method_of_pair
    def loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """The loss as a number, without gradients."""
        with torch.no_grad():
            return self.differentiable_loss(model, guide, *args, **kwargs).item()

    @method_of_pair
    def loss_and_grads(
        self, model: Program, guide: Program, *args: Any, **kwargs: Any
    ) -> Tensor:
        """The loss, after adding its gradient to the parameters (the call that `pyro.infer.SVI` makes)."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        loss.backward()
        return loss.detach()

    def _get_trace(
        self, model: Program, guide: Program, args: Any, kwargs: Any
    ) -> tuple[Trace, Trace]:
        return traces(model, guide, *args, num_particles=self.num_particles, **kwargs)


def left_one_out(t: Terms) -> Terms:
    """Terms of shape `(K, K, batch)`: at [:, k] the logarithms of particle k are replaced by the mean of the others."""
    k = len(t.log_px)
    own = torch.eye(k, dtype=torch.bool, device=t.log_px.device).unsqueeze(-1)

    def without(v: Tensor) -> Tensor:
        every = v.unsqueeze(1).expand(k, k, -1)
        others = every.masked_fill(own, 0.0).sum(0) / (k - 1)
        return others.unsqueeze(0).where(own, every)

    return t._replace(
        log_px=without(t.log_px), log_pz=without(t.log_pz), log_qz=without(t.log_qz)
    )


def _chained(t: Terms) -> tuple[str, str] | None:
    """Two latents of which the guide draws the second given the first, seen from how gradients flow."""
    sites = {n: s for n, s in t.sites.items() if _drawn(s) and has_density(s.q)}
    if len(sites) < 2:
        return None
    draws = {name: _made_by(site.value) for name, site in sites.items()}
    for name, site in sites.items():
        seen = _behind(site.q.log_prob(site.value.detach()))
        for other, nodes in draws.items():
            if other != name and not nodes.isdisjoint(seen):
                return other, name
    return None


def _turned(t: Terms) -> tuple[str, str] | None:
    """Two latents of which the model draws the first given the second, and the guide the second given the first.

    Then `E_q[log q - log p]` of the first is no expectation of its KL at draws of the second.
    """
    sites = {n: s for n, s in t.sites.items() if _drawn(s) and s.p is not None}
    if len(sites) < 2:
        return None
    draws = {name: _made_by(site.value) for name, site in sites.items()}
    for name, site in sites.items():
        in_model = _behind(site.p.log_prob(site.value.detach()))
        for other, later in sites.items():
            given = other != name and not draws[other].isdisjoint(in_model)
            if given and not draws[name].isdisjoint(_behind(later.value)):
                return name, other
    return None


def _drawn(site: Site) -> bool:
    return site.q is not None and site.drawn


def _behind(value: Tensor) -> set[Any]:
    """All operations that a number was made by."""
    seen: set[Any] = set()
    queue = [value.grad_fn]
    while queue:
        node = queue.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        queue += [above for above, _ in node.next_functions]
    return seen


def _made_by(value: Tensor) -> set[Any]:
    """The operations that made a draw; of draws made one after the other and stacked, those of each."""
    made = value.grad_fn
    if made is None:
        return set()
    return (
        {made, *(n for n, _ in made.next_functions)}
        if "Stack" in made.name()
        else {made}
    )


def independent(q: Any) -> bool:
    """Whether a latent vector's entries are independent, each with a density of its own."""
    if isinstance(q, Several):
        return all(independent(part) for part in q.parts)
    return (
        isinstance(q, torch.distributions.Independent)
        and q.reinterpreted_batch_ndims == 1
        and has_density(q)
    )


def closed_kl(site: Site) -> Tensor:
    """`KL(q || p)` of a site in closed form, `(num_particles, batch)`; `NotImplementedError` where there is none."""
    q, p = site.q, site.p
    if isinstance(q, Several):
        pairs = zip(q.parts, p.parts, strict=True)
        return torch.stack([_closed_kl(one, other) for one, other in pairs])
    return _closed_kl(q, p)


def closed_kls(t: Terms) -> Tensor:
    """The same summed over the latents, `(num_particles, batch)`."""
    sites = [s for s in t.sites.values() if s.q is not None]
    shape = next(s.log_q.shape for s in sites if s.log_q is not None)
    return torch.stack([closed_kl(s).expand(shape) for s in sites]).sum(0)


def _closed_kl(q: Any, p: Any) -> Tensor:
    if (
        isinstance(q, _Gaussian)
        and independent(p)
        and isinstance(p.base_dist, torch.distributions.Normal)
    ):
        # E[-log p] - H(q)
        loc, scale = p.base_dist.loc, p.base_dist.scale
        squares = (q.variance + (q.mean - loc).square()) / scale.square()
        constant = 0.5 * q.event_shape[0] * math.log(2 * math.pi)
        return 0.5 * (squares + 2 * scale.log()).sum(-1) + constant - q.entropy()
    return torch.distributions.kl_divergence(q, p)


_Gaussian = (
    torch.distributions.MultivariateNormal
    | torch.distributions.LowRankMultivariateNormal
)


def _has_closed_kl(site: Site) -> bool:
    try:
        closed_kl(site)
    except NotImplementedError:
        return False
    return True


# What is asked of a latent in the guide together with its counterpart in the model.
PAIRED = ("closed KL", "independence", "path")

REQUIREMENTS: dict[str, tuple[Callable[[Site], bool], str]] = {
    "prior": (
        lambda s: s.p is None or s.log_p is not None,
        "sets each latent beside the model's distribution of it, and that of site {name!r} depends on a latent that is "
        "summed out; take ELBO or IWAE",
    ),
    "density": (
        lambda s: not s.point,
        "weighs draws by the guide's density, and at site {name!r} it is a point",
    ),
    "spread": (
        lambda s: not isinstance(s.q, Word),
        "compares draws of a datum, and at site {name!r} all are the same words of a codebook; take ELBO",
    ),
    "gradient": (
        lambda s: s.listed or bool(s.q.has_rsample),
        "needs draws that carry gradients, and those of the {q} at site {name!r} do not",
    ),
    "scored": (
        lambda s: not s.q.has_rsample,
        "is for draws that carry no gradients, and those of the {q} at site {name!r} do; take IWAE, which is the same "
        "for such as do not, or DReG",
    ),
    "codes": (
        lambda s: hasattr(s.q, "straight_through"),
        "is for latents of one-hot codes, and those of site {name!r} are drawn from a {q}; take MeanFieldELBO or ELBO",
    ),
    "closed KL": (
        _has_closed_kl,
        "needs a KL in closed form, and there is none from the {q} of the guide to the {p} of the model at site "
        "{name!r}; take ELBO",
    ),
    "independence": (
        lambda s: independent(s.q) and independent(s.p),
        "needs entries that are independent in guide and prior, and at site {name!r} they are a {q} and a {p}",
    ),
    "path": (
        lambda s: has_density(s.q),
        "takes the guide's density apart from its draws, and at site {name!r} it is a point",
    ),
}
