"""Estimators of log p(x) and of the ELBO, as results that carry their errors."""

import math
import operator
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial, reduce
from typing import Annotated, Any, NamedTuple

import pyro
import torch
from torch import Tensor, nn

from pyro_vae.data.inputs import Call, as_data, once, rows_within
from pyro_vae.distributions import Word, Words
from pyro_vae.engine.alike import sparing
from pyro_vae.engine.graphs import REPAID, choice, compiled
from pyro_vae.engine.memory import (
    CHUNK,
    LARGEST_CHUNK,
    MEMORY,
    bytes_of,
    bytes_of_one_more,
    pieces,
)
from pyro_vae.evaluation.diagnostics import pareto_k, tail_length
from pyro_vae.evaluation.question import (
    Answer,
    Evaluated,
    Progress,
    Question,
    Tick,
    Trained,
    unseen,
)
from pyro_vae.evaluation.results import PARTS, LogMarginal
from pyro_vae.foundation.abstract import (
    Around,
    forked_random,
    is_own,
    is_traced,
    localise,
    parameters_of,
    running,
    unchecked,
)
from pyro_vae.foundation.checks import Number, between, checked
from pyro_vae.foundation.errors import InputError
from pyro_vae.inference.bounds import called_whole, scored
from pyro_vae.inference.held import far_down
from pyro_vae.inference.pairs import of_pair
from pyro_vae.inference.particles import way_of
from pyro_vae.inference.shift import paired
from pyro_vae.inference.terms import Program, Site, Terms, double
from pyro_vae.models.conditionals import Codebook
from pyro_vae.models.program import Factor
from pyro_vae.models.program import Program as OwnProgram

Seed = Annotated[int, between(0, 2**32 - 1)]
WEIGHTS = 128  # bytes of a draw's weights while they are summed up
NAMED = 5  # wild data that are named


class Accumulator:
    """Running sums over the particles of B data, so that any number of particles fits in memory; float64 throughout."""

    def __init__(self, num_particles: int) -> None:
        self.num_particles = num_particles
        self.tail = tail_length(num_particles) + 1
        self.sums = torch.zeros(())
        self.log_sum: Tensor
        self.log_sum_sq: Tensor
        self.largest: list[Tensor] = []
        self.computed: torch.dtype  # of the weights, which they are rounded to
        self.curve = [_Groups(10**i) for i in range(20) if 10**i < num_particles]

    def add(self, log_weight: Tensor, log_px: Tensor, kl: Tensor) -> None:
        """Take in `(k, B)` more particles."""
        log_w, self.computed = double(log_weight), log_weight.dtype
        for groups in self.curve:
            groups.add(log_w)
        sums = torch.stack([double(log_px).sum(0), double(kl).sum(0)])  # (2, B)
        if not self.largest:  # the first
            self.log_sum = self.log_sum_sq = log_w.new_full((), -math.inf)
        self.sums = self.sums + sums
        self.log_sum = torch.logaddexp(self.log_sum, log_w.logsumexp(0))
        log_sum_sq = (2 * log_w).logsumexp(0)
        self.log_sum_sq = torch.logaddexp(self.log_sum_sq, log_sum_sq)
        largest = torch.cat([*self.largest, log_w])
        most = min(self.tail, len(largest))
        self.largest = [largest.topk(most, dim=0).values]  # (M + 1, B)

    def result(self) -> LogMarginal:
        k = self.num_particles
        values = self.log_sum - math.log(k)
        inverse_ess = (self.log_sum_sq - 2 * self.log_sum).exp()
        # Of the mean weight, over its square.
        variance = (inverse_ess - 1 / k).clamp_min(0) * k / max(k - 1, 1)
        if k == 1:
            variance = torch.full_like(variance, math.nan)
        reconstruction, kl = self.sums / k
        curve = {groups.size: groups.mean() for groups in self.curve} | {k: values}
        return LogMarginal(
            values=values,
            standard_errors=variance.sqrt(),
            ess=1 / inverse_ess,
            pareto_k=pareto_k(self.largest[0].T, self.computed),
            elbo=reconstruction - kl,
            reconstruction=reconstruction,
            kl=kl,
            num_particles=k,
            curve={size: bound.cpu() for size, bound in curve.items()},
        )


class _Groups:
    """The mean over groups of `size` draws of `log 1/size sum w`, whatever the pieces in which the draws come."""

    def __init__(self, size: int) -> None:
        self.size, self.filled, self.count = size, 0, 0
        self.partial: Tensor
        self.total = torch.zeros(())

    def add(self, log_w: Tensor) -> None:
        """Take in `(k, B)` more log-weights."""
        take = min(self.size - self.filled, len(log_w)) if self.filled else 0
        if take:
            self.partial = torch.logaddexp(self.partial, log_w[:take].logsumexp(0))
            self.filled += take
            if self.filled == self.size:
                self._close(self.partial.unsqueeze(0))
        whole = (len(log_w) - take) // self.size
        end = take + whole * self.size
        if whole:
            groups = log_w[take:end].unflatten(0, (whole, self.size))
            self._close(groups.logsumexp(1))
        if end < len(log_w):
            rest = log_w[end:]
            self.partial, self.filled = rest.logsumexp(0), len(rest)

    def _close(self, log_sums: Tensor) -> None:
        self.total = self.total + log_sums.sum(0)
        self.count, self.filled = self.count + len(log_sums), 0

    def mean(self) -> Tensor:
        return self.total / self.count - math.log(self.size)


def latents_of(sites: Mapping[str, Site]) -> dict[str, Site]:
    """The sites that the guide draws."""
    return {name: s for name, s in sites.items() if s.q is not None and s.drawn}


def is_word(site: Site) -> bool:
    """Whether a latent is words of a codebook, and so the same in every draw."""
    return isinstance(site.q, Word)


def values_of(t: Terms) -> dict[str, Tensor]:
    """The latents that the guide draws or enumerates, by name, `(K, B, ...)`, 1 for B where all data share them."""
    return {name: site.value for name, site in latents_of(t.sites).items()}


def _bytes_per_draw(model: Program, guide: Program, batch: Call) -> tuple[int, bool]:
    """Memory for one particle of one datum, and whether there are latents whose draws differ.

    It is measured on the data given, of which one will do. Where all latents are enumerated, one particle is all of
    their values; where they are words of a codebook, all draws are the same.
    """
    latents = False

    def draw(count: int) -> None:
        nonlocal latents
        t = scored(model, guide, batch, count)
        if any(site.point for site in latents_of(t.sites).values()):
            raise InputError(
                "the guide is a point for each datum, without a density to weigh draws by, so log p(x) cannot be "
                "estimated from it; train with another guide, such as MeanField"
            )
        latents = any(
            s.q is not None and not s.listed and not is_word(s)
            for s in t.sites.values()
        )

    each = bytes_of_one_more(draw)
    if not latents:
        each = bytes_of(partial(draw, 1))
    return max(each // len(batch), 64), latents


@of_pair  # type: ignore[arg-type]  # mypy: **kwargs could hold a model
@checked
@torch.no_grad()
def log_marginal(
    model: Program,
    guide: Program,
    x: Any,
    *args: Any,
    num_particles: Number = 5000,
    memory: Number = MEMORY,
    compile: bool | str = "auto",
    seed: Seed | None = None,
    progress: Tick = None,
    **kwargs: Any,
) -> LogMarginal:
    """Importance-weighted estimate of the marginal log-likelihood of each datum.

    `log p(x) >= E[log 1/K sum_k p(x, z_k) / q(z_k|x)]`, `z_k ~ q(z|x)`, with equality as K grows. Exactly
    `num_particles` are drawn for each datum, in chunks that keep within `memory`. A pair that scores data otherwise
    than it does among others, as where a guide holds numbers for each datum, is called with all of them at once. Of a
    pair without latents, or whose guide enumerates all of them, the one weight is log p(x) itself, without an error.
    So it is with a `Codebook` of up to 1,000 codes, all of which are summed over. With more of them the values are
    `log p(x, code)`, minus the length of a two-part code, and the result says so (`two_part`).

    Args:
        model: any Pyro model with a data plate, called with a batch of data; or a pair, without a guide behind it.
        guide: its guide, called with the same.
        x: the data, `(N, *shape)`: a tensor, or anything with a length whose slices are tensors. A pair that is not of
            this package may take a tuple or a dict of tensors, `program((x, y))`, and data sets of such items.
        *args: what both are called with beside a batch of x, `program(x, y)`; tensors of N rows are cut along with it.
        num_particles: K.
        memory: bytes to keep within (beside the data and the networks).
        compile: weigh by a compiled graph (see `SVI`), or with `'auto'` when there is enough to do to repay the seconds
            that compiling takes: about ten seconds of work without.
        seed: weigh each datum by itself, with the same random numbers for each, made from this seed: then its value
            does not depend on what other data there are, nor on their order. The random streams stay as they were, and
            `compile='auto'` does not compile.
        progress: called with the number of draws done since its last call.
        **kwargs: what both are called with by name, cut as `args`.

    Returns:
        A `LogMarginal` with N values and their errors.

    Raises:
        InputError: for empty data or data that the likelihood does not accept, for a guide without a density (`Delta`),
            for fewer than one particle, for a memory bound too small for a single draw, for a pair that `terms`
            refuses, or one that draws for another number of data than it is given.

    Source: Burda, Grosse & Salakhutdinov 2015, Importance Weighted Autoencoders, equation 8.

    >>> from pyro_vae import MLP, Bernoulli, MeanField, StandardNormal, VAE
    >>> _ = torch.manual_seed(0)
    >>> vae = VAE(StandardNormal(2), MLP((2,), (1, 4)), Bernoulli((4,)), MeanField(MLP((4,)), 2))
    >>> log_marginal(vae, torch.ones(8, 4), num_particles=100).values.shape
    torch.Size([8])
    """
    return weighted(
        *paired(model, guide, Call.of(model, x, args, kwargs)),
        num_particles=num_particles,
        memory=memory,
        compile=compile,
        seed=seed,
        progress=progress,
    )


@torch.no_grad()
def weighted(
    model: Program,
    guide: Program,
    data: Call,
    *,
    num_particles: int,
    memory: int,
    compile: bool | str = "auto",
    seed: int | None = None,
    progress: Tick = None,
) -> LogMarginal:
    """`log_marginal` of data that have been checked."""
    choice(compile, repaid=False)
    localise(model, guide)
    apart = nullcontext() if seed is None else forked_random()
    with apart, parameters_of(model, guide):
        whole = called_whole(model, guide, data)
        first = data[: len(data) if whole else 1]
        draw, latents = _bytes_per_draw(model, guide, first)
        if not latents:
            num_particles = 1
        with unchecked(model, guide):  # the two measuring calls above were validated
            singly = way_of(model, guide, first.args, first.kwargs).dim is None
            chunks = _Chunks.within(
                memory,
                num_particles=num_particles,
                size=1
                if seed is not None
                else min(len(data), rows_within(data, memory // 4)),
                draw=draw,
                device=first.device,
                singly=singly,
            )
            if whole:
                chunks = chunks.of_all(len(data))
            # A graph draws other numbers: how many data there are must not decide.
            enough = num_particles * len(data) * draw >= REPAID
            repaid = enough and seed is None
            weigh = _weigher(model, guide, compile, repaid=repaid, singly=singly)

            def weigh_all(batch: Call) -> LogMarginal:
                if seed is not None:
                    torch.manual_seed(seed)
                accumulator = Accumulator(num_particles)
                for count in pieces(num_particles, chunks.block):
                    accumulator.add(*chunks.weigh(weigh, batch, count, progress))
                return accumulator.result()

            results = [*data.each(chunks.rows, weigh_all)]
    result: LogMarginal = reduce(operator.add, results)
    if latents:
        return result

    # Where nothing is drawn the values are no estimates.
    exact = torch.zeros_like(result.values)
    result = replace(result, standard_errors=exact, pareto_k=exact - math.inf)
    book = codebook_of(guide)
    if book is None:
        return result
    if not book.few:
        return replace(result, coded=True, two_part=True)
    options: dict[str, Any] = {"memory": memory, "compile": compile, "seed": seed}
    every = weighted(model, EveryCode(book), data, num_particles=1, **options)
    parts = {name: getattr(result, name) for name in PARTS}
    return replace(every, **parts, coded=True)


def codebook_of(guide: Program) -> Codebook | None:
    """The guide where it is a `Codebook`, whatever is around it."""
    while isinstance(guide, Around):
        guide = guide.program
    return guide if isinstance(guide, Codebook) else None


class EveryCode(OwnProgram):
    """All codes of a codebook alike, none drawn: under this guide log p(x) is summed over them."""

    def __init__(self, book: Codebook) -> None:
        super().__init__()
        self.book = book

    def factors(self) -> Sequence[Factor]:
        return [Factor("z", (), self.equal, listed=True)]

    def equal(self) -> Words:
        """`p(c) = L^-G`."""
        return Words(self.book.words, self.book.groups)


Weigh = Callable[[Any, Any, int], tuple[list[Tensor], Any]]


def _weigher(
    model: Program, guide: Program, wanted: bool | str, *, repaid: bool, singly: bool
) -> Weigh:
    """`[log w, log p(x|z), log q(z|x) - log p(z)]`, each `(count, batch)`, of a batch of data and a count of draws.

    Only pairs of modules are compiled, since what other programs read is not known, and none that is run for each draw.
    """

    def weigh(args: Any, kwargs: Any, count: int) -> tuple[list[Tensor], Any]:
        with (
            pyro.validation_enabled(False) if is_traced() else nullcontext()
        ):  # reads values
            t = scored(model, guide, Call(args[0], args[1:], kwargs), count)
        kl = t.summed(t.log_qz - t.log_pz)
        return [t.log_summed(t.log_weight), t.summed(t.log_px), kl], None

    modules = [program for program in (model, guide) if isinstance(program, nn.Module)]
    if singly or len(modules) < 2 or not choice(wanted, repaid=repaid):
        return sparing(weigh) if is_own(model, guide) else weigh
    return compiled(weigh, modules, "importance weighting", asked=wanted is True)


class _Chunks(NamedTuple):
    """In what pieces N data with K draws each are weighed: what is decoded at a time, and what is summed up at a time.

    Attributes:
        data, particles: decoded at a time.
        rows, block: data and draws whose weights are summed up at a time, multiples of these or all that there are.
    """

    data: int
    particles: int
    rows: int
    block: int

    @classmethod
    def within(
        cls,
        memory: int,
        *,
        num_particles: int,
        size: int,
        draw: int,
        device: Any,
        singly: bool = False,
    ) -> "_Chunks":
        """For `draw` bytes a draw; the draws are split evenly where that is possible: one shape, one graph.

        `size` is the most data to have at a time. Where draws are made `singly`, each is of as many data as can be.
        """
        tail = _bytes_of_tail(num_particles)
        _require(
            tail + draw, f"{num_particles} particles", memory, "the memory bound is"
        )
        most = min(memory // 2 // draw or 1, CHUNK.get(device.type, LARGEST_CHUNK))
        fewest = -(-num_particles // most)
        even = (n for n in range(fewest, 2 * fewest) if num_particles % n == 0)
        particles = -(-num_particles // next(even, fewest))
        if singly:
            particles = max(1, min(num_particles, most // size))
        data = max(1, min(most // particles, size))
        summed = min(memory // 4 // WEIGHTS or 1, LARGEST_CHUNK)
        rows = min(summed // num_particles, memory // 4 // tail, size)
        rows = max(data, rows // data * data)
        block = min(num_particles, summed // rows) // particles * particles
        return cls(data, particles, rows, max(particles, block))

    def of_all(self, size: int) -> "_Chunks":
        """The same for a pair that is called with all `size` data at once: fewer draws at a time."""
        particles = max(1, self.data * self.particles // size)
        blocks = max(1, self.rows * self.block // size // particles)
        return _Chunks(size, particles, size, particles * blocks)

    def weigh(
        self,
        weigh: Weigh,
        batch: Call,
        count: int,
        progress: Tick,
    ) -> Tensor:
        """What `weigh` gives for `count` draws of all data of a batch, `(3, count, batch)`."""
        columns = []
        some = batch.batches(None, self.data) if self.data < len(batch) else (batch,)
        for data in some:
            weights = []
            for few in pieces(count, self.particles):
                weights.append(torch.stack(weigh(data.args, data.kwargs, few)[0]))
                if progress is not None:
                    progress(weights[-1][0].numel())
            columns.append(torch.cat(weights, 1))
        return torch.cat(columns, 2)


def _bytes_of_tail(num_particles: int) -> int:
    """Memory for the largest weights of one datum, and copies while they are merged."""
    return 4 * 8 * (tail_length(num_particles) + 1)


def _require(size: int, what: str, memory: int, bound: str) -> None:
    """Raise `InputError` where the draws of a single datum need more than a memory bound."""
    if size > memory:
        raise InputError(
            f"{what} need {-(-size // 2**20)} MiB for a single datum and {bound} {-(-memory // 2**20)} MiB; "
            "draw fewer particles or allow more memory"
        )


def holds(num_particles: int, memory: int) -> bool:
    """Whether the largest weights of one datum take no more than half of a memory bound."""
    return 2 * _bytes_of_tail(num_particles) <= memory


def a_few(run: Trained, data: Evaluated) -> Call:
    """One of the data that are asked about; all of them for a pair that is called with all at once."""
    model, guide = run.vae.model, run.vae.guide
    every = Call(once(as_data(model, data.x)))
    with running(model, guide), forked_random():
        return every[: len(every) if called_whole(model, guide, every) else 1]


def check_draws(
    question: Question, data: Evaluated, model: Program, guide: Program, few: Call
) -> None:
    """Raise `InputError` where the draws that a question asks for need more memory than the evaluation may take.

    Args:
        question: has `num_particles`, or `None` for those of the evaluation.
        data: those that are asked about.
        model: the model.
        guide: what is drawn from.
        few: as many data as the pair can be called with.
    """
    own = question.num_particles  # type: ignore[attr-defined]
    count = data.num_particles if own is None else own
    with running(model, guide), forked_random(), torch.no_grad():
        draw, latents = _bytes_per_draw(model, guide, few)
    said = f"--num-particles={count}" if own is None else question.said("num_particles")
    size = _bytes_of_tail(count if latents else 1) + draw
    _require(size, f"the draws of {said}", data.memory, "--memory is")


class Weighting(Question):
    """The log-likelihood by weights: what an evaluation begins with. To write one: implement `weigh`.

    Args:
        steps: of refinement, gradient steps for each datum that is refined.
        num_particles: draws for each datum; by default those of the evaluation.
    """

    steps = 0  # of refinement
    num_particles: int | None = None
    foreseen = True  # how many draws there will be

    def __init__(
        self, *, steps: Number = 100, num_particles: Number | None = None
    ) -> None:
        self.steps, self.num_particles = steps, num_particles

    @abstractmethod
    def weigh(
        self, run: Trained, data: Evaluated, **options: Any
    ) -> tuple[LogMarginal, Answer]:
        """The values, and their answer; `options` are those that all ways of weighting take."""

    def check(self, run: Trained, data: Evaluated) -> None:
        check_draws(self, data, run.vae.model, run.vae.guide, a_few(run, data))

    def ask(self, run: Trained, data: Evaluated, progress: Progress = unseen) -> Answer:
        count = self.num_particles or data.num_particles
        total = len(data) * count if self.foreseen else None
        with progress("particles", total) as done:
            result, answer = self.weigh(
                run, data, num_particles=count, memory=data.memory, progress=done
            )
        if not result.sound.any():
            raise InputError(
                f"none of the {data.called} data has a finite log p(x): the weights of the run or these data are not "
                "what they were"
            )
        entries = wild(data, result.values)
        numbers = {"refinement_steps": self.steps or None, "wild": entries}
        sentences = [row["sentence"] for row in entries]
        return answer.plus(
            rows={result.name: result}, warnings=sentences, numbers=numbers
        )


class Weighted(Weighting):
    """`log p(x)` by importance weighting with draws from the guide.

    Args:
        num_particles: draws for each datum; by default those of the evaluation.
    """

    def __init__(self, *, num_particles: Number | None = None) -> None:
        super().__init__(num_particles=num_particles)
        self.steps = 0

    def weigh(
        self, run: Trained, data: Evaluated, **options: Any
    ) -> tuple[LogMarginal, Answer]:
        result = log_marginal(run.vae.model, run.vae.guide, data.x, **options)
        return result, result.answer()


def wild(data: Evaluated, values: Tensor) -> list[dict[str, Any]]:
    """The data whose log p(x) is not finite or so low that one of them moves the mean: which they are, and a sentence.

    Low is what `far_down` finds.
    """
    sound, deep = values.isfinite(), far_down(values)
    places = (~sound | deep).nonzero().flatten().tolist()
    rest = values[sound & ~deep]
    entries: list[dict[str, Any]] = []
    for i in places[:NAMED]:
        row, value = int(data.rows[i]), values[i].item()
        name = "" if data.names is None else f" ({data.names[i]})"
        what = "no finite log p(x) and is left out"
        if sound[i]:
            what = f"log p(x) = {value:.4g}"
        sentence = (
            f"Row {row}{name} of the data has {what}; without such rows the mean of log p(x) is {rest.mean():.3f}: "
            "look at that row."
        )
        entries.append({"row": row, "log_marginal": value, "sentence": sentence})
    if len(places) > NAMED:
        more = f"{len(places) - NAMED} more data are like that; evaluation.npz has all values."
        entries.append({"row": None, "log_marginal": None, "sentence": more})
    return entries
