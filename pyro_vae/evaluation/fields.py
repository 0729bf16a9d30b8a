"""Several fields: log p of all, of each alone, and of each given the others."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vae.data.inputs import Call, as_data, fields_of, once
from pyro_vae.engine.memory import MEMORY
from pyro_vae.evaluation.defence import Defence, Defending
from pyro_vae.evaluation.question import (
    Answer,
    Estimate,
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
from pyro_vae.evaluation.weighting import (
    a_few,
    check_draws,
    log_marginal,
    weighted,
)
from pyro_vae.foundation.abstract import Around, Ignoring
from pyro_vae.foundation.checks import Number, checked
from pyro_vae.foundation.errors import InputError
from pyro_vae.models.likelihoods.fields import Fields
from pyro_vae.models.program import named

# Of draws that come from the prior; of the rest one half is what the guide says of all fields.
SHARE = 1 / 3
HEADS = {
    "alone": "log p(x_f)",
    "alone_error": "± data",
    "given_others": "log p(x_f|others)",
    "given_others_error": "± data",
    "gain": "gain by others",
    "data": "data",
    "doubtful": "Pareto k > 0.7",
}


@dataclass(frozen=True)
class ByField(Printed):
    """Log-densities of N data of several fields, in nats; nan where a datum does not have the field.

    Attributes:
        names: of the F fields.
        joint: `log p(x)`, of all fields that are there, `(N,)`.
        alone: `log p(x_f)` of each field by itself, `(N, F)`.
        others: `log p(x_others)` of all others that are there, `(N, F)`; nan where there is none.
        pareto_k: the greater tail index of the weights by which `alone` and `others` were found, `(N, F)`.
    """

    names: Sequence[str]
    joint: Tensor
    alone: Tensor
    others: Tensor
    pareto_k: Tensor

    def __len__(self) -> int:
        return len(self.joint)

    @property
    def given_others(self) -> Tensor:
        """`log p(x_f | x_others) = log p(x) - log p(x_others)`, `(N, F)`."""
        return self.joint.unsqueeze(1) - self.others

    @property
    def per_datum(self) -> dict[str, Tensor]:
        """Each field's numbers, `(N,)` each, by names such as `alone_image`."""
        return {
            f"{what}_{name}": getattr(self, what)[:, i]
            for what in ("alone", "given_others")
            for i, name in enumerate(self.names)
        }

    def answer(self) -> Answer:
        """Field by field, and what each says of the others."""
        doubtful = self.pareto_k > PARETO_LIMIT
        asked = int((~self.pareto_k.isnan()).sum())
        share = int(doubtful.sum()) / max(asked, 1)
        warning = (
            f"{int(doubtful.sum())} of {asked} weights have a Pareto k above {PARETO_LIMIT}: the guide knows "
            "little of what a field says alone, and these numbers may be too low, and those given the others too high; "
            'train with --objective "subsets()", if that was not done, or draw more, as in '
            '--ask "fieldtable(num_particles=50000)".'
        )
        return Answer(
            title="Field by field",
            about=f"{len(self.names)} fields of {len(self)} data, in nats",
            rows={name: self._row(i) for i, name in enumerate(self.names)},
            heads=HEADS,
            meanings=dict.fromkeys(
                self.names, "how probable it is by itself, and beside the others"
            ),
            sentences=[
                "log p(x_f|others) = log p(x) - log p(others), over the data that have the field and another. What the "
                "others gain, log p(x_f|others) - log p(x_f), is what they tell of it: on average its mutual "
                "information with them, where the model is right."
            ],
            warnings=[warning] if share > 0.01 else [],
            columns=self.per_datum,
        )

    def _row(self, i: int) -> dict[str, Any]:
        alone, given = self.alone[:, i], self.given_others[:, i]
        both = alone.isfinite() & given.isfinite()
        estimates = Estimate.over(alone), Estimate.over(given)
        gain = (given - alone)[both].mean().item()
        return {
            "alone": estimates[0].mean,
            "alone_error": estimates[0].data_standard_error,
            "given_others": estimates[1].mean,
            "given_others_error": estimates[1].data_standard_error,
            "gain": gain,
            "data": int(alone.isfinite().sum()),
            "doubtful": int((self.pareto_k[:, i] > PARETO_LIMIT).sum()),
        }


@checked
@torch.no_grad()
def by_field(
    vae: Any,
    x: Any,
    *,
    num_particles: Number = 5000,
    joint: PerDatum | None = None,
    memory: Number = MEMORY,
    progress: Tick = None,
) -> ByField:
    """`log p(x_f)` and `log p(x_f | x_others)` of each field, by importance weights of `q(z|x_f)` and `q(z|x_others)`.

    A field that is left out is missing to the guide and integrated out of the model, so that each number is an estimate
    of the marginal log-likelihood. What a single field says of z a guide may never have learned, so that it makes a
    third of the draws alone: another third is what it says of all fields of the datum, and one the prior's (a defensive
    mixture, whose weights are unbiased whatever its parts are made from).

    Args:
        vae: whose likelihood is `Fields`.
        x: the data.
        num_particles: K, for each datum and field.
        joint: `log p(x)`, where it is known.
        memory: bytes to keep within.
        progress: called with the number of draws done since its last call.

    Raises:
        InputError: for another likelihood, and for a guide without a density.

    Source: Hesterberg 1995, Weighted Average Importance Sampling and Defensive Mixture Distributions.

    >>> from pyro_vae import Spec, build
    >>> vae = build(Spec((4,), 2, likelihood="fields()"))
    >>> by_field(vae, torch.ones(5, 4), num_particles=10).alone.shape
    torch.Size([5, 2])
    """
    likelihood = _likelihood(vae)
    layout = likelihood.layout
    data = once(as_data(vae.model, x))
    values, c = fields_of(data)
    values = values[:]
    c = None if c is None else c[:]
    guide = Defending(_Knowing(vae.guide), vae.model)
    pair = Ignoring(vae.model, "share", "whole"), guide
    settings: dict[str, Any] = {"num_particles": num_particles, "memory": memory}

    def found(some: Tensor) -> tuple[Tensor, Tensor]:
        """Log p of what is left of the data, and the tail index of its weights; nan where nothing is."""
        there = layout.seen(some).any(1)
        log_p = torch.full((len(some),), torch.nan, dtype=torch.float64)
        k = log_p.clone()
        if there.any():
            few = some[there]
            of_few = few if c is None else {"x": few, "c": c[there]}
            share = few.new_full((len(few),), SHARE)
            call = Call.of(vae.model, of_few).named(share=share, whole=values[there])
            result = weighted(*pair, call, progress=progress, **settings)
            place = there.cpu()
            log_p[place], k[place] = result.values.double(), result.pareto_k.double()
        return log_p, k

    whole = joint
    if whole is None:
        whole = log_marginal(vae.model, vae.guide, data, progress=progress, **settings)
    log_whole = whole.values.double().cpu()
    seen = layout.seen(values).cpu()
    of_part = {part: found(layout.only(values, *part)) for part in _parts(layout.names)}
    alone, others, tails = [], [], []
    for i, name in enumerate(layout.names):
        log_alone, k_alone = of_part[(name,)]
        log_rest, k_rest = of_part[_without(layout.names, name)]
        # Where the field is missing there is nothing to ask of it.
        there = seen[:, i]
        alone.append(log_alone)
        others.append(log_rest.where(there, torch.nan))
        tails.append(torch.fmax(k_alone, k_rest).where(there, torch.nan))
    return ByField(
        layout.names, log_whole, *(torch.stack(t, 1) for t in (alone, others, tails))
    )


class _Knowing(Around):
    """A guide that draws half of its latents as it does where it knows the `whole` of each datum, `(batch, ...)`."""

    def forward(self, *args: Any, whole: Tensor, **kwargs: Any) -> Any:
        data = {**named(args[0], {}), "x": whole}
        half = whole.new_full((len(whole),), 0.5)
        with Defence(self.program, data, half):
            return self.program(*args, **kwargs)


def _without(names: Sequence[str], name: str) -> tuple[str, ...]:
    return tuple(other for other in names if other != name)


def _parts(names: Sequence[str]) -> list[tuple[str, ...]]:
    """The parts of the fields of which log p is asked for: each alone, and all but one."""
    every = [(name,) for name in names] + [_without(names, name) for name in names]
    return list(dict.fromkeys(every))


def _likelihood(vae: Any) -> Fields:
    """The likelihood of a VAE, once it is one of several fields and its guide can be weighed."""
    likelihood, guide = vae.model.likelihood, vae.guide
    if not isinstance(likelihood, Fields):
        raise InputError(
            f"the likelihood {type(likelihood).__name__} is one for all of x, and of fields only Fields knows"
        )
    if not guide.has_density:
        raise InputError(
            "the guide is a point for each datum, and fields are weighed by draws of q(z|x): train with another "
            "guide, such as MeanField"
        )
    return likelihood


class FieldTable(Question):
    """Each of several fields: log p of it alone and given the others, and what they tell of each other.

    It is asked of every run on several fields.

    Args:
        num_particles: for each datum and field; by default those of the evaluation.
    """

    def __init__(self, *, num_particles: Number | None = None) -> None:
        self.num_particles = num_particles

    def check(self, run: Trained, data: Evaluated) -> None:
        _likelihood(run.vae)
        check_draws(self, data, run.vae.model, run.vae.guide, a_few(run, data))

    def ask(self, run: Trained, data: Evaluated, progress: Progress = unseen) -> Answer:
        names = _likelihood(run.vae).names
        count = self.num_particles or data.num_particles
        joint: Any = data.log_marginal if self.num_particles is None else None
        passes = len(_parts(names)) + (joint is None)
        with progress("weights", passes * count * len(data)) as done:
            return by_field(
                run.vae,
                data.x,
                num_particles=count,
                joint=joint,
                memory=data.memory,
                progress=done,
            ).answer()
