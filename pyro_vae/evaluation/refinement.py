"""Per-datum refinement: q(z|x) fitted to each datum by itself, for log p(x) and for what amortisation costs."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_vae.data.inputs import Call
from pyro_vae.engine.memory import MEMORY, bytes_of, pieces
from pyro_vae.evaluation.question import Answer, Evaluated, Question, Tick, Trained
from pyro_vae.evaluation.results import LogMarginal
from pyro_vae.evaluation.weighting import (
    Weighting,
    a_few,
    check_draws,
    is_word,
    latents_of,
    weighted,
)
from pyro_vae.foundation.abstract import (
    Ignoring,
    forked_random,
    running,
)
from pyro_vae.foundation.checks import Number, Positive, checked
from pyro_vae.foundation.errors import InputError
from pyro_vae.foundation.memory import require
from pyro_vae.inference.bounds import called_whole, scored
from pyro_vae.inference.objectives.gradients import stopped_log_q
from pyro_vae.inference.pairs import pair_of
from pyro_vae.inference.particles import Program, takes_particles
from pyro_vae.inference.scores import score
from pyro_vae.inference.shift import Deltas, RefinedGuide, Shifted, starting
from pyro_vae.inference.terms import double, has_density, kind

MANY = 10_000  # draws in a step from which it is worth measuring what one needs


@checked
def refine(
    pair: Any,
    x: Any,
    *args: Any,
    steps: Number = 100,
    rate: Positive = 0.1,
    num_particles: Number = 8,
    elbo_particles: Number = 100,
    **kwargs: Any,
) -> RefinedGuide:
    """Fit q(z|x) to each datum by itself, within the guide's own family: `max ELBO(x; parameters_x)`.

    Adam climbs from the guide's own parameters, in ever shorter steps. Its gradient leaves out the score of q, as `STL`
    does, unless `log q` is slow away from the guide's draws (`IAF`). In the end the better of start and end stays, by
    fresh draws, the same noise for both: up to their error, no datum is worse off. Nothing in the pair is changed.

    The parameters are those of a guide of this package, such as the outputs of its head; of any other guide, the
    arguments of the distribution at each site that it draws, each mapped to reals.

    Args:
        pair: a VAE, or a tuple of a Pyro model and its guide; a guide with a density, whose draws carry gradients.
        x: a batch of data, `(N, *shape)`; all are fitted at once.
        *args: what both are called with beside x.
        steps: gradient steps.
        rate: about how far the first step moves a parameter; the rate falls to 0 with the last.
        num_particles: draws for each datum and step; also how many are in memory at a time.
        elbo_particles: draws for each datum that judge start and end.
        **kwargs: what both are called with by name.

    Returns:
        A guide for these data.

    Raises:
        InputError: for empty data or data that the likelihood does not accept, for a number below 1, a rate that is not
            positive, or a guide that is a point (`Delta`), whose draws carry no gradient, or with a distribution whose
            arguments are not known.

    Source: Cremer, Li & Duvenaud 2018, Inference Suboptimality in Variational Autoencoders (the local optimum); Roeder,
    Wu & Duvenaud 2017, Sticking the Landing (the gradient).

    >>> from pyro_vae import MLP, VAE, Bernoulli, MeanField, StandardNormal, log_marginal
    >>> vae = VAE(StandardNormal(2), MLP((2,), (1, 4)), Bernoulli((4,)), MeanField(MLP((4,)), 2))
    >>> x = torch.eye(4)
    >>> log_marginal(vae.model, refine(vae, x, steps=5), x, num_particles=100).values.shape
    torch.Size([4])
    """
    model, guide = pair_of(pair)
    data = Call.of(model, x, args, kwargs)[:]
    with running(model, guide):
        return refined(
            model,
            guide,
            data,
            steps=steps,
            rate=rate,
            num_particles=num_particles,
            elbo_particles=elbo_particles,
        )


def refined(
    model: Program,
    guide: Program,
    call: Call,
    *,
    steps: int,
    rate: float,
    num_particles: int = 8,
    elbo_particles: int = 100,
) -> RefinedGuide:
    """`refine` of data that have been checked, all in one batch."""
    path = _check(model, guide, call) and quick(guide)
    layout, start = starting(guide, call)
    at = {site: delta.clone() for site, delta in start.items()}
    pair = Ignoring(model, "shift"), Shifted(guide, layout)
    _check_memory(*pair, call, start, num_particles)

    # Ever shorter steps of Adam; what the model and the guide share with all data stays as it is.
    moved = [delta.requires_grad_() for delta in at.values()]
    adam = torch.optim.Adam(moved, lr=rate, betas=(0.9, 0.99))
    for i in range(steps):
        adam.param_groups[0]["lr"] = rate * (1 - i / steps)
        with torch.enable_grad():
            bound = _bound(*pair, call, at, num_particles, path=path).mean(0).sum()
            gradients = torch.autograd.grad(-bound, moved)
        for delta, gradient in zip(moved, gradients, strict=True):
            delta.grad = gradient
        adam.step()

    # The better of start and end, by the same noise.
    end = {site: delta.detach() for site, delta in at.items()}
    before, after, _ = paired_bounds(
        *pair, call, (start, end), elbo_particles, at_a_time=num_particles
    )
    improved = ~(after.mean <= before.mean) & after.mean.isfinite()
    improved = improved.to(call.device)
    shift = {site: end[site].where(improved.unsqueeze(-1), start[site]) for site in end}
    return RefinedGuide(
        guide, layout, call, start=start, shift=shift, improved=improved
    )


def quick(guide: Program) -> bool:
    """Whether `log q` at any value costs no more than at the guide's own draws."""
    return bool(getattr(guide, "quick_density", True))


def _bound(
    model: Program,
    guide: Program,
    call: Call,
    shift: Deltas,
    draws: int,
    *,
    path: bool = False,
) -> Tensor:
    """`log p(x, z) - log q(z|x)` at draws of q, `(draws, batch)`; with `path`, log q as a function of z alone."""
    t = scored(model, guide, call.named(shift=shift), draws)
    if not path:
        return t.summed(t.log_px + t.log_pz - t.log_qz)
    latents = latents_of(t.sites)
    if sum(not site.listed for site in latents.values()) == 1:
        return t.summed(t.log_px + t.log_pz - stopped_log_q(t))
    fixed = call.named(shift={site: delta.detach() for site, delta in shift.items()})
    values = {name: site.value for name, site in latents.items()}
    return t.summed(t.log_px + t.log_pz - score(guide, fixed, values).joint)


def _check(model: Program, guide: Program, call: Call) -> bool:
    """Raise `InputError` for a guide that cannot be refined; whether each latent is a draw of its own."""
    with forked_random(), torch.no_grad():
        sites = latents_of(scored(model, guide, call, 1).sites).values()
    for site in sites:
        if site.point:
            raise InputError(
                "the guide is a point for each datum and has no ELBO to refine; take one with a density"
            )
        if is_word(site):
            raise InputError(
                "the latents of a datum are the words nearest to its encoding, so there is nothing to refine; ask for "
                "log p(x) without refinement"
            )
        if has_density(site.q) and not site.listed and not site.q.has_rsample:
            raise InputError(
                f"refinement needs draws that carry gradients, and those of the {kind(site.q)} do not"
            )
    return all(has_density(site.q) for site in sites)


def _check_memory(
    model: Program, guide: Program, call: Call, shift: Deltas, draws: int
) -> None:
    """Raise `InputError` where a step needs more memory than there is, by what a draw of one datum needs."""
    if draws * len(call) < MANY or not takes_particles(model, guide):
        return
    one = {site: delta[:1] for site, delta in shift.items()}
    each = bytes_of(lambda: _bound(model, guide, call[:1], one, 1))
    what = f"refining {len(call)} data at a time with num_particles={draws}"
    require(each * draws * len(call), what, "num_particles or batch_size")


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
    model: Program,
    guide: Program,
    call: Call,
    pair: tuple[Deltas, Deltas],
    draws: int,
    *,
    at_a_time: int = 8,
) -> tuple[Spread, Spread, Spread]:
    """`_bound` for two q(z|x) from the same noise, and their difference, which has less of it; each over the draws."""
    spreads = Spread(), Spread(), Spread()
    for count in pieces(draws, at_a_time):
        with forked_random():
            first = double(_bound(model, guide, call, pair[0], count))
        second = double(_bound(model, guide, call, pair[1], count))
        bounds = first, second, second - first
        for spread, values in zip(spreads, bounds, strict=True):
            spread.add(values)
    return spreads


class Refinement(NamedTuple):
    """What `weighted_refined` found.

    Attributes:
        data: that were refined.
        q: the guide fitted to each of them.
        marginal: log p(x), weighted from it.
        rows: how many data were refined at a time.
    """

    data: Call
    q: RefinedGuide
    marginal: LogMarginal
    rows: int


def weighted_refined(
    pair: Any,
    x: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    steps: int,
    rate: float,
    batch_size: int,
    **weighing: Any,
) -> Refinement:
    """Refine so many data at a time, or all where the pair is called with all of them, and weigh draws from the result.

    The further arguments are those of `weighted`.
    """
    model, guide = pair_of(pair)
    data = Call.of(model, x, args, kwargs).once()
    with running(model, guide):
        rows = len(data) if called_whole(model, guide, data) else batch_size
        guides = [
            refined(model, guide, batch, steps=steps, rate=rate)
            for batch in data.batches(None, rows)
        ]
    q = RefinedGuide.joined(guides, data)
    marginal = weighted(*q.pair(model), data.named(shift=q.shift), **weighing)
    return Refinement(data, q, marginal, rows)


@checked
def log_marginal_refined(
    pair: Any,
    x: Any,
    *args: Any,
    num_particles: Number = 5000,
    steps: Number = 100,
    rate: Positive = 0.1,
    batch_size: Number = 200,
    memory: Number = MEMORY,
    compile: bool | str = "auto",
    progress: Tick = None,
    **kwargs: Any,
) -> LogMarginal:
    """`log_marginal` with the `refine`d q(z|x) of each datum as its proposal.

    The ELBO draws q to the bulk of the posterior. Where the family is too poor for its shape, the tails of the refined
    q can be too light even so, and Pareto k says for which data.

    Args:
        pair: a VAE, or a tuple of a Pyro model and its guide.
        x: the data, `(N, *shape)`, as in `log_marginal`.
        *args: what both are called with beside a batch of x; tensors of N rows are cut along with it.
        num_particles: K, as in `log_marginal`.
        steps: gradient steps, as in `refine`.
        rate: as in `refine`.
        batch_size: data refined at a time.
        memory: bytes to keep within while weighting, as in `log_marginal`; refining is bounded by `batch_size`.
        compile: weigh by a compiled graph, as in `log_marginal`.
        progress: called with the number of draws weighted since its last call.
        **kwargs: what both are called with by name, cut as `args`.

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
    return weighted_refined(
        pair,
        x,
        args,
        kwargs,
        steps=steps,
        rate=rate,
        batch_size=batch_size,
        num_particles=num_particles,
        memory=memory,
        compile=compile,
        progress=progress,
    ).marginal


def check_refined(question: Question, run: Trained, data: Evaluated) -> None:
    """Raise `InputError` where q(z|x) cannot be fitted to a datum, or draws from it need more than the memory bound."""
    model, guide, few = run.vae.model, run.vae.guide, a_few(run, data)
    with running(model, guide), forked_random():
        q = refined(
            model, guide, few, steps=0, rate=0.1, num_particles=1, elbo_particles=1
        )
    check_draws(question, data, *q.pair(model), few.named(shift=q.shift))


class Refined(Weighting):
    """`log p(x)` by weighting draws from q(z|x) fitted to each datum.

    Args:
        steps: gradient steps for each datum.
        num_particles: draws for each datum; by default those of the evaluation.
    """

    def check(self, run: Trained, data: Evaluated) -> None:
        check_refined(self, run, data)

    def weigh(
        self, run: Trained, data: Evaluated, **options: Any
    ) -> tuple[LogMarginal, Answer]:
        result = log_marginal_refined(run.vae, data.x, steps=self.steps, **options)
        sentence = (
            f"q(z|x) was fitted to each datum by {self.steps} steps before weighting"
        )
        return result, result.answer().plus(sentences=[sentence])
