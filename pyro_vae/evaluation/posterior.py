"""The guide against the posterior itself: q(z|x) beside draws of p(z|x) by NUTS, for a few data."""

import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from pyro.infer import MCMC, NUTS
from pyro.infer.autoguide.initialization import init_to_sample
from torch import Tensor
from torch.distributions import LowRankMultivariateNormal, MultivariateNormal, Normal

from pyro_vae.data.fields import cut
from pyro_vae.data.inputs import Call, as_data
from pyro_vae.distributions.hamiltonian import (
    Place,
    first_step,
    hamiltonian_move,
    jittered,
    tuned,
)
from pyro_vae.engine.alike import sparing
from pyro_vae.engine.graphs import compiled
from pyro_vae.evaluation.question import (
    Answer,
    Drawing,
    Evaluated,
    Printed,
    Progress,
    Question,
    Tick,
    Trained,
    unseen,
)
from pyro_vae.evaluation.results import quiet_arviz
from pyro_vae.evaluation.weighting import a_few, latents_of
from pyro_vae.foundation.abstract import (
    forked_random,
    is_own,
    localise,
    parameters_of,
    running,
    unchecked,
)
from pyro_vae.foundation.checks import MOST, Draws, Number, at_least, at_most, checked
from pyro_vae.foundation.errors import InputError
from pyro_vae.foundation.memory import require
from pyro_vae.inference.objectives.base import independent
from pyro_vae.inference.pairs import of_pair
from pyro_vae.inference.particles import draws_of, way_alone
from pyro_vae.inference.scores import Flat, draw, score
from pyro_vae.inference.terms import SUMMED, Program, Site, double, terms

if TYPE_CHECKING:
    import arviz

RHAT_LIMIT = 1.01  # both from Vehtari et al. 2021
ESS_LIMIT = 400
CHAINS = 4
GUIDE_DRAWS = 10_000  # for each datum
FEWEST = 4  # draws of a chain: each is split in two for R-hat
HEADS = {
    "kl": "KL(q || p)",
    "kl_noise": "noise",
    "mean_off": "mean off",
    "mean_off_error": "± MC",
    "ratio_least": "sd ratio: least",
    "ratio_median": "median",
    "ratio_most": "most",
    "ratio_error": "± MC",
    "rhat": "R-hat",
    "ess_bulk": "ESS",
    "ess_tail": "tail",
    "divergences": "diverged",
}
# What helps where trajectories diverge.
CURES = {"nuts": "raise target_accept", "hmc": "take kernel='nuts'"}
WHOLE = ("ess_bulk", "ess_tail", "divergences")
MOMENTS = (
    *("mean", "mean_errors", "sd", "sd_errors"),
    *("guide_mean", "guide_sd", "rhat"),
)
EXPLAINED = [
    "KL(q || p): of the Gaussians with the moments of both, nats; noise: what the error of the draws adds",
    "mean off: the largest |E_q[z] - E[z]| of a latent, in its posterior standard deviations",
    "sd ratio: guide over posterior; R-hat is the largest of all latents, ESS and tail are the least",
]
DIVERGED = 1000.0  # change of energy of a trajectory from which Pyro calls it divergent
COMPILED = 10_000  # gradients one after the other from which a graph of them repays
DENSE = 50  # latents up to which the mass matrix is dense: more entries than that are not learnt in a warm-up


Samples = Annotated[int, at_least(FEWEST), at_most(MOST)]


@contextmanager
def _without_numba() -> Iterator[None]:
    """Have ArviZ leave Numba alone, with which its `mcse` fails under NumPy 2.5."""
    from arviz.utils import Numba

    before, Numba.numba_flag = Numba.numba_flag, False
    try:
        yield
    finally:
        Numba.numba_flag = before


@dataclass(frozen=True)
class PosteriorComparison(Printed):
    """Draws of `p(z|x)` and of `q(z|x)` for N data, their moments, and how far the chains can be trusted.

    All latents of a datum stand in one vector of length D, site by site; `names` says which is which.

    Attributes:
        draws: of the posterior, by NUTS, `(N, chains, draws, D)`.
        diverging: which of them ended a divergent trajectory, `(N, chains, draws)` booleans.
        guide_draws: of the guide, `(N, M, D)`.
        guide_mean: `E_q[z|x]`, `(N, D)`.
        guide_covariance: `Cov_q[z|x]`, `(N, D, D)`.
        closed: whether the guide's moments are in closed form (Gaussians) and not those of `guide_draws`.
        sites: the latent sites in their order, each with the shape of one datum's latent.
        numbers: what the table calls the data, N whole numbers.
        kernel: of the chains, `'nuts'` or `'hmc'`.
    """

    draws: Tensor
    diverging: Tensor
    guide_draws: Tensor
    guide_mean: Tensor
    guide_covariance: Tensor
    closed: bool
    sites: dict[str, torch.Size]
    numbers: Sequence[int]
    kernel: str = "nuts"

    def __len__(self) -> int:
        return len(self.draws)

    @property
    def names(self) -> list[str]:
        """Of the D latents: `z[0]`, `z[1]`, ..., or `z[0, 1]` for a latent that is a matrix."""
        names = []
        for name, shape in self.sites.items():
            indices = map(list, itertools.product(*map(range, shape)))
            names += [f"{name}{index}" if index else name for index in indices]
        return names

    @cached_property
    def mean(self) -> Tensor:
        """`E[z|x]`, `(N, D)`."""
        return self.draws.mean((1, 2))

    @cached_property
    def covariance(self) -> Tensor:
        """`Cov[z|x]`, `(N, D, D)`."""
        return _moments(self.draws.flatten(1, 2))[1]

    @property
    def sd(self) -> Tensor:
        """Standard deviations of the posterior, `(N, D)`."""
        return _widths(self.covariance)

    @cached_property
    def mean_errors(self) -> Tensor:
        """Monte-Carlo standard errors of `mean`, `(N, D)`."""
        return self._diagnose("mcse", method="mean")

    @cached_property
    def sd_errors(self) -> Tensor:
        """Monte-Carlo standard errors of `sd`, `(N, D)`."""
        return self._diagnose("mcse", method="sd")

    @cached_property
    def rhat(self) -> Tensor:
        """Rank-normalised split R-hat, `(N, D)`; 1 where the chains agree."""
        return self._diagnose("rhat")

    @cached_property
    def ess_bulk(self) -> Tensor:
        """Effective number of draws for the centre, `(N, D)`."""
        return self._diagnose("ess", method="bulk")

    @cached_property
    def ess_tail(self) -> Tensor:
        """Effective number of draws for the 5 % and 95 % quantiles, the smaller, `(N, D)`."""
        return self._diagnose("ess", method="tail")

    @property
    def divergences(self) -> Tensor:
        """How many trajectories diverged, `(N,)`."""
        return self.diverging.sum((1, 2))

    @property
    def shift(self) -> Tensor:
        """`(E_q[z|x] - E[z|x]) / sd`, in standard deviations of the posterior, `(N, D)`."""
        return (self.guide_mean - self.mean) / self.sd

    @property
    def guide_sd(self) -> Tensor:
        """Standard deviations of the guide, `(N, D)`."""
        return _widths(self.guide_covariance)

    @property
    def ratio(self) -> Tensor:
        """`guide_sd / sd`, `(N, D)`; below 1 the guide is too narrow."""
        return self.guide_sd / self.sd

    @cached_property
    def kl(self) -> Tensor:
        """`KL(q || p)` of the two Gaussians with these moments, nats, `(N,)`; nan where a covariance is singular.

        Not `KL(q(z|x) || p(z|x))` unless both are Gaussian: of their shapes it sees two moments.
        """
        return _gaussian_kl(
            self.guide_mean - self.mean, self.guide_covariance, self.covariance
        )

    def most_different(self, i: int, most: int) -> list[int]:
        """At most so many latents of datum i whose `kl` together is large, found one after the other; in order."""
        shift = self.guide_mean[i] - self.mean[i]
        q, p = self.guide_covariance[i], self.covariance[i]
        chosen: list[int] = []
        while len(chosen) < min(most, len(shift)):
            others = [d for d in range(len(shift)) if d not in chosen]
            tried = torch.tensor([[*chosen, d] for d in others])
            block = (tried.unsqueeze(-1), tried.unsqueeze(-2))
            kl = _gaussian_kl(shift[tried], q[block], p[block])
            chosen = tried[kl.argmax()].tolist()
        return sorted(chosen)

    @cached_property
    def kl_noise(self) -> Tensor:
        """What `kl` would be on average for a guide with the posterior's own moments, from the noise alone, `(N,)`.

        `sum_d 1/2n + (D + 1)/4n`, n the effective number of draws for each latent's mean and for its square.
        """
        d = self.draws.shape[-1]
        squares = (self.draws - self.mean[:, None, None]).square()
        of_mean = self._diagnose("ess", method="mean")
        of_squares = self._diagnose("ess", squares, method="mean")
        noise = (0.5 / of_mean + (d + 1) / 4 / of_squares).sum(-1)
        if self.closed:
            return noise
        return noise + d * (d + 3) / 4 / self.guide_draws.shape[1]

    def _diagnose(
        self, name: str, draws: Tensor | None = None, **options: Any
    ) -> Tensor:
        """A diagnostic of ArviZ by name, `(N, D)`."""
        import xarray

        values = (self.draws if draws is None else draws).permute(1, 2, 0, 3).numpy()
        data = xarray.Dataset({"z": (("chain", "draw", "datum", "latent"), values)})
        diagnostic = getattr(quiet_arviz(), name)
        with _without_numba():
            return torch.from_numpy(diagnostic(data, **options)["z"].to_numpy())

    @cached_property
    def rows(self) -> list[dict[str, float]]:
        """The table: for each datum `kl`, `kl_noise`, and of its latents the worst of each number.

        `mean_off` is the largest `|shift|`; `ratio_least`, `ratio_median` and `ratio_most` describe `ratio`; `rhat` is
        the largest, `ess_bulk` and `ess_tail` are the least; `_error` marks the largest Monte-Carlo error of NUTS.
        """
        columns: dict[str, Tensor] = {
            "kl": self.kl,
            "kl_noise": self.kl_noise,
            "mean_off": self.shift.abs().amax(1),
            "mean_off_error": (self.mean_errors / self.sd).amax(1),
            "ratio_least": self.ratio.amin(1),
            "ratio_median": self.ratio.quantile(0.5, 1),
            "ratio_most": self.ratio.amax(1),
            "ratio_error": (self.ratio * self.sd_errors / self.sd).amax(1),
            "rhat": self.rhat.amax(1),
            "ess_bulk": self.ess_bulk.amin(1),
            "ess_tail": self.ess_tail.amin(1),
            "divergences": self.divergences,
        }
        return [
            {name: column[i].item() for name, column in columns.items()}
            for i in range(len(self))
        ]

    @property
    def warnings(self) -> list[str]:
        """What makes a datum's row doubtful, one sentence each.

        Source: Vehtari, Gelman, Simpson, Carpenter & Bürkner 2021, Rank-Normalization, Folding, and Localization.
        """
        warnings = []
        for number, row in zip(self.numbers, self.rows, strict=True):
            ess = min(row["ess_bulk"], row["ess_tail"])
            if not row["rhat"] <= RHAT_LIMIT:
                warnings.append(
                    f"datum {number}: R-hat {row['rhat']:.3f} is above {RHAT_LIMIT}, so the chains disagree and the "
                    "row does not describe p(z|x); draw more, and look for several modes"
                )
            elif not ess >= ESS_LIMIT:
                warnings.append(
                    f"datum {number}: an ESS of {ess:.0f} is below {ESS_LIMIT}, so R-hat and the Monte-Carlo errors "
                    "are uncertain too; draw more"
                )
            if row["divergences"] > 0:
                warnings.append(
                    f"datum {number}: {row['divergences']} trajectories diverged, so the chains may have missed a part "
                    f"of p(z|x); {CURES[self.kernel]}"
                )
        return warnings

    def answer(self) -> Answer:
        """The table, what its columns are, and what makes a row doubtful."""
        n, chains, draws, d = self.draws.shape
        of_guide = f"from {self.guide_draws.shape[1]} draws"
        if self.closed:
            of_guide = "in closed form"
        table = {}
        for i, row in zip(self.numbers, self.rows, strict=True):
            table[f"datum {i}"] = row | {name: _whole(row[name]) for name in WHOLE}
        return Answer(
            title="The guide beside the posterior",
            about=f"p(z|x) of {n} data with {d} latents by {self.kernel.upper()}, {chains} chains of "
            f"{draws} draws; q(z|x) {of_guide}",
            rows=table,
            heads=HEADS,
            sentences=EXPLAINED,
            warnings=self.warnings,
            figures={"posterior": self.drawing()},
            numbers={
                "num_chains": chains,
                "num_samples": draws,
                "kernel": self.kernel,
                "guide_moments_closed": self.closed,
                "data": list(self.numbers),
                "rows": self.rows,
                "latents": self.names,
                **{name: getattr(self, name).tolist() for name in MOMENTS},
            },
        )

    def drawing(self, *, most: int = 4) -> Drawing:
        """Draws of both for the datum of the largest KL, of the `most` latents that together differ most."""
        from pyro_vae import plots

        i = int(self.kl.argmax())
        order = self.most_different(i, most)
        pair = (self.draws[i].flatten(0, 1), self.guide_draws[i])
        true, guide = (draws[:, order].numpy() for draws in pair)
        title = f"posterior and guide of datum {self.numbers[i]}, KL = {self.kl[i].item():.2f} nats"
        if len(order) < len(self.names):
            title += f"\nthe {len(order)} latents of {len(self.names)} that together differ most"
        names = [self.names[d] for d in order]
        of = f"draws of the posterior by {self.kernel.upper()} (blue), of the guide (orange)"
        caption = f"The latents of one datum: {of}."
        return Drawing(
            partial(plots.posterior_pairs, true, guide, names, title), caption
        )

    def to_arviz(self) -> "arviz.InferenceData":
        """An ArviZ `InferenceData`: the sites in `posterior`, by chain, draw and datum; `sample_stats.diverging`."""
        import xarray

        groups, start, frame = {}, 0, ("chain", "draw", "datum")
        for name, shape in self.sites.items():
            values = self.draws[..., start : start + shape.numel()].permute(1, 2, 0, 3)
            start += shape.numel()
            dims = (*frame, *(f"{name}_dim_{i}" for i in range(len(shape))))
            groups[name] = (dims, values.reshape(*values.shape[:3], *shape).numpy())
        stats = {"diverging": (frame, self.diverging.permute(1, 2, 0).numpy())}
        return quiet_arviz().InferenceData(
            posterior=xarray.Dataset(groups), sample_stats=xarray.Dataset(stats)
        )


def _whole(value: float) -> float:
    """A count without its decimals."""
    return round(value) if math.isfinite(value) else value


@of_pair
@checked
def compare_posterior(
    model: Program,
    guide: Program,
    x: Any,
    *,
    num_samples: Samples = 1000,
    warmup_steps: Number | None = None,
    num_chains: Draws = CHAINS,
    target_accept: float = 0.8,
    guide_samples: Draws = GUIDE_DRAWS,
    kernel: Literal["nuts", "hmc"] = "nuts",
    leapfrogs: Number = 10,
    progress: Tick = None,
) -> PosteriorComparison:
    """Draw from `p(z|x)` of each datum by NUTS, or HMC, and set the guide's `q(z|x)` beside it.

    Every datum and chain has a sampler of its own, with its own step size and mass matrix, started at a draw from the
    prior; up to 50 latents the mass matrix is dense. In one sampler for all data the hardest datum
    would set the step size of all, and a divergence could not be blamed on a datum. With `kernel='hmc'` all chains of
    all data move at once, by the moves of annealing and of the guide `Moved`, each datum with a step size of its own
    and no mass matrix: many draws in a short time, which R-hat and ESS tell the worth of.

    Args:
        model: any Pyro model with a data plate at dim -1 and continuous latents, called with a batch of data; or a
            pair, without a guide behind it.
        guide: its guide, called with the same.
        x: a few data, `(N, *shape)`: a tensor, or anything with a length whose slices are tensors.
        num_samples: draws of each chain, after warm-up; 4 or more.
        warmup_steps: draws that adapt step size and mass matrix and are dropped; by default half as many.
        num_chains: for each datum, one after the other; 2 or more.
        target_accept: acceptance to adapt the step size for; higher takes shorter steps and diverges less.
        guide_samples: draws of the guide for each datum.
        kernel: `'nuts'`, or `'hmc'`, whose `target_accept` is 0.65 whatever is given.
        leapfrogs: of each move of HMC.
        progress: called with the number of draws done since its last call, those of the warm-up included.

    Returns:
        A `PosteriorComparison`, in double precision on the CPU.

    Raises:
        InputError: for empty data or data that the likelihood does not accept, for no latent or a discrete one, for a
            guide that is a point, for a datum without a finite density, for a pair that `terms` refuses or that
            subsamples, for numbers out of range.

    Source: Hoffman & Gelman 2014, The No-U-Turn Sampler; Vehtari et al. 2021, Rank-Normalization, Folding, and
    Localization: An Improved R-hat for Assessing Convergence of MCMC (the diagnostics, by ArviZ).

    >>> import pyro
    >>> from pyro_vae import MLP, Bernoulli, MeanField, StandardNormal, VAE
    >>> pyro.set_rng_seed(0)
    >>> vae = VAE(StandardNormal(2), MLP((2,), (1, 4)), Bernoulli((4,)), MeanField(MLP((4,)), 2))
    >>> compare_posterior(vae.model, vae.guide, torch.eye(4)[:1], num_samples=20, num_chains=2).ratio.shape
    torch.Size([1, 2])
    """
    warmup_steps = num_samples // 2 if warmup_steps is None else warmup_steps
    if not isinstance(target_accept, float) or not 0 < target_accept < 1:
        raise InputError(f"target_accept={target_accept!r} must lie between 0 and 1")
    x = as_data(model, x)
    size = len(x)
    x = x[:size]  # looked up once: some data sets draw their noise anew at every look
    localise(model, guide)
    with parameters_of(model, guide), torch.enable_grad():
        sites = _latents(model, guide, x)
        _check_memory(sites, size, num_samples * num_chains, guide_samples)
        q = _guide_draws(guide, x, sites, guide_samples, size)
        gaussian = _gaussian(sites)
        names = [name for name, site in sites.items() if site.p is not None]
        how: dict[str, Any] = {
            "num_samples": num_samples,
            "warmup_steps": warmup_steps,
            "num_chains": num_chains,
            "progress": progress,
        }
        if kernel == "hmc":
            with unchecked(model):
                draws, diverging = _by_moves(model, x, names, leapfrogs, **how)
        else:
            options = {"target_accept_prob": target_accept}
            options |= {"full_mass": q.shape[-1] <= DENSE}
            draws, diverging = _by_nuts(model, x, size, names, options, **how)
    mean, covariance = _moments(q) if gaussian is None else gaussian
    return PosteriorComparison(
        draws=draws,
        diverging=diverging,
        guide_draws=q,
        guide_mean=mean,
        guide_covariance=covariance,
        closed=gaussian is not None,
        sites={name: sites[name].p.event_shape for name in names},
        numbers=range(size),
        kernel=kernel,
    )


def _by_nuts(
    model: Program,
    x: Any,
    size: int,
    names: list[str],
    options: dict[str, Any],
    *,
    num_samples: int,
    warmup_steps: int,
    num_chains: int,
    progress: Tick,
) -> tuple[Tensor, Tensor]:
    """Draws by NUTS, `(N, chains, draws, D)`, and which of them ended a divergent trajectory."""
    draws, diverging = [], []
    for i in range(size):
        for _ in range(num_chains):
            kernel = NUTS(
                model, init_strategy=init_to_sample, max_plate_nesting=1, **options
            )
            hook = None if progress is None else (lambda *_: progress(1))
            chain = MCMC(
                kernel, num_samples, warmup_steps, hook_fn=hook, disable_progbar=True
            )
            _sample(chain, cut(x, slice(i, i + 1), size), i)
            values = chain.get_samples()
            draws.append(_flat([values[name] for name in names], num_samples))
            diverging.append(torch.zeros(num_samples, dtype=torch.bool))
            diverging[-1][chain.diagnostics()["divergences"]["chain 0"]] = True
    shape = (size, num_chains)
    return (
        torch.stack(draws).unflatten(0, shape),
        torch.stack(diverging).unflatten(0, shape),
    )


@torch.no_grad()
def _by_moves(
    model: Program,
    x: Any,
    names: list[str],
    leapfrogs: int,
    *,
    num_samples: int,
    warmup_steps: int,
    num_chains: int,
    progress: Tick,
) -> tuple[Tensor, Tensor]:
    """The same by Hamiltonian moves of all chains of all data at once."""
    call = Call(x)
    flat = Flat(model, call)

    def densities(args: Any, kwargs: Any, z: Tensor) -> tuple[list[Tensor], None]:
        here = Call(args[0], args[1:], kwargs)
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            values, log_jacobian = flat.values(z)
            joint = score(model, here, values).joint + log_jacobian
            (gradient,) = torch.autograd.grad(joint.sum(), z)
        return [joint.detach(), gradient], None

    looks = leapfrogs * (warmup_steps + num_samples)
    found: Any = sparing(densities) if is_own(model) else densities
    repaid = looks >= COMPILED and way_alone(model, call.args, {}) is not None
    if isinstance(model, torch.nn.Module) and repaid:
        found = compiled(densities, [model], "the chains", asked=False)

    def look(z: Tensor) -> Place:
        return Place(z, *found(call.args, call.kwargs, z)[0])

    # Chains (C, N, D) from draws of the prior, with a step size for each datum.
    place = look(flat.vector(draw(model, call, num_chains)))
    step = torch.full_like(place.log_density[0], first_step(flat.size))
    draws, diverging = [], []
    for i in range(warmup_steps + num_samples):
        moved = hamiltonian_move(place, look, jittered(step), leapfrogs)
        place = moved.place
        if i < warmup_steps:
            step = tuned(step, moved.accepted.to(step).mean(0))
        else:
            values, _ = flat.values(place.z)
            draws.append(_flat([values[name] for name in names], *place.z.shape[:2]))
            diverging.append(~(moved.gain > -DIVERGED).cpu())
        if progress is not None:
            progress(moved.accepted.numel())
    return torch.stack(draws).permute(2, 1, 0, 3), torch.stack(diverging).permute(
        2, 1, 0
    )


def _check_memory(
    sites: dict[str, Site], size: int, samples: int, guide_samples: int
) -> None:
    """Raise `InputError` where the draws, which are all kept, are more than memory holds."""
    per_draw = _bytes_of_draws(sites, size)
    what = f"keeping {samples:,} draws for each datum"
    require(per_draw * samples, what, "num_samples or num_chains")
    what = f"keeping guide_samples={guide_samples} draws for each datum"
    require(per_draw * guide_samples, what, "guide_samples")


def _bytes_of_draws(sites: dict[str, Site], size: int) -> int:
    """Memory for one draw of each of so many data, kept twice in double precision."""
    return 16 * size * sum(site.value[0, 0].numel() for site in sites.values())


def _sample(chain: MCMC, x: Any, i: int) -> None:
    """Run a chain for datum i, which is all of the batch x.

    Raises:
        InputError: where no start has a finite density.
    """
    try:
        chain.run(x)
    except ValueError as error:
        if "initial params" not in str(error):
            raise
        raise InputError(
            f"no draw from the prior has a finite p(x, z) for datum {i} (counted from 0), so that NUTS has nowhere to "
            "start: leave that datum out"
        ) from error


@torch.no_grad()
def _latents(model: Program, guide: Program, x: Any) -> dict[str, Site]:
    """The guide's sites, of one draw for each datum; `InputError` for those that NUTS cannot move."""
    t = terms(model, guide, x)
    if t.scale != 1:
        raise InputError(
            f"the pair scales its log-density by {t.scale:g}, so it subsamples and has no p(z|x) to draw"
        )
    if SUMMED in t.sites:
        raise InputError(
            "the model has latents of few values that the guide does not draw, and NUTS would draw the others for each "
            "of these values apart: sum them out in the model, as MixtureSameFamily does"
        )
    sites = latents_of(t.sites)
    if not sites:
        raise InputError("the model has no latents, so there is no p(z|x)")
    for name, site in sites.items():
        if site.p is not None and site.p.support.is_discrete:
            raise InputError(
                f"latent site {name!r} is discrete, and NUTS moves along gradients: it needs reals"
            )
        if site.point:
            raise InputError(
                "the guide is a point for each datum, without a width to compare; take another guide"
            )
    return sites


def _gaussian(sites: dict[str, Site]) -> tuple[Tensor, Tensor] | None:
    """Mean and covariance of the guide, `(N, D)` and `(N, D, D)`, if it is one Gaussian."""
    q: Any = next(iter(sites.values())).q
    if len(sites) > 1:
        return None
    if isinstance(q, MultivariateNormal | LowRankMultivariateNormal):
        covariance = q.covariance_matrix
    elif independent(q) and isinstance(q.base_dist, Normal):
        covariance = q.variance.diag_embed()
    else:
        return None
    return double(q.mean.detach()[0]).cpu(), double(covariance.detach()[0]).cpu()


@torch.no_grad()
def _guide_draws(
    guide: Program, x: Any, sites: dict[str, Site], count: int, size: int
) -> Tensor:
    """Draws of the guide, `(N, count, D)`: of one site from its distribution, else by running the guide."""
    if len(sites) == 1:
        values = [site.q.sample((count,)).squeeze(1) for site in sites.values()]
    else:
        with unchecked(guide):
            drawn = draws_of(guide, (x,), {}, count)
        names = [name for name, site in sites.items() if site.p is not None]
        values = [drawn[name]["value"] for name in names]
    return _flat(values, count, size).transpose(0, 1)


def _gaussian_kl(shift: Tensor, q: Tensor, p: Tensor) -> Tensor:
    """`KL(N(shift, q) || N(0, p))`, `(N, D), (N, D, D), (N, D, D) -> (N,)`; nan where a covariance is singular."""
    (q, bad_q), (p, bad_p) = (torch.linalg.cholesky_ex(c) for c in (q, p))
    spread, moved = (
        torch.linalg.solve_triangular(p, numbers, upper=False).square().sum((1, 2))
        for numbers in (q, shift.unsqueeze(-1))
    )
    log_p, log_q = (root.diagonal(dim1=-2, dim2=-1).log() for root in (p, q))
    kl = 0.5 * (spread + moved - shift.shape[-1]) + (log_p - log_q).sum(-1)
    return kl.masked_fill((bad_q > 0) | (bad_p > 0), math.nan)


def _flat(values: list[Tensor], *shape: int) -> Tensor:
    """Latents side by side as one vector, `(*shape, D)`."""
    return torch.cat([double(v).reshape(*shape, -1) for v in values], -1).cpu()


def _widths(covariance: Tensor) -> Tensor:
    """Standard deviations, `(N, D, D) -> (N, D)`."""
    return covariance.diagonal(dim1=-2, dim2=-1).sqrt()


def _moments(draws: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance over draws: `(N, n, D) -> (N, D), (N, D, D)`."""
    mean = draws.mean(1)
    centred = draws - mean.unsqueeze(1)
    return mean, centred.mT @ centred / (draws.shape[1] - 1)


class Posterior(Question):
    """The guide beside draws of the posterior by NUTS, for a few data.

    Args:
        n: how many of the data, spread evenly over those with a finite log p(x).
        draws: of each chain, after its warm-up.
        chains: for each datum.
        kernel: NUTS for each datum and chain by itself, or HMC for all at once, the moves of annealing.
    """

    def __init__(
        self,
        *,
        n: Number = 4,
        draws: Samples = 1000,
        chains: Draws = 4,
        kernel: Literal["nuts", "hmc"] = "nuts",
    ) -> None:
        self.n, self.draws, self.chains = n, draws, chains
        self.kernel: Literal["nuts", "hmc"] = kernel

    def check(self, run: Trained, data: Evaluated) -> None:
        model, guide, few = run.vae.model, run.vae.guide, a_few(run, data)
        with running(model, guide), forked_random():
            sites = _latents(model, guide, few.data)
        per_draw = _bytes_of_draws(sites, min(self.n, len(data)))
        self.afford(per_draw * self.draws * self.chains, "n", "draws", "chains")
        self.afford(per_draw * GUIDE_DRAWS, "n")

    def ask(self, run: Trained, data: Evaluated, progress: Progress = unseen) -> Answer:
        few, places = data.some(self.n)
        each = self.chains * (self.draws + self.draws // 2)
        with progress("draws", len(few) * each) as done:
            compared = compare_posterior(
                run.vae.model,
                run.vae.guide,
                few,
                num_samples=self.draws,
                num_chains=self.chains,
                kernel=self.kernel,
                progress=done,
            )
        return replace(compared, numbers=places.tolist()).answer()
