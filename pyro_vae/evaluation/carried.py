"""What the y of a pair, a class or a real target, carries about x."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vae.data.inputs import Call
from pyro_vae.evaluation.question import Answer, Estimate, Printed, Row
from pyro_vae.inference.bounds import scored
from pyro_vae.inference.objectives.base import independent
from pyro_vae.inference.particles import Program
from pyro_vae.inference.terms import Site, double

USED = 0.5  # of an equal share: a class that has less of the data is not in use


@dataclass(frozen=True)
class Carried(Printed):
    """What a site of K classes, or of one real number, carries; nats per datum.

    Of a class `KL(q(y|x) || p(y)) = I(x; y) + KL(q(y) || p(y))`, averaged over the data, with `q(y)` the mean of
    `q(y|x)` over them: all three are exact sums.

    Attributes:
        site: its name.
        kl: `KL(q(y|x) || p(y))`.
        mutual_information: `KL(q(y|x) || q(y))`; `None` for a real number.
        shares: `q(y)`, `(K,)`; `None` for a real number.
        aggregated_kl: `KL(q(y) || p(y))`; `None` for a real number.

    Source: Hoffman & Johnson 2016, ELBO Surgery.
    """

    site: str
    kl: Estimate
    mutual_information: Estimate | None = None
    shares: Tensor | None = None
    aggregated_kl: float | None = None

    @classmethod
    def of_classes(cls, site: str, q: Tensor, p: Tensor) -> "Carried":
        """From `q(y|x)` of N data, `(N, K)`, and `p(y)`, `(K,)`."""
        q, p = double(q), double(p)
        shares = q.mean(0)
        return cls(
            site,
            Estimate.over(_kl(q, p)),
            Estimate.over(_kl(q, shares)),
            shares.cpu(),
            float(_kl(shares, p)),
        )

    @property
    def effective(self) -> float:
        """As many equally common classes have the entropy of q(y): its exponential."""
        assert self.shares is not None
        return float(torch.special.entr(self.shares).sum().exp())

    @property
    def in_use(self) -> int:
        """How many classes have at least half of an equal share of the data."""
        assert self.shares is not None
        return int((self.shares >= USED / len(self.shares)).sum())

    @property
    def rows(self) -> dict[str, Row]:
        """By name, for an answer."""
        y = self.site
        rows: dict[str, Row] = {f"KL(q({y}|x) || p({y}))": self.kl}
        if self.mutual_information is not None:
            rows[f"I(x; {y})"] = self.mutual_information
            assert self.aggregated_kl is not None
            rows[f"KL(q({y}) || p({y}))"] = Estimate(self.aggregated_kl, None)
        return rows

    @property
    def sentences(self) -> list[str]:
        """How many classes there are in effect; of a real target that it is one of the latents."""
        if self.shares is None:
            return [
                f"{self.site} is one of these latents, the first, and z stands for all of them"
            ]
        return [
            f"q({self.site}) over the data is as {self.effective:.2f} equal classes of {len(self.shares)}; "
            f"{self.in_use} are in use, with half of an equal share or more"
        ]

    @property
    def numbers(self) -> dict[str, Any]:
        """Plain values."""
        if self.shares is None:
            return {}
        return {
            "effective_classes": self.effective,
            "classes_in_use": self.in_use,
            "class_shares": self.shares.tolist(),
        }

    def answer(self) -> Answer:
        """The same by itself."""
        title = f"What {self.site} carries"
        return Answer(
            title, rows=self.rows, sentences=self.sentences, numbers=self.numbers
        )


@dataclass(frozen=True)
class Layer:
    """What one of several layers of latents costs; nats per datum.

    Attributes:
        site: its name.
        size: how many latents it has.
        kl: `E_q[log q(z_l|.) - log p(z_l|.)]`, its part of `KL(q(z|x) || p(z))`.
        kl_per_dimension: the part of each latent, `(size,)`; `None` unless they are independent in guide and model.
    """

    site: str
    size: int
    kl: Estimate
    kl_per_dimension: Tensor | None


def layers(
    model: Program, guide: Program, batches: Any, sizes: Mapping[str, int], draws: int
) -> list[Layer]:
    """What each of several latent sites costs, where there are several.

    Args:
        model: of a pair.
        guide: of the pair.
        batches: of the data, each a `Call`.
        sizes: the latent sites and how many reals each has, in an order that the result keeps.
        draws: for each datum.
    """
    if len(sizes) < 2:
        return []
    kls: dict[str, list[Tensor]] = {name: [] for name in sizes}
    dimensions: dict[str, list[Tensor]] = {name: [] for name in sizes}
    for batch in batches:
        sites = scored(model, guide, batch, draws).sites
        for name in sizes:
            site = sites[name]
            assert site.log_q is not None
            assert site.log_p is not None
            kls[name].append(double(site.log_q - site.log_p).mean(0))
            if independent(site.q) and independent(site.p):
                log_q = double(site.q.base_dist.log_prob(site.value))
                each = log_q - double(site.p.base_dist.log_prob(site.value))
                dimensions[name].append(each.mean(0))
    return [
        Layer(name, size, Estimate.over(torch.cat(kls[name])), _mean(dimensions[name]))
        for name, size in sizes.items()
    ]


def _mean(batches: list[Tensor]) -> Tensor | None:
    """Over the data of all batches, each `(batch, D)`; nothing where there are none."""
    return torch.cat(batches).mean(0).flatten().cpu() if batches else None


def _kl(q: Tensor, p: Tensor) -> Tensor:
    """`sum_y q log q / p`, `(..., K) -> (...)`; a class without probability counts nothing."""
    return (torch.special.xlogy(q, q) - torch.special.xlogy(q, p)).sum(-1)


def carried(model: Program, guide: Program, batches: Any) -> list[Carried]:
    """What each class of a pair carries, and its real target where it has one.

    Args:
        model: of a pair.
        guide: of the pair.
        batches: of the data, each a `Call`.
    """
    found: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for batch in batches:
        for name, site in _of_y(model, guide, batch).items():
            found.setdefault(name, []).append(_parts(site, len(batch)))
    every = []
    for name, parts in found.items():
        first, second = (torch.cat(column) for column in zip(*parts, strict=True))
        if first.dim() == 2:
            every.append(Carried.of_classes(name, first, second[0]))
        else:
            kl = 0.5 * (first.square() + second.square() - 1) - second.log()
            every.append(Carried(name, Estimate.over(kl)))
    return every


def _of_y(model: Program, guide: Program, batch: Call) -> dict[str, Site]:
    """The sites of a pair that are a class all of whose values are enumerated, or a real target."""
    sites = scored(model, guide, batch, 1).sites
    real = getattr(model, "label_width", 0) == 1
    return {
        name: site
        for name, site in sites.items()
        if (site.listed and not site.q.event_shape and hasattr(site.q, "probs"))
        or (real and name == "y")
    }


def _parts(site: Site, size: int) -> tuple[Tensor, Tensor]:
    """Of a class the probabilities under guide and model, `(batch, K)`; of a real y mean and deviation, `(batch,)`."""
    if site.listed:
        return _alone(site.q.probs, size), _alone(site.p.probs, size)
    return double(site.q.loc.flatten()), double(site.q.scale.flatten())


def _alone(probabilities: Tensor, size: int) -> Tensor:
    """Those of each datum, `(batch, K)`, without particles, of which each is a value of y and has the same."""
    while probabilities.dim() > 2:
        probabilities = probabilities[0]
    return double(probabilities.expand(size, -1))
