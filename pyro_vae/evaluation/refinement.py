"""Per-datum refinement: q(z|x) fitted to each datum by itself, for log p(x) and for what amortisation costs."""

from collections.abc import Callable, Iterator
from typing import Any

import pyro
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin as Distribution
from torch import Tensor

from pyro_vae.data.inputs import as_data
from pyro_vae.distributions.stopped import stopped
from pyro_vae.engine.memory import MEMORY, bytes_of, pieces
from pyro_vae.evaluation.question import Answer, Evaluated, Trained
from pyro_vae.evaluation.results import LogMarginal
from pyro_vae.evaluation.weighting import Weighting, log_marginal
from pyro_vae.foundation.abstract import forked_random, local_parameters, localise
from pyro_vae.foundation.checks import Number, at_least_one, check, checked
from pyro_vae.foundation.errors import InputError
from pyro_vae.foundation.memory import require
from pyro_vae.inference.terms import double, has_density, kind
from pyro_vae.models.conditionals.base import Guide
from pyro_vae.models.vae import VAE

MANY = 10_000  # draws in a step from which it is worth measuring what one needs

Family = Callable[[Tensor], Any]


class RefinedGuide:
    """`q(z|x)` for the data it was fitted to, each with variational parameters of its own: a Pyro guide.

    Called with these data, or with a run of them such as `x[10:20]`, it samples `z` in the plate `data`; so it goes
    wherever a guide goes, `terms` and `log_marginal` among them. It knows no other data. Where the family has networks
    (flows), they are those of the guide it came from.

    Args:
        x: the data, `(N, *shape)`.
        parameters: their variational parameters, `(N, P)`.
        family: `(..., P)` -> the member of the family with these parameters.
        improved: for which data the refined parameters were better than the start and were taken, `(N,)` booleans.

    Raises:
        InputError: when called with other data, or with another number of them.
    """

    def __init__(self, x: Tensor, parameters: Tensor, family: Family, improved: Tensor) -> None:
        self.x, self.parameters, self.family, self.improved = x, parameters, family, improved

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, rows: Any) -> "RefinedGuide":
        """The guide of some of the data; `rows` as for a tensor."""
        return RefinedGuide(self.x[rows], self.parameters[rows], self.family, self.improved[rows])

    def given(self, x: Tensor) -> Distribution:
        """`q(z|x)`: `(batch, *shape)` -> a distribution of batch shape `(batch,)`, event shape `(latent_dim,)`."""
        n = len(x)
        if 0 < n <= len(self) and x.shape[1:] == self.x.shape[1:]:
            first = (self.x[: len(self) - n + 1] == x[:1]).flatten(1).all(1)
            for i in first.nonzero().flatten().tolist():
                if bool((self.x[i : i + n] == x).all()):
                    return self.family(self.parameters[i : i + n])
        raise InputError(
            f"this q(z|x) was refined for {len(self)} data and is called with {n} that are no run of them"
        )

    def __call__(self, x: Tensor) -> Tensor:
        q = self.given(x)
        with pyro.plate("data", len(x), dim=-1):
            return pyro.sample("z", q)


@checked
def refine(
    vae: VAE,
    x: Any,
    *,
    steps: Number = 100,
    rate: float = 0.1,
    num_particles: Number = 8,
    elbo_particles: Number = 100,
) -> RefinedGuide:
    """Fit q(z|x) to each datum by itself, within the guide's own family: `max ELBO(x; parameters_x)`.

    Adam climbs from the guide's own parameters, in ever shorter steps. Its gradient leaves out the score of q, as `STL`
    does, unless `log q` is slow away from the guide's draws (`IAF`). In the end the better of start and end stays, by
    fresh draws, the same noise for both: up to their error, no datum is worse off. Nothing in the VAE is changed.

    Args:
        vae: the pair; a guide with a density, whose draws carry gradients.
        x: a batch of data, `(N, *shape)`; all are fitted at once.
        steps: gradient steps.
        rate: about how far the first step moves a parameter; the rate falls to 0 with the last.
        num_particles: draws for each datum and step; also how many are in memory at a time.
        elbo_particles: draws for each datum that judge start and end.

    Returns:
        A guide for these data.

    Raises:
        InputError: for empty data or data that the likelihood does not accept, for a number below 1, a rate that is not
            positive, or a guide that is a point (`Delta`) or whose draws carry no gradient.

    Source: Cremer, Li & Duvenaud 2018, Inference Suboptimality in Variational Autoencoders (the local optimum); Roeder,
    Wu & Duvenaud 2017, Sticking the Landing (the gradient).

    >>> from pyro_vae import MLP, Bernoulli, MeanField, StandardNormal, VAE
    >>> vae = VAE(StandardNormal(2), MLP((2,), (1, 4)), Bernoulli((4,)), MeanField(MLP((4,)), 2))
    >>> x = torch.eye(4)
    >>> log_marginal(vae.model, refine(vae, x, steps=5), x, num_particles=100).values.shape
    torch.Size([4])
    """
    return refined_from(
        vae, x, steps=steps, rate=rate, num_particles=num_particles, elbo_particles=elbo_particles
    )[0]


def refined_from(
    vae: VAE,
    x: Tensor,
    *,
    steps: int,
    rate: float,
    num_particles: int = 8,
    elbo_particles: int = 100,
) -> tuple[RefinedGuide, Distribution]:
    """The refined guide, and the q(z|x) it started from."""
    at_least_one("refine", steps=steps, num_particles=num_particles, elbo_particles=elbo_particles)
    if not isinstance(rate, (int, float)) or not rate > 0:
        raise InputError(f"rate={rate!r} of refine must be positive")
    x = as_data(vae.model, x)
    localise(vae.model, vae.guide)
    with local_parameters():
        with torch.no_grad():
            start, family = starting_parameters(vae, x)
            q = family(start)
        if not has_density(q):
            raise InputError(
                "the guide is a point for each datum and has no ELBO to refine; take one with a density"
            )
        if not q.has_rsample:
            raise InputError(
                f"refinement needs draws that carry gradients, and those of the {kind(q)} do not"
            )
        _check_memory(vae, x, family, start, num_particles)
        path = getattr(vae.guide, "quick_density", True)
        at = start.clone().requires_grad_()
        adam = torch.optim.Adam([at], lr=rate, betas=(0.9, 0.99))
        for i in range(steps):
            adam.param_groups[0]["lr"] = rate * (1 - i / steps)
            with torch.enable_grad():
                bound = _bound(vae, x, family(at), num_particles, path=path)
                (at.grad,) = torch.autograd.grad(-bound.mean(0).sum(), at)
            adam.step()
        end = at.detach()
        judged = paired_bounds(vae, x, (q, family(end)), elbo_particles, at_a_time=num_particles)
        before, after = judged[0].mean, judged[1].mean
        improved = (~(after <= before) & after.isfinite()).to(end.device)
    parameters = end.where(improved.unsqueeze(-1), start)
    return RefinedGuide(x, parameters, family, improved), q


@torch.no_grad()
def starting_parameters(vae: VAE, x: Tensor) -> tuple[Tensor, Family]:
    """The variational parameters `(batch, P)` of the guide's q(z|x), and their family."""
    guide = vae.guide
    if isinstance(guide, Guide):
        return guide.parameters_given(x), guide.family
    return guide.encoder(x), guide.posterior


def _bound(vae: VAE, x: Tensor, q: Any, draws: int, *, path: bool = False) -> Tensor:
    """`log p(x, z) - log q(z|x)` at draws of q, `(draws, batch)`; with `path`, log q as a function of z alone."""
    z = q.rsample((draws,))
    return vae.model.log_joint(x, z) - (stopped(q) if path else q).log_prob(z)


def _check_memory(vae: VAE, x: Tensor, family: Family, start: Tensor, draws: int) -> None:
    """Raise `InputError` where a step needs more memory than there is, by what a draw of one datum needs."""
    if draws * len(x) < MANY:
        return
    needed = bytes_of(lambda: _bound(vae, x[:1], family(start[:1]), 1)) * draws * len(x)
    told = f"refining {len(x)} data at a time with num_particles={draws}"
    require(needed, told, "num_particles or batch_size")


class Spread:
    """Mean and standard deviation over draws that come in pieces, for each datum, `(batch,)`.

    Source: Chan, Golub & LeVeque 1983, Algorithms for Computing the Sample Variance.
    """

    def __init__(self) -> None:
        self.count, self.mean, self.squares = 0, torch.zeros(()), torch.zeros(())

    def add(self, values: Tensor) -> None:
        """Take in `(k, batch)` more draws."""
        k, centre = len(values), values.mean(0)
        shift, total = centre - self.mean.to(centre), self.count + k
        self.squares = self.squares.to(centre) + (values - centre).square().sum(0)
        self.squares = self.squares + shift.square() * (self.count * k / total)
        self.mean, self.count = self.mean.to(centre) + shift * (k / total), total

    @property
    def std(self) -> Tensor:
        """Of single draws."""
        return (self.squares / max(self.count - 1, 1)).sqrt()


@torch.no_grad()
def paired_bounds(
    vae: VAE, x: Tensor, pair: tuple[Any, Any], draws: int, *, at_a_time: int = 8
) -> tuple[Spread, Spread, Spread]:
    """`_bound` for two q(z|x) from the same noise, and their difference, which has less of it; each over the draws."""
    found = Spread(), Spread(), Spread()
    for count in pieces(draws, at_a_time):
        with forked_random():
            first = double(_bound(vae, x, pair[0], count))
        second = double(_bound(vae, x, pair[1], count))
        for spread, values in zip(found, (first, second, second - first), strict=True):
            spread.add(values)
    return found


def batches(vae: VAE, x: Any, batch_size: int) -> Iterator[Tensor]:
    """The data in parts. Each is looked up once: a training split draws its noise anew at every look."""
    check("batch_size", batch_size, Number)
    x = as_data(vae.model, x)
    for start in range(0, len(x), batch_size):
        yield x[start : start + batch_size]


@checked
def log_marginal_refined(
    vae: VAE,
    x: Any,
    *,
    num_particles: Number = 5000,
    steps: Number = 100,
    rate: float = 0.1,
    batch_size: Number = 200,
    memory: Number = MEMORY,
    progress: Callable[[int], None] | None = None,
) -> LogMarginal:
    """`log_marginal` with the `refine`d q(z|x) of each datum as its proposal.

    The ELBO draws q to the bulk of the posterior. Where the family is too poor for its shape, the tails of the refined
    q can be too light even so, and Pareto k says for which data.

    Args:
        vae: the pair.
        x: the data, `(N, *shape)`: a tensor, or anything with a length whose slices are tensors.
        num_particles: K, as in `log_marginal`.
        steps: gradient steps, as in `refine`.
        rate: as in `refine`.
        batch_size: data refined at a time.
        memory: bytes to keep within while weighting, as in `log_marginal`; refining is bounded by `batch_size`.
        progress: called with the number of draws weighted since its last call.

    Returns:
        A `LogMarginal` with N values and their errors, nats per datum.

    Raises:
        InputError: as `refine` and `log_marginal`, or for a `batch_size` below 1.

    Source: Burda, Grosse & Salakhutdinov 2015, Importance Weighted Autoencoders (the weights); Hjelm et al. 2016,
    Iterative Refinement of the Approximate Posterior for Directed Belief Networks (refined proposals).

    >>> from pyro_vae import MLP, Bernoulli, MeanField, StandardNormal, VAE
    >>> vae = VAE(StandardNormal(2), MLP((2,), (1, 4)), Bernoulli((4,)), MeanField(MLP((4,)), 2))
    >>> len(log_marginal_refined(vae, torch.eye(4), num_particles=100, steps=5, batch_size=3))
    4
    """
    result: LogMarginal | None = None
    for batch in batches(vae, x, batch_size):
        guide = refine(vae, batch, steps=steps, rate=rate)
        part = log_marginal(
            vae.model, guide, batch, num_particles=num_particles, memory=memory, progress=progress
        )
        result = part if result is None else result + part
    assert result is not None
    return result


class Refined(Weighting):
    """`log p(x)` by weighting draws from q(z|x) fitted to each datum.

    Args:
        steps: gradient steps for each datum.
        num_particles: draws for each datum; by default those of the evaluation.
    """

    def weigh(self, run: Trained, data: Evaluated, **options: Any) -> tuple[LogMarginal, Answer]:
        result = log_marginal_refined(run.vae, data.x, steps=self.steps, **options)
        told = f"q(z|x) was fitted to each datum by {self.steps} steps before weighting"
        return result, result.answer().plus(sentences=[told])
