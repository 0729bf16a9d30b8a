"""The likelihood of several fields: an image and its label, a picture and a table."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin as Distribution
from torch import Tensor

from pyro_vae.data.representation import Representation
from pyro_vae.distributions.joined import Joined
from pyro_vae.distributions.wide import wide
from pyro_vae.foundation.checks import shown
from pyro_vae.foundation.errors import InputError
from pyro_vae.foundation.fieldnames import check_names
from pyro_vae.models.likelihoods.base import Likelihood
from pyro_vae.models.likelihoods.continuous import Gaussian
from pyro_vae.models.likelihoods.parted import Parted
from pyro_vae.networks import Shape


class Fields(Parted):
    """`p(x|z) = prod_f p(x_f|z)`: several fields, each with a likelihood, and in a `VAE` a site, of its own.

    A datum is one vector in which the fields lie side by side; `layout` splits and joins it. A field of which all
    elements are nan is missing, and then left out of density and guide. Each `p(x_f|z)` is a normalised density or
    mass with the weight 1: weighed otherwise their sum would bound no log p(x).

    Args:
        shape: `(width,)`, the elements of all fields, or another shape of as many.
        fields: by the name of each field what makes its likelihood from its shape: a class such as `Bernoulli`, or a
            `functools.partial` of one. By default x is two halves along its first dimension, `first` and `second`,
            both Gaussian; what cannot be halved is one.
        shapes: by the name of each field its shape.

    Raises:
        InputError: for names that are no names of sites, shapes that do not add up, or what makes no likelihood.

    Source: Suzuki, Nakayama & Matsuo 2016, Joint Multimodal Learning with Deep Generative Models; Wu & Goodman 2018,
    Multimodal Generative Models for Scalable Weakly-Supervised Learning.

    >>> from pyro_vae import Bernoulli
    >>> fields = {"image": Bernoulli, "number": Gaussian}
    >>> likelihood = Fields((5,), fields=fields, shapes={"image": (2, 2), "number": (1,)})
    >>> likelihood.layout.split(torch.zeros(3, 5))["image"].shape
    torch.Size([3, 2, 2])
    """

    support = Representation.FIELDS
    kind = "field"

    def __init__(self, shape: Shape, *, fields: Any = None, shapes: Any = None) -> None:
        if len(shape) == 0:
            raise InputError("shape=() of Fields is a single number: name its fields")
        fewest = 2
        if fields is None and shapes is None:
            (fields, shapes), fewest = _halves(shape), 1
        super().__init__(shape, *_fields(shape, fields, shapes, fewest))
        self._on_own_scales = [False] * len(self.names)

    @property
    def dense(self) -> list[int] | None:
        found, start = [], 0
        for member in self._members():
            size = math.prod(member.shape)
            of_member = range(size) if member.dense is None else member.dense
            found += [start + i for i in of_member]
            start += size
        return found

    def meet(self, x: Tensor) -> None:
        super().meet(x)
        self._on_own_scales = [
            on_own_scales(member, values) for _, member, values in self._each(x)
        ]

    def initialise(self, mean: Tensor, std: Tensor, *, standardise: bool) -> None:
        """Each field counts in units of its own, and where its elements do, they do."""
        moments = zip(self._each(mean), self._each(std), strict=True)
        for own, ((_, member, m), (_, _, s)) in zip(
            self._on_own_scales, moments, strict=True
        ):
            member.initialise(m, s, standardise=own)

    def of_field(self, i: int, h: Tensor) -> Distribution:
        """`p(x_i|z)` of the field number i, from its outputs of the decoder, `(..., *output_shape)` of its member."""
        member = self._members()[i]
        p = member(wide(h))
        p = member.partly(p) if self.missing else p
        return _Rounded(p, like=h)

    def outputs_of_field(self, i: int, h: Tensor) -> Tensor:
        """The outputs of field number i among those of all, `(..., width)`."""
        return self._outputs(h)[i]


class _Rounded(Joined):
    """A field's distribution, computed in float64 and rounded once to the type of the decoder's outputs."""

    def __init__(self, part: Any, *, like: Tensor) -> None:
        super().__init__([part], tuple(part.event_shape), like=like)

    def expand(self, batch_shape: Any, _instance: object = None) -> "_Rounded":
        if torch.Size(batch_shape) == self.batch_shape:
            return self
        part = self.parts[0].expand(torch.Size(batch_shape))
        return _Rounded(part, like=torch.empty(0, dtype=self.dtype))


def on_own_scales(member: Any, x: Tensor) -> bool:
    """Whether the elements of a field count in units of their own, by its data: reals beyond [0, 1] and columns do."""
    if isinstance(member, Parted):
        return True
    return Representation.of(x) is Representation.REAL


def _halves(shape: Shape) -> tuple[dict[str, Any], dict[str, Shape]]:
    """What data are made of that are two halves, the lesser first."""
    length, *rest = shape
    if length < 2:
        return {"first": Gaussian}, {"first": tuple(shape)}
    half = length // 2
    shapes = {"first": (half, *rest), "second": (length - half, *rest)}
    return {"first": Gaussian, "second": Gaussian}, shapes


def _is_shape(value: Any) -> bool:
    """Whether a value is the shape of a field."""
    sizes = isinstance(value, tuple | list) and len(value) > 0
    return sizes and all(isinstance(n, int) and n > 0 for n in value)


def _fields(
    shape: Shape, fields: Any, shapes: Any, fewest: int
) -> tuple[tuple[str, ...], list[Likelihood]]:
    """The names of fields, and the likelihood of each."""
    both = {"fields": fields, "shapes": shapes}
    for name, given in sorted(both.items(), key=lambda item: item[1] is None):
        other = "shapes" if name == "fields" else "fields"
        if not isinstance(given, Mapping):
            raise InputError(
                f"{name}={shown(given)} of Fields must name fields, as in {{'image': ...}}, and so must {other}="
            )
    names = check_names([*fields], "Fields", fewest)
    whole = {name: _is_shape(of_field) for name, of_field in shapes.items()}
    if not all(whole.values()):
        wrong = next(name for name, right in whole.items() if not right)
        raise InputError(
            f"shapes= of Fields gives {wrong!r} the shape {shown(shapes[wrong])}: give whole numbers from 1, as in "
            "(28, 28)"
        )
    if fields.keys() != shapes.keys():
        raise InputError(
            f"Fields has likelihoods of {', '.join(names)} and shapes of {', '.join(shapes)}: name the same fields"
        )
    width = sum(math.prod(of_field) for of_field in shapes.values())
    if math.prod(shape) != width:
        raise InputError(
            f"the fields of Fields have {width} elements together, and a datum has the shape {tuple(shape)}: give "
            f"({width},)"
        )
    members = []
    for name in names:
        make = fields[name]
        member = make(tuple(shapes[name])) if callable(make) else None
        if not isinstance(member, Likelihood) or isinstance(member, Fields):
            raise InputError(
                f"fields= of Fields gives {name!r} the likelihood {shown(make)}, which makes none: give one such as "
                "Bernoulli"
            )
        if member.sized:
            raise InputError(
                f"the field {name} is given its total count, which is not known where the field is missing: leave "
                "size='observed' out"
            )
        members.append(member)
    return names, members
