"""What was not seen of a datum, given what was: means, draws and densities by importance weights."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_vae.data.fields import mean_and_std
from pyro_vae.data.inputs import (
    Call,
    as_data,
    beside_condition,
    fields_of,
    once,
    rows_within,
)
from pyro_vae.engine.memory import MEMORY
from pyro_vae.evaluation.diagnostics import tail_index
from pyro_vae.evaluation.question import (
    Answer,
    Evaluated,
    PerDatum,
    Printed,
    Progress,
    Question,
    Tick,
    Trained,
    unseen,
)
from pyro_vae.evaluation.results import PARETO_LIMIT
from pyro_vae.evaluation.weighting import a_few, check_draws, values_of
from pyro_vae.foundation.abstract import forked_random, running
from pyro_vae.foundation.checks import Number, Whole, checked
from pyro_vae.foundation.errors import InputError
from pyro_vae.foundation.memory import require
from pyro_vae.inference.bounds import scored
from pyro_vae.inference.terms import Terms, double
from pyro_vae.models.classes import codes
from pyro_vae.models.likelihoods import SelfMasking
from pyro_vae.models.program import named

COPIES = 12  # of a decoded datum, in float64, while moments are taken
CARRIED = 2.0  # effective draws below which one draw carries most of the weight
COLUMNS = 50  # whose errors are listed


@dataclass(frozen=True)
class Imputed(Printed):
    """N data completed: what was seen stands as it is, what was missing follows `p(x_missing | x_seen)`.

    Attributes:
        missing: which elements were missing, `(N, *shape)` booleans.
        mean: `E[x | x_seen]`, `(N, *shape)`.
        std: the standard deviation of each element given what was seen, 0 where it was seen.
        point: the mean of numbers; of bits, categories and levels of a scale the most probable.
        draws: completed data drawn from `p(x_missing | x_seen)`, `(draws, N, *shape)`.
        log_seen: `log p(x_seen)`, as `log_marginal` estimates it, `(N,)`.
        log_hidden: `log p(x_hidden | x_seen)` of values that were missing on purpose, `(N,)`, or `None`.
        ess: effective number of weights, between 1 and K.
        pareto_k: tail index of the weights; above 0.7 all of this is doubtful.
        num_particles: K.
    """

    missing: Tensor
    mean: Tensor
    std: Tensor
    point: Tensor
    draws: Tensor
    log_seen: Tensor
    log_hidden: Tensor | None
    ess: Tensor
    pareto_k: Tensor
    num_particles: int

    def __len__(self) -> int:
        return len(self.mean)

    @property
    def doubtful(self) -> Tensor:
        """Data with missing values whose weights have a Pareto k above 0.7, `(N,)` booleans."""
        return self.missing.flatten(1).any(1) & ~(self.pareto_k <= PARETO_LIMIT)

    def answer(self) -> Answer:
        holes, data = int(self.missing.sum()), self.missing.flatten(1).any(1)
        count, bad = int(data.sum()), int(self.doubtful.sum())
        about = f"{holes} missing values in {count} of {len(self)} data, {self.num_particles} weights each"
        rows: dict[str, Any] = {"log p(x_seen)": PerDatum(self.log_seen, None)}
        columns = {"ess": self.ess, "pareto_k": self.pareto_k}
        if self.log_hidden is not None:
            rows["log p(x_hidden | x_seen)"] = PerDatum(self.log_hidden, None)
            columns["log_hidden"] = self.log_hidden
        sentences = []
        if count:
            ess, k = self.ess[data], self.pareto_k[data]
            trust = (
                f"Pareto k: median {k.median():.2f}, largest {k.max():.2f}"
                if k.max() > -math.inf
                else "all weights of a datum are equal, so that every draw is one of the posterior itself"
            )
            sentences = [
                f"effective weights: median {ess.median():.1f}, least {ess.min():.1f} of {self.num_particles}; {trust}"
            ]
        warnings = []
        if bad:
            warnings = [
                f"{bad} of {count} data with missing values have Pareto k above {PARETO_LIMIT}: a few "
                "weights carry their imputations, which are then no more than draws; take more particles or a guide "
                "closer to the posterior."
            ]
        return Answer(
            "What was missing, given what was seen",
            about,
            rows=rows,
            sentences=sentences,
            warnings=warnings,
            columns=columns,
        )


@checked
@torch.no_grad()
def imputations(
    vae: Any,
    x: Any,
    c: Any = None,
    *,
    num_particles: Number = 1000,
    draws: Whole = 0,
    hidden: Any = None,
    memory: Number = MEMORY,
    progress: Tick = None,
) -> Imputed:
    """Complete data: means and draws of what is missing in each datum, given what was seen of it.

    `E[f(x_missing) | x_seen] = sum_k w_k E[f(x_missing) | z_k]`, with `z_k ~ q(z|x_seen)` and `w_k` proportional to
    `p(x_seen, z_k) / q(z_k|x_seen)`, which add up to 1. A draw takes a `z_k` with probability `w_k`, and x from
    `p(x|z_k)`, all missing elements of a datum together. `log p(x_hidden|x_seen) = log sum_k w_k p(x_hidden|z_k)`.

    Args:
        vae: made with `missing=True`.
        x: the data, `(N, *shape)`, nan where a value is missing.
        c: of a conditional pair their condition.
        num_particles: K.
        draws: completed copies of each datum to draw.
        hidden: the same data with values that are missing in x on purpose, `(N, *shape)`: then their density is told.
        memory: bytes to keep within (beside the data and the networks).
        progress: called with the number of weights done since its last call.

    Returns:
        An `Imputed`, on the host.

    Raises:
        InputError: for a VAE that takes no missing values, a guide without a density, data that the model does not
            accept, or more weights or draws than memory holds.

    Source: Mattei & Frellsen 2019, MIWAE: Deep Generative Modelling and Imputation of Incomplete Data Sets.

    >>> from pyro_vae import MLP, VAE, Gaussian, MeanField, StandardNormal
    >>> _ = torch.manual_seed(0)
    >>> guide = MeanField(MLP((2,)), 1)
    >>> vae = VAE(StandardNormal(1), MLP((1,), (1, 2)), Gaussian((2,)), guide, missing=True)
    >>> imputations(vae, torch.tensor([[0.5, torch.nan]]), draws=3).draws[:, 0, 0]
    tensor([0.5000, 0.5000, 0.5000])
    """
    model, guide = vae.model, vae.guide
    if not getattr(model.likelihood, "missing", False):
        raise InputError(
            "this pair takes no missing values, so that there is nothing to complete: make it with missing=True, "
            "VAE(..., missing=True)"
        )
    if not guide.has_density:
        raise InputError(
            f"imputations weigh draws by the guide's density, and {type(guide).__name__} has none"
        )
    data = once(as_data(model, beside_condition(model, x, c)))
    given = fields_of(data)[1]
    whole = None if hidden is None else beside_condition(model, hidden, given)
    truth = None if whole is None else once(as_data(model, whole))
    shape, size = model.likelihood.shape, len(data)
    elements = math.prod(shape)
    require(
        8 * size * elements * (draws + 4),
        f"keeping {draws} draws of each datum",
        "draws",
    )
    each = _bytes_of(model.likelihood, num_particles)
    require(each, f"{num_particles:,} weights of one datum", "number of particles")
    call = Call(data)
    rows = max(1, min(memory // each, rows_within(call, memory // 4)))
    batches: list[dict[str, Tensor]] = []
    with running(model, guide):
        for batch in call.batches(None, rows):
            start = rows * len(batches)
            some = None if truth is None else truth[start : start + len(batch)]
            batches.append(_completed(vae, batch, num_particles, draws, some))
            if progress is not None:
                progress(num_particles * len(batch))
    columns: dict[str, Any] = {"log_hidden": None}
    for name in batches[0]:
        dim = 1 if name == "draws" else 0
        columns[name] = torch.cat([columns_of[name] for columns_of in batches], dim)
    return Imputed(**columns, num_particles=num_particles)


def _bytes_of(likelihood: Any, num_particles: int) -> int:
    """Memory for the decoded weights of one datum."""
    elements = max(math.prod(likelihood.shape), math.prod(likelihood.output_shape))
    return 8 * COPIES * num_particles * elements


class _Weights(NamedTuple):
    """Weights of K latents of each datum, which add up to 1, `(K, B)`, and what is said of them, each `(B,)`.

    Attributes:
        weights: the weights.
        log_known: `log p(x_known)`, the logarithm of the mean of the weights before.
        ess: effective number of weights.
        pareto_k: their tail index.
    """

    weights: Tensor
    log_known: Tensor
    ess: Tensor
    pareto_k: Tensor

    @classmethod
    def of(cls, log_w: Tensor, computed: torch.dtype) -> "_Weights":
        """From logarithms of weights of any sum, and the type in which they were computed."""
        total = log_w.logsumexp(0)
        weights = (log_w - total).exp()
        log_known = total - math.log(len(log_w))
        ess, k = 1 / weights.square().sum(0), tail_index(log_w, computed)
        return cls(weights, log_known, ess, k)

    @classmethod
    def of_terms(cls, t: Terms) -> "_Weights":
        """Those of the draws of a guide; what is enumerated has its shares."""
        log_w = double(t.log_weight)
        drawn = cls.of(t.log_summed(log_w), t.log_weight.dtype)
        return drawn._replace(weights=t.normalised(log_w))


def _completed(
    vae: Any, batch: Call, num_particles: int, draws: int, truth: Any
) -> dict[str, Tensor]:
    """The fields of an `Imputed` for one batch."""
    t = scored(vae.model, vae.guide, batch, num_particles)
    x, _ = fields_of(batch.data)
    latents = values_of(t)
    weights, log_seen, ess, k = _Weights.of_terms(t)
    p = vae.model.likelihood.unseen(vae.model.at("x", batch.data, **latents))

    # What was seen stands as it is.
    missing = x.isnan()
    w = weights.reshape(*weights.shape, *[1] * (x.dim() - 1))
    means, variances = double(p.mean), double(p.variance)
    mean = (w * means).sum(0)
    variance = (w * (variances + (means - mean).square())).sum(0)
    point = vae.model.likelihood.point(p, weights).to(mean)
    completed = {
        "missing": missing,
        "mean": torch.where(missing, mean.to(x), x),
        "std": torch.where(missing, variance.clamp_min(0).sqrt().to(x), 0.0),
        "point": torch.where(missing, point.to(x), x),
        "draws": x.new_zeros(0, *x.shape),
        "log_seen": log_seen,
        "ess": ess,
        "pareto_k": k,
    }
    if draws:
        chosen = _resampled(latents, weights, draws)
        p_chosen = vae.model.at("x", batch.data, **chosen)
        drawn = vae.model.likelihood.unseen(p_chosen).sample()
        completed["draws"] = torch.where(missing, drawn.to(x), x)
    if truth is not None:
        hidden = fields_of(truth)[0].masked_fill(~missing, math.nan)
        completed["log_hidden"] = _log_hidden(vae, p, hidden, weights)
    return {name: value.cpu() for name, value in completed.items()}


class Given(NamedTuple):
    """Draws of x given some of its elements.

    Attributes:
        draws: `(n, *shape)`.
        log_known: `log p(x_known)`.
        ess: effective number of weights that the draws are chosen by.
        pareto_k: their tail index; above 0.7 the draws are those of a few latents.
    """

    draws: Tensor
    log_known: float
    ess: float
    pareto_k: float


@checked
@torch.no_grad()
def draws_given(
    vae: Any,
    known: Tensor,
    n: Number = 100,
    c: Any = None,
    *,
    mean: bool = False,
    num_particles: Number = 20_000,
) -> Given:
    """`n` draws from `p(x_rest | x_known)`, what is known standing as it is.

    Latents are drawn K times, from the guide where it takes missing values and else from the prior, weighted by
    `p(x_known, z) / q(z)`, and n of them chosen by their weights; x is then drawn from `p(x|z)`. No draw is rejected.

    Args:
        vae: any pair whose elements of x are independent given z.
        known: one datum, `(*shape)`, nan where an element is not given.
        n: how many.
        c: of a conditional pair the condition, `(context,)` or `(1, context)`; the draws are from
            `p(x_rest | x_known, c)`.
        mean: whether to return in place of a draw of x the mean of p(x|z), of a category the most probable.
        num_particles: K.

    Raises:
        InputError: for values that the likelihood does not accept, nothing or everything given, a condition that is
            missing or does not fit, and where the weight lies on so few latents that all draws would be made of them.

    Source: Rubin 1987, The Calculation of Posterior Distributions by Data Augmentation: Comment (sampling/importance
    resampling).

    >>> from pyro_vae import MLP, VAE, Gaussian, MeanField, StandardNormal
    >>> _ = torch.manual_seed(0)
    >>> vae = VAE(StandardNormal(1), MLP((1,), (1, 2)), Gaussian((2,)), MeanField(MLP((2,)), 1))
    >>> draws_given(vae, torch.tensor([0.5, torch.nan]), 3).draws[:, 0]
    tensor([0.5000, 0.5000, 0.5000])
    """
    likelihood = vae.model.likelihood
    if isinstance(likelihood, SelfMasking):
        raise InputError(
            "for SelfMasking nan is a value that was not told, which says something of it, and not one that is not "
            "given"
        )
    if likelihood.sized:
        raise InputError(
            "the likelihood is given the total count of a datum, which is not known where some of its counts are not"
        )
    condition = vae.condition(c, 1)
    x = torch.as_tensor(known, dtype=vae._type.dtype, device=vae._type.device)
    if x.shape != likelihood.shape or x.isnan().all() or not x.isnan().any():
        raise InputError(
            f"known must be one datum of shape {likelihood.shape} with some elements given and nan for the others"
        )
    likelihood.check(likelihood.filled(x.unsqueeze(0)))
    with running(vae.model, vae.guide):
        data = named(x.unsqueeze(0), {"c": condition[0]} if condition else {})
        latents, weighted = _weighted_latents(vae, data, num_particles)
        if likelihood.missing and not weighted.pareto_k.item() <= PARETO_LIMIT:
            # The guide knows little of data with so much missing; the prior may do better.
            others = _drawn_from_prior(vae, data, num_particles)
            if others[1].ess > weighted.ess.nan_to_num():
                latents, weighted = others
        ess = weighted.ess.item()
        if not weighted.log_known.isfinite().all() or ess < CARRIED:
            raise InputError(
                f"what is given is so improbable under the model that {ess if ess == ess else 0:.1f} of "  # noqa: PLR0124
                f"{num_particles:,} latents carry all of the weight: no draws can be made of them; give less, or other "
                "values"
            )
        chosen = _resampled(latents, weighted.weights, n)
        p = vae.model.at("x", data, **chosen)
        made = (likelihood.typical(p) if mean else p.sample()).squeeze(1)
        drawn = torch.where(x.isnan(), made, x)
    return Given(drawn, weighted.log_known.item(), ess, weighted.pareto_k.item())


def _weighted_latents(
    vae: Any, data: dict[str, Tensor], count: int
) -> tuple[dict[str, Tensor], _Weights]:
    """Latents for one datum x `(1, *shape)` with holes, by name, `(K, 1, ...)`, and their weights.

    Its condition is `(1, context)`, or there is none.
    """
    if vae.model.likelihood.missing and vae.guide.has_density:
        t = scored(vae.model, vae.guide, Call(data), count)
        return values_of(t), _Weights.of_terms(t)
    return _drawn_from_prior(vae, data, count)


def _drawn_from_prior(
    vae: Any, data: dict[str, Tensor], count: int
) -> tuple[dict[str, Tensor], _Weights]:
    """Latents for one datum drawn from the prior, and their weights, the density of what is known."""
    likelihood, x = vae.model.likelihood, data["x"]
    c = data.get("c")
    given = () if c is None else (c.expand(count, -1),)
    latents = {}
    if vae.label_width:
        given = (vae._with_class(*given),)
        latents["y"] = codes(given[0][:, : vae.label_width]).unsqueeze(1)
    latents |= vae.model.by_site(vae.draw_prior(count, *given).unsqueeze(1))
    p = vae.model.at("x", data, **latents)
    seen = p if likelihood.missing else likelihood.partly(p)
    log_w = _with_beside(vae, x, double(seen.log_prob(x)))
    return latents, _Weights.of(log_w, x.dtype)


def _resampled(
    latents: Mapping[str, Tensor], weights: Tensor, count: int
) -> dict[str, Tensor]:
    """`count` latents of each datum chosen among K by their weights, `(K, B, ...) -> (count, B, ...)`."""
    chosen = torch.multinomial(weights.T, count, replacement=True).T  # (count, B)
    every = torch.arange(chosen.shape[1], device=chosen.device)
    parts = {
        name: value.expand(*weights.shape, *value.shape[2:])
        for name, value in latents.items()
    }
    return {name: value[chosen, every] for name, value in parts.items()}


def _log_hidden(vae: Any, p: Any, hidden: Tensor, weights: Tensor) -> Tensor:
    """`log sum_k w_k p(x_hidden|z_k)`, `(B,)`; 0 where nothing is hidden."""
    log_p = (weights.log() + double(p.log_prob(hidden))).logsumexp(0)
    return _with_beside(vae, hidden, log_p)


def _with_beside(vae: Any, x: Tensor, log_p: Tensor) -> Tensor:
    """A log-density of x with what the model adds to it."""
    beside = vae.model.beside("x", x)
    return log_p if beside is None else log_p + double(beside)


# --------------------------------------------------------------------------------------------------------------------


class Impute(Question):
    """What was missing in the data, given what was seen of them; and how wrong that is of values hidden on purpose.

    Args:
        num_particles: weights for each datum; by default those of the evaluation.
    """

    def __init__(self, *, num_particles: Number | None = None) -> None:
        self.num_particles = num_particles

    def check(self, run: Trained, data: Evaluated) -> None:
        if not run.vae.model.likelihood.missing:
            raise InputError(
                "impute is asked of a run that takes missing values: train with --missing keep, or --hide SHARE"
            )
        check_draws(self, data, run.vae.model, run.vae.guide, a_few(run, data))
        count = self.num_particles or data.num_particles
        self.afford(_bytes_of(run.vae.model.likelihood, count), "num_particles")

    def ask(self, run: Trained, data: Evaluated, progress: Progress = unseen) -> Answer:
        count = self.num_particles or data.num_particles
        with progress("weights", count * len(data)) as done, forked_random():
            imputed = imputations(
                run.vae,
                data.x,
                num_particles=count,
                hidden=data.whole,
                memory=data.memory,
                progress=done,
            )
        answer = imputed.answer()
        if data.whole is None:
            return answer
        return answer.plus(**_errors(run, imputed, data))


def _errors(run: Trained, imputed: Imputed, data: Evaluated) -> dict[str, Any]:
    """How far imputations lie from the values that were hidden: rows, sentences and numbers of an answer."""
    whole = fields_of(data.whole[:])[0].cpu()
    hidden = imputed.missing & ~whole.isnan()
    wrong = (imputed.point - whole).double().where(hidden, 0.0)
    _, spread = mean_and_std([whole])
    standard = (wrong / spread.where(spread > 0, 1.0)).square()
    count = int(hidden.sum())
    overall = standard.sum().item() / max(count, 1)
    rows: dict[str, dict[str, Any]] = {}
    names, likelihood = getattr(run, "columns", None), run.vae.model.likelihood
    if whole.dim() == 2 and whole.shape[1] <= COLUMNS:
        members: Any = getattr(likelihood, "members", [likelihood] * whole.shape[1])
        bridge: Any = getattr(run, "bridge", None)
        pair = imputed.point, whole
        ours, theirs = pair if bridge is None else map(bridge.inverse, pair)
        for i, member in enumerate(members):
            here = hidden[:, i]
            if not here.any():
                continue
            off = (ours[here, i] - theirs[here, i]).double()
            row = {"hidden": int(here.sum()), "rmse": None, "standard": None}
            if member.coded:
                row["wrong"] = (off.abs() > 0.5).double().mean().item()
            else:
                row["rmse"] = off.square().mean().sqrt().item()
                row["standard"] = standard[here, i].mean().sqrt().item()
                row["wrong"] = None
            rows[str(i) if names is None else names[i]] = row
    heads = {
        "hidden": "hidden",
        "rmse": "RMSE",
        "standard": "RMSE / std",
        "wrong": "share wrong",
    }
    numbers = {"mean_squared_error": overall, "hidden": count}
    words = (
        f"the mean squared error of their imputations is {overall:.4f}, in standard deviations of each column, where "
        "its mean would have about 1"
    )
    if likelihood.coded:
        share = (wrong.abs() > 0.5).sum().item() / max(count, 1)
        numbers["wrong"] = share
        words = f"{100 * share:.1f} % of their imputations are wrong"
    sentences = [f"{count} values were hidden on purpose: {words}"]
    return {"rows": rows, "heads": heads, "sentences": sentences, "numbers": numbers}
