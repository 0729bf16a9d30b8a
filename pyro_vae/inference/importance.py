"""The one place where model and guide meet and log-probabilities are added up."""

from collections.abc import Callable
from typing import Any, NamedTuple

import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine import Trace
from pyro.poutine.broadcast_messenger import BroadcastMessenger
from pyro.poutine.indep_messenger import IndepMessenger
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor

from pyro_vae._errors import InputError

PARTICLES = "particles"


def has_density(q: Any) -> bool:
    """Whether a distribution has a density or mass to weigh draws by: not one that is a single point."""
    return not isinstance(getattr(q, "base_dist", q), dist.Delta)


def kind(d: Any) -> str:
    """The name of a distribution for a message, whatever it is wrapped in."""
    return type(d.base_dist if isinstance(d, torch.distributions.Independent) else d).__name__


class Site(NamedTuple):
    """One `pyro.sample` site: its value, its distribution under the model and (if latent) under the guide.

    `log_p` and `log_q` have shape `(num_particles, batch)`; `p`, `q` and their log-probabilities are `None` where the
    model or the guide has no such site. `seen` is the value as it went into the model, a view of `value`: a gradient
    hook on it acts on what comes from the model alone.
    """

    value: Tensor
    p: Any
    q: Any
    log_p: Tensor | None
    log_q: Tensor | None
    seen: Tensor


class Terms(NamedTuple):
    """Everything a bound is made of, for `z_k ~ q(z|x)`; log-probabilities in nats, each `(num_particles, batch)`.

    Attributes:
        log_px: `log p(x|z)`, summed over the observed sites.
        log_pz: `log p(z)`, summed over the latent sites.
        log_qz: `log q(z|x)`, summed over the guide's sites.
        sites: every site by name, for objectives that need more than the three sums.
        scale: size of the `data` plate over the size of the batch; 1 unless the pair subsamples inside.
        kl_weight: what `Annealed` weighs `log p(z) - log q(z|x)` by in the objective; 1 otherwise.
    """

    log_px: Tensor
    log_pz: Tensor
    log_qz: Tensor
    sites: dict[str, Site]
    scale: float = 1.0
    kl_weight: Tensor | float = 1.0

    @property
    def log_weight(self) -> Tensor:
        """`log w = log p(x|z) + kl_weight (log p(z) - log q(z|x))`, shape `(num_particles, batch)`."""
        return self.weigh(self.log_pz - self.log_qz) + self.log_px

    def weigh(self, kl: Tensor) -> Tensor:
        """`kl_weight` times a term that stands for the KL or a part of it."""
        return (
            kl if isinstance(self.kl_weight, float) and self.kl_weight == 1 else self.kl_weight * kl
        )

    @property
    def log_score(self) -> Tensor | None:
        """`log q` summed over the sites that cannot be reparameterised, or `None` where all can."""
        discrete = [
            s.log_q for s in self.sites.values() if s.log_q is not None and not s.q.has_rsample
        ]
        return torch.stack(discrete).sum(0) if discrete else None


Program = Callable[..., Any]


class Particles(IndepMessenger):
    """`pyro.plate("particles", size, dim=-2)` without a site of its own for indices that nobody reads."""

    def __init__(self, size: int) -> None:
        super().__init__(PARTICLES, size, dim=-2)

    def _process_message(self, msg: Any) -> None:
        super()._process_message(msg)
        shape = getattr(msg["fn"], "batch_shape", (self.size, None))
        if len(shape) != 2 or shape[0] != self.size:
            BroadcastMessenger._pyro_sample(msg)


def traces(
    model: Program, guide: Program, *args: Any, num_particles: int, **kwargs: Any
) -> tuple[Trace, Trace]:
    """Trace the guide, replay the model against it, both inside a plate of particles at dim -2: (model, guide)."""
    with Particles(num_particles):
        guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
        seen = guide_trace.copy()
        for name, site in seen.nodes.items():
            if (
                site["type"] == "sample"
                and isinstance(site["value"], Tensor)
                and site["value"].requires_grad
            ):
                seen.nodes[name] = {**site, "value": site["value"].view_as(site["value"])}
        model_trace = poutine.trace(poutine.replay(model, trace=seen)).get_trace(*args, **kwargs)
    return prune_subsample_sites(model_trace), prune_subsample_sites(guide_trace)


def terms(
    model: Program, guide: Program, *args: Any, num_particles: int = 1, **kwargs: Any
) -> Terms:
    """Draw `num_particles` latents from the guide for each datum and score them under model and guide.

    Works for any Pyro pair whose sites all lie in one plate at dim -1, whether or not it comes from this package.

    Args:
        model: Pyro model.
        guide: Pyro guide.
        *args: what both are called with.
        **kwargs: the same.
        num_particles: K, the number of draws for each datum.

    Returns:
        The `Terms`, per particle and datum; nothing is summed over the batch.

    Raises:
        InputError: when a site lies outside the data plate or inside a further one, when model and guide have different
            latent sites, or when sites are scaled differently.

    >>> from pyro_vae import MLP, Bernoulli, MeanField, StandardNormal, VAE
    >>> vae = VAE(StandardNormal(2), MLP((2,), (1, 4)), Bernoulli((4,)), MeanField(MLP((4,)), 2))
    >>> terms(vae.model, vae.guide, torch.ones(8, 4), num_particles=5).log_weight.shape
    torch.Size([5, 8])
    """
    p, q = traces(model, guide, *args, num_particles=num_particles, **kwargs)
    p_sites: dict[str, Any] = {name: s for name, s in p.nodes.items() if s["type"] == "sample"}
    q_sites: dict[str, Any] = {
        name: s for name, s in q.nodes.items() if s["type"] == "sample" and not s["is_observed"]
    }
    shape, scale = _frame({**q_sites, **p_sites})
    if extra := sorted(n for n, s in p_sites.items() if not s["is_observed"] and n not in q_sites):
        raise InputError(f"latent site {extra[0]!r} of the model does not stand in the guide")
    if extra := sorted(
        n for n, s in q_sites.items() if n not in p_sites and not s["infer"].get("is_auxiliary")
    ):
        raise InputError(f"site {extra[0]!r} of the guide does not stand in the model")

    log_px: list[Tensor] = []
    log_pz: list[Tensor] = []
    log_qz: list[Tensor] = []
    sites: dict[str, Site] = {}
    for name in {**q_sites, **p_sites}:
        p_site, q_site = p_sites.get(name), q_sites.get(name)
        log_p = None if p_site is None else _log_prob(name, p_site, shape)
        log_q = None if q_site is None else _log_prob(name, q_site, shape)
        if log_q is not None:
            log_qz.append(log_q)
        if log_p is not None:
            (log_px if q_site is None else log_pz).append(log_p)
        first: Any = q_site or p_site
        last: Any = p_site or q_site
        p_fn, q_fn = p_site and p_site["fn"], q_site and q_site["fn"]
        sites[name] = Site(first["value"], p_fn, q_fn, log_p=log_p, log_q=log_q, seen=last["value"])

    def total(parts: list[Tensor]) -> Tensor:
        some: Tensor = next(iter(p_sites.values()))["value"]
        return sum(parts[1:], parts[0]) if parts else some.new_zeros(()).expand(shape)

    return Terms(total(log_px), total(log_pz), total(log_qz), sites, scale)


def _frame(sites: dict[str, Any]) -> tuple[tuple[int, int], float]:
    """The shape (num_particles, batch) and the scale that all sites share."""
    if not sites:
        raise InputError("model and guide have no sample sites, so there is nothing to infer")
    shapes, scales = {}, {}
    for name, site in sites.items():
        plates = {f.dim: f for f in site["cond_indep_stack"] if f.vectorized}
        if -1 not in plates:
            raise InputError(
                f"site {name!r} lies outside the data plate; put it in a pyro.plate at dim=-1"
            )
        if len(plates) > 2:
            inner = next(f.name for f in plates.values() if f.dim != -1 and f.name != PARTICLES)
            raise InputError(
                f"site {name!r} lies in the plate {inner!r} too; declare its dimensions with .to_event()"
            )
        shapes[name], scales[name] = (plates[-2].size, plates[-1].size), float(site["scale"])
    first = next(iter(shapes))
    for name, shape in shapes.items():
        if shape != shapes[first]:
            sizes = f"{shapes[first][1]} and {shape[1]}"
            raise InputError(
                f"sites {first!r} and {name!r} lie in data plates of different sizes, {sizes}"
            )
        if scales[name] != scales[first]:
            raise InputError(
                f"sites {first!r} and {name!r} are scaled differently; weigh the KL by ELBO(beta=...)"
            )
    return shapes[first], scales[first]


def _log_prob(name: str, site: Any, shape: tuple[int, int]) -> Tensor:
    log_prob = scale_and_mask(site["fn"].log_prob(site["value"]), mask=site["mask"])
    if log_prob.dim() > 2:
        raise InputError(
            f"site {name!r} has log-probabilities of shape {tuple(log_prob.shape)}, not (particles, data) = {shape}; "
            "declare the event dimensions with .to_event()"
        )
    return log_prob if log_prob.shape == shape else torch.broadcast_to(log_prob, shape)
