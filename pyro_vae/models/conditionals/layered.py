"""Guides of several layers of latents."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin as Distribution
from torch import Tensor, nn

from pyro_vae.distributions import DiagonalNormal
from pyro_vae.distributions.ancestral import Ancestral, Step
from pyro_vae.foundation.abstract import context_of, movable
from pyro_vae.foundation.checks import Count
from pyro_vae.foundation.errors import InputError
from pyro_vae.foundation.layout import Layout
from pyro_vae.foundation.sizes import Declared
from pyro_vae.models.conditionals.base import (
    NARROW,
    Guide,
    factor_of_data,
    standardised,
    with_fields,
)
from pyro_vae.models.layers import (
    GaussianLayer,
    above,
    beside_each_other,
    places,
    sites_of,
)
from pyro_vae.models.program import Batch, Factor, Program, named
from pyro_vae.networks import features


class Layers(Declared, Program):
    """A guide of L layers of latents, each a site of its own: z1 is next to the data, zL the top.

    To write one: set `sites`, `dims` and `skip`, and return the factors. `at_all` is all of it as one distribution.

    Attributes:
        sites: the names of the layers, from the data upwards.
        dims: their lengths.
        skip: whether a factor is given all layers above, and not only the next.
    """

    amortised = True
    has_density = True
    quick_density = True
    smooth = True
    sites: tuple[str, ...]
    dims: tuple[int, ...]
    skip: bool
    fields: Layout | None = None

    @property
    def latent_dim(self) -> int:
        """The length of all layers together."""
        return sum(self.dims)

    @property
    def bodies(self) -> list[nn.Module]:
        """The networks that read data."""
        return []

    @property
    def context(self) -> int:
        """How many numbers of a condition c are read beside x."""
        return 0

    def known(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return dict(values) if self.fields is None else with_fields(values, self.fields)

    def connect(self, model: nn.Module) -> None:
        """Called once by `VAE` with the model; a subclass standardises its bodies beside."""
        self.check_prior(getattr(model, "prior", None))
        self.fields = getattr(model, "fields", None)

    def check_prior(self, prior: Any) -> None:
        """Raise `InputError` for a prior of the top that draws codes, where all layers are reals."""
        if getattr(prior, "levels", None) is not None:
            raise InputError(
                f"layers of latents are reals, and the prior {type(prior).__name__} draws one-hot codes: take another"
            )

    def at_all(self, x: Batch | None = None, **given: Tensor) -> Ancestral:
        """`q(z1, ..., zL | x)` as one distribution over all layers side by side, from the top down."""
        return joint(self, self.known(named(x, given)), self.sites, self.dims)


def joint(
    program: Program,
    values: Mapping[str, Tensor],
    sites: Sequence[str],
    dims: Sequence[int],
) -> Ancestral:
    """The layers of a program as one distribution, where what else it is given has these values."""
    place = places(sites, dims)
    steps = [
        Step(factor.site, place[factor.site], partial(_beside, factor, values))
        for factor in program.factors()
        if factor.site in place
    ]
    # The first depends on no other: its network runs once, however often is drawn.
    first = steps[0].given({})
    steps[0] = steps[0]._replace(given=lambda drawn: first)
    return Ancestral(steps, first.batch_shape, sum(dims))


def _beside(
    factor: Factor, values: Mapping[str, Tensor], drawn: Mapping[str, Tensor]
) -> Distribution:
    return factor.at({**values, **drawn})


class Layered(Layers):
    """`q(z1|x) q(z2|z1) ...`, from the data upwards; or downwards, `q(z2|x) q(z1|x,z2)`: a guide for each layer.

    Args:
        guides: that of each layer, z1 first. Upwards the encoder of the first reads the data and those of the others
            the layer below. Downwards all read the data, and as their `context` the layer above.
        downward: whether the top is drawn first.
        skip: whether each is given all layers that were drawn before, and upwards the data too.

    Raises:
        InputError: for fewer than two guides, and for guides whose latents are no reals that an encoder draws.

    Source: Rezende, Mohamed & Wierstra 2014, Stochastic Backpropagation; Burda, Grosse & Salakhutdinov 2015.

    >>> from pyro_vae import MLP, MeanField
    >>> guide = Layered([MeanField(MLP((28, 28)), 8), MeanField(MLP((8,)), 2)])
    >>> guide.at_all(torch.zeros(5, 28, 28)).sample().shape
    torch.Size([5, 10])
    """

    def __init__(
        self, guides: Any, *, downward: bool = False, skip: bool = False
    ) -> None:
        super().__init__()
        if len(guides) < 2:
            raise InputError("Layered takes the guides of two layers or more")
        self.guides: Any = nn.ModuleList(guides)
        self.downward, self.skip = downward, skip
        self.dims = tuple(guide.latent_dim for guide in guides)
        self.sites = sites_of(len(guides))
        for site, guide in zip(self.sites, guides, strict=True):
            _check_layer(site, guide)
            guide.site = site
        for name in ("has_density", "quick_density", "smooth"):
            setattr(self, name, all(getattr(guide, name) for guide in guides))

    @property
    def reads_data(self) -> list[Guide]:
        """The guides whose encoders read the data."""
        return [*self.guides] if self.downward or self.skip else [self.guides[0]]

    @property
    def bodies(self) -> list[nn.Module]:
        return [guide.encoder for guide in self.reads_data]

    @property
    def context(self) -> int:
        return context_of(self.guides[-1 if self.downward else 0].encoder)

    def connect(self, model: nn.Module) -> None:
        super().connect(model)
        likelihood: Any = getattr(model, "likelihood", None)
        for guide in self.reads_data:
            guide.encoder = standardised(guide.encoder, likelihood, guide.features)

    def factors(self) -> Sequence[Factor]:
        of_c = ("c",) if self.context else ()
        order = range(len(self.guides))
        every = reversed(order) if self.downward else order
        return [self._of_layer(i, of_c) for i in every]

    def _of_layer(self, i: int, of_c: tuple[str, ...]) -> Factor:
        """`q(z_i | x and the layers before it)`."""
        guide, site = self.guides[i], self.sites[i]
        if self.downward:
            before = above(self.sites, i, skip=self.skip)
        else:
            before = self.sites[:i] if self.skip else self.sites[max(i - 1, 0) : i]
        if guide in self.reads_data:
            given = (*before, *of_c)
            return factor_of_data(self.fields, site, given, _with_context(guide.given))
        return Factor(site, (*before, *of_c), guide.given)


def _with_context(given: Callable[..., Distribution]) -> Callable[..., Distribution]:
    """A distribution that is given x and one vector of all else, from one that is given x and each by itself."""

    def of_each(x: Tensor, *others: Tensor) -> Distribution:
        return given(x, *beside_each_other(others))

    return of_each


def _check_layer(site: str, guide: Any) -> None:
    """Refuse a guide that cannot be that of one layer among several."""
    name = type(guide).__name__
    if not isinstance(guide, Guide):
        raise InputError(f"the guide of {site} is {name}, and a layer has a Guide")
    if not guide.amortised or guide.asks_model:
        raise InputError(
            f"the guide of {site} is {name}, which looks for the posterior of one layer alone: take another, such as "
            "MeanField"
        )
    if guide.discrete or guide.levels is not None:
        raise InputError(
            f"the guide of {site} is {name}, whose latents are codes, and layers are reals: take another, such as "
            "MeanField"
        )


class Ladder(Layers):
    """`q(z2|x) q(z1|x,z2)`: what the data say of each layer, multiplied with what the model expects there.

    A chain of networks reads the data upwards, `d_l = f_l(d_{l-1})`, and says of each layer a Gaussian
    `N(m_l, diag(s_l^2))`. From the top down each is merged with the model's own `p(z_l|z_{l+1})`, whose network is
    shared, as Gaussians are that know independent things: `q(z_l) ~ N(m_l, s_l^2) p(z_l|z_{l+1})`, precision weighted.

    Args:
        bodies: f_1, ..., f_L: the first reads the data, each other one the features of that before it.
        dims: the lengths of z1, ..., zL.
        skip: whether p(z_l) is given all layers above.

    Raises:
        InputError: for fewer than two layers; from `VAE`, for layers of the model that are no `GaussianLayer`.

    Source: Sonderby, Raiko, Maaloe, Sonderby & Winther 2016, Ladder Variational Autoencoders.

    >>> from pyro_vae import MLP
    >>> guide = Ladder([MLP((28, 28)), MLP((200,))], (8, 2))
    >>> guide.latent_dim
    10
    """

    def __init__(
        self,
        bodies: Any,
        dims: tuple[Count, ...],
        *,
        skip: bool = False,
    ) -> None:
        super().__init__()
        if len(bodies) != len(dims) or len(dims) < 2:
            raise InputError(
                f"Ladder takes a network for each of two layers or more, and is given {len(bodies)} for dims={dims}"
            )
        self.dims, self.skip, self.sites = tuple(dims), skip, sites_of(len(dims))
        self.trunk: Any = nn.ModuleList(bodies)
        widths = [features(body, None) for body in bodies]
        each = zip(widths, dims, strict=True)
        heads = [nn.Linear(width, 2 * size) for width, size in each]
        self.heads: Any = nn.ModuleList(heads)
        self._features = widths[0]
        self._model: Any = None
        with torch.no_grad():
            for head, size in zip(heads, dims, strict=True):
                head.weight[size:] = 0.0
                head.bias[size:] = NARROW

    @property
    def bodies(self) -> list[nn.Module]:
        return [self.trunk[0]]

    @property
    def context(self) -> int:
        return context_of(self.trunk[0])

    def connect(self, model: nn.Module) -> None:
        super().connect(model)
        likelihood: Any = getattr(model, "likelihood", None)
        self.trunk[0] = standardised(self.trunk[0], likelihood, self._features)
        for layer in model.layers:  # type: ignore[union-attr]
            if not isinstance(layer, GaussianLayer):
                raise InputError(
                    f"a ladder merges Gaussians, and a layer of the model is {type(layer).__name__}: leave its prior "
                    "out, or take the structure chain"
                )
        if model.skip != self.skip:
            raise InputError(
                f"skip={self.skip} of Ladder and skip={model.skip} of the model must be the same: both read p(z1|z2)"
            )
        object.__setattr__(self, "_model", model)  # whose parameters are the model's

    def known(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The data, and of each layer what they say of it, `d_l`."""
        found = super().known(values)
        if "x" not in found:
            return found
        trunk: list[Any] = [*self.trunk]
        first, *others = trunk
        said = [first(found["x"], *([found["c"]] if self.context else []))]
        for body in others:
            said.append(body(said[-1]))
        names = (f"d{i + 1}" for i in range(len(said)))
        return {**found, **dict(zip(names, said, strict=True))}

    def written(self, factor: Factor) -> str:
        site, (_, *others) = factor.site, factor.given
        return f"{site}|{','.join([*self._data, *others])}"

    @property
    def _data(self) -> tuple[str, ...]:
        """What the trunk reads: x, or the fields that it is made of."""
        return ("x",) if self.fields is None else self.fields.names

    def _check(self, values: Mapping[str, Tensor], factors: Sequence[Factor]) -> None:
        others = {k: v for k, v in values.items() if k not in self._data}
        super()._check(others, factors)

    def factors(self) -> Sequence[Factor]:
        of_c = ("c",) if self._reads_c else ()
        found = []
        for i in reversed(range(len(self.dims))):
            over = above(self.sites, i, skip=self.skip)
            given = (f"d{i + 1}", *over, *(of_c if over else ()))
            found.append(Factor(self.sites[i], given, self._merging(i)))
        return found

    @property
    def _reads_c(self) -> bool:
        """Whether the layers of the model are given a condition."""
        return self._model is not None and context_of(self._model.layers[0]) > 0

    def _merging(self, i: int) -> Callable[..., Distribution]:
        """`q(z_i | d_i, layers above)`."""
        site, size = self.sites[i], self.dims[i]
        count = len(above(self.sites, i, skip=self.skip))

        def merged(said: Tensor, *given: Tensor) -> Distribution:
            loc, log_scale = movable(site, lambda: self.heads[i](said)).split(size, -1)
            if not count:
                return DiagonalNormal(loc, log_scale)
            over = beside_each_other(given[:count])
            layer = self._model.layers[i]
            return DiagonalNormal(
                *merge(loc, log_scale, *layer.parameters_given(*over, *given[count:]))
            )

        return merged


def merge(
    loc: Tensor, log_scale: Tensor, other_loc: Tensor, other_log_scale: Tensor
) -> tuple[Tensor, Tensor]:
    """Mean and log standard deviation of the normalised product of two Gaussians.

    >>> loc, log_scale = merge(torch.tensor(0.0), torch.tensor(0.0), torch.tensor(2.0), torch.tensor(0.0))
    >>> loc.item(), round(log_scale.exp().item() ** 2, 6)  # two equal precisions of 1
    (1.0, 0.5)
    """
    log_precision = torch.logaddexp(-2 * log_scale, -2 * other_log_scale)
    share = (-2 * log_scale - log_precision).exp()
    return other_loc + share * (loc - other_loc), -0.5 * log_precision
