"""What a model and a guide are made of: factors, each a distribution of one site given others."""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import pyro
from pyro.distributions.torch_distribution import TorchDistributionMixin as Distribution
from torch import Tensor

from pyro_vae.distributions.known import is_known, log_prob_of_known, pinned, set_aside
from pyro_vae.foundation.abstract import AbstractProgram, is_labelled
from pyro_vae.foundation.errors import InputError

Batch = Tensor | Mapping[str, Tensor]


def named(x: Batch | None, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The data that a program is called with, `program(x, **given)`, by name; a tensor x is called x."""
    first = x if isinstance(x, Mapping) else {} if x is None else {"x": x}
    return {**first, **given}


class Factor(NamedTuple):
    """`p(site | given)`: `conditional(*values of given)` is its distribution, of batch shape `(..., batch)`.

    A `listed` site has few values, as a `Categorical` has. A guide does not draw it: all of its values are enumerated.
    Where the guide leaves it to the model it is summed out.

    A `partly` known site is a real of which there may be data for some rows, nan in the others. It is drawn for all of
    them; where it is known, what comes after is given the datum in place of the draw.
    """

    site: str
    given: tuple[str, ...]
    conditional: Callable[..., Distribution]
    listed: bool = False
    partly: bool = False

    def __str__(self) -> str:
        return f"{self.site}|{','.join(self.given)}" if self.given else self.site

    def at(self, values: Mapping[str, Tensor]) -> Distribution:
        """Its distribution where the sites that it is given have these values.

        Raises:
            InputError: where one of them has none, or what should be a distribution is none.
        """
        for name in self.given:
            if name not in values:
                raise InputError(
                    f"the factor {self} is given {name}, which has no value: call the program with it, or put its "
                    "factor before this one"
                )
        found = self.conditional(*(values[name] for name in self.given))
        if not hasattr(found, "log_prob"):
            owner = getattr(self.conditional, "__self__", self.conditional)
            raise InputError(
                f"the factor {self} must be a distribution, and {type(owner).__name__} gives a {type(found).__name__}"
            )
        return found


class Program(AbstractProgram):
    """A product of factors as a Pyro program: `program(x)` draws site after site in the plate `data`.

    A site of which there are data, such as x in a model, is observed. Data of a listed site are labels, whole numbers
    of which -1 stands for none, so that some of them may be known; those of a partly known one are reals, nan where
    there is none. What a factor is given and no factor draws, such
    as a condition c, is data too: `program(x, c=c)`, or all of them by name, `program({"x": x, "c": c})`. To write one:
    return its factors, each after those that it is given.
    """

    @abstractmethod
    def factors(self) -> Sequence[Factor]:
        """In the order in which they are drawn."""

    @property
    def lists(self) -> bool:
        known = ("y",) if is_labelled() else ()
        return any(f.listed and f.site not in known for f in self.factors())

    @property
    def silent(self) -> tuple[str, ...]:
        """Sites that stand for nothing, and are not written: a vector without entries."""
        return ()

    def written(self, factor: Factor) -> str:
        """A factor as papers write it, `z|x`."""
        given = tuple(name for name in factor.given if name not in self.silent)
        return str(factor._replace(given=given))

    def known(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The data, and what factors are given that follows from them."""
        return dict(values)

    def knowing(self, p: Any, labels: Tensor) -> Distribution:
        """The distribution of a site where some of its values are known, whose density there is a factor.

        A listed one is a point there; a draw of another stands for nothing there, and its distribution is N(0, 1).
        """
        pyro.factor("label", log_prob_of_known(p, labels))
        return set_aside(p, labels) if labels.is_floating_point() else pinned(p, labels)

    def observe(self, factor: Factor, values: Mapping[str, Tensor]) -> None:
        """A listed site whose values are all known: the model's density of them."""
        pyro.sample(factor.site, factor.at(values), obs=values[factor.site])

    def beside(self, site: str, value: Tensor | None) -> Tensor | None:
        """What is added to the log-density of a site, one number for all data or `(batch,)`: it stands in `units`."""
        return None

    def forward(self, x: Batch | None = None, size: int = 1, **given: Tensor) -> Tensor:
        """Draw what there are no data of, for the data `x`, `(batch, *shape)`, or for `size` of them.

        Args:
            x: the data, or a dict of these and of what else is given, by name.
            size: how many data to draw for, where none of them is given.
            **given: more data by name, each with a row for every datum.

        Returns:
            The value of the last site, or what `returned` makes of all.
        """
        data, factors = named(x, given), self.factors()
        self._check(data, factors)
        rows = len(next(iter(data.values()))) if data else size
        values = self.known(data)
        with pyro.plate("data", rows, dim=-1):
            for factor in factors:
                site = factor.site
                if factor.listed and site in values and is_labelled():
                    self.observe(factor, values)
                    continue
                p = factor.at(values)
                if (constant := self.beside(site, values.get(site))) is not None:
                    pyro.factor("units", constant)
                infer: Any = {"enumerate": "parallel"} if factor.listed else {}
                seen = values.get(site)
                labels = seen if factor.listed or factor.partly else None
                if labels is not None:
                    p, seen = self.knowing(p, labels), None
                values[site] = pyro.sample(site, p, obs=seen, infer=infer)
                if factor.partly and labels is not None:
                    values[site] = labels.where(is_known(labels), values[site])
        return self.returned(values, site)

    def returned(self, values: Mapping[str, Tensor], last: str) -> Tensor:
        """What a call returns, from the values of all sites: that of the last."""
        return values[last]

    def _check(self, values: Mapping[str, Tensor], factors: Sequence[Factor]) -> None:
        """Raise `InputError` for data that no factor reads; x and c go to both programs of a pair."""
        read = {"x", "y", "c"}.union(
            *((factor.site, *factor.given) for factor in factors)
        )
        if others := values.keys() - read:
            raise InputError(
                f"{type(self).__name__} is given {min(others)}, which none of its factors reads"
            )

    def at(self, site: str, x: Batch | None = None, **given: Tensor) -> Distribution:
        """The distribution of one site where all that it is given are data, such as `p(z|c)`."""
        factor = next(factor for factor in self.factors() if factor.site == site)
        return factor.at(self.known(named(x, given)))

    def log_prob(self, values: Mapping[str, Tensor]) -> Tensor:
        """`sum_site log p(site | given)`, `(..., batch)`; no handler sees it.

        Raises:
            InputError: where a site has no value.
        """
        logs, values = [], self.known(values)
        for factor in self.factors():
            if factor.site not in values:
                raise InputError(
                    f"there is no value of {factor.site}, whose density is asked for"
                )
            logs.append(factor.at(values).log_prob(values[factor.site]))
            if (constant := self.beside(factor.site, values[factor.site])) is not None:
                logs.append(constant)
        return sum(logs[1:], logs[0])


def formula(model: Any, guide: Any) -> str:
    """A pair in the notation of papers; with a question mark for a program that has no factors.

    >>> from pyro_vae import MLP, Bernoulli, MeanField, StandardNormal, VAE
    >>> vae = VAE(StandardNormal(2), MLP((2,), (1, 4)), Bernoulli((4,)), MeanField(MLP((4,)), 2))
    >>> formula(vae.model, vae.guide)
    'p(z) p(x|z); q(z|x)'
    """
    return f"{_product('p', model)}; {_product('q', guide)}"


def _product(name: str, program: Any) -> str:
    if not isinstance(program, Program):
        return f"{name}(?)"
    factors = [f for f in program.factors() if f.site not in program.silent]
    return " ".join(f"{name}({program.written(factor)})" for factor in factors)
