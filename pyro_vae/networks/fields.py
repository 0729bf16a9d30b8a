"""Encoder and decoder of data of several fields: a network for each."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vae.engine.affine import Affine
from pyro_vae.foundation.abstract import context_of
from pyro_vae.foundation.errors import InputError
from pyro_vae.foundation.fieldnames import check_names
from pyro_vae.foundation.layout import Layout
from pyro_vae.networks.base import Shape, draw_weights, features


class FieldEncoder(nn.Module):
    """An encoder body for data of several fields, `(..., width) -> (..., features)`: a network reads each.

    Of a field that is missing, of which all elements are nan, the features are 0, and one number more says so. The
    features of all fields go through one layer more, `relu(W [h_1, ..., h_F, seen] + b)`; a guide made of experts lets
    it `keep_apart` what it says of each.

    Args:
        networks: by the name of each field its network, `(..., *shape) -> (..., features)`, in the order in which the
            fields stand in x. All have the same `context`.
        shapes: by the name of each field its shape.
        shape: of x, where it is no vector.

    Raises:
        InputError: for names that do not agree, or conditions of different lengths.

    >>> from pyro_vae import MLP
    >>> encoder = FieldEncoder({"image": MLP((2, 2)), "number": MLP((1,))}, {"image": (2, 2), "number": (1,)})
    >>> encoder(torch.zeros(3, 5)).shape
    torch.Size([3, 200])
    """

    def __init__(
        self,
        networks: Mapping[str, nn.Module],
        shapes: Mapping[str, Sequence[int]],
        *,
        shape: Shape = (),
    ) -> None:
        super().__init__()
        names = check_names([*networks], "FieldEncoder", 1)
        if networks.keys() != shapes.keys():
            raise InputError(
                f"FieldEncoder has networks of {', '.join(names)} and shapes of {', '.join(shapes)}: name the same "
                "fields"
            )
        of_each = tuple(tuple(shapes[name]) for name in names)
        self.layout = Layout(names, of_each)
        if len(shape) > 1:
            self.layout = self.layout._replace(whole=tuple(shape))
        self.bodies = nn.ModuleList(networks.values())
        self.widths = [features(body, None) for body in self.bodies]
        self.in_shape = self.layout.whole or (self.layout.width,)
        self.context = _context(self.bodies)
        width = max(self.widths)
        layer = Affine(self.apart_width, width)
        draw_weights(layer, "relu")
        self.together: nn.Module = nn.Sequential(layer, nn.ReLU())
        self.out_shape: Shape = (width,)

    @property
    def apart_width(self) -> int:
        """Of the features of all fields, and whether each is there."""
        return sum(self.widths) + len(self.widths)

    def keep_apart(self) -> None:
        """Return the features side by side, without the layer that puts them together."""
        self.together = nn.Identity()
        self.out_shape = (self.apart_width,)

    def forward(self, x: Tensor, *c: Tensor) -> Tensor:
        there = self.layout.seen(x)
        flags = there.to(x)
        parts = zip(self.bodies, self.layout.parts(x), flags.unbind(-1), strict=True)
        each = [body(part, *c) * known.unsqueeze(-1) for body, part, known in parts]
        batch = torch.broadcast_shapes(flags.shape[:-1], *(h.shape[:-1] for h in each))
        vectors = [part.expand(*batch, -1) for part in (*each, flags)]
        return self.together(torch.cat(vectors, -1))  # type: ignore[no-any-return]


class FieldDecoder(nn.Module):
    """A decoder of several fields, `(..., latent_dim) -> (..., outputs)`: a network makes the outputs of each.

    Args:
        networks: by the name of each field its network, `(..., latent_dim) -> (..., *outputs of its likelihood)`, in
            the order in which the fields stand in x. All have the same `context`.

    Raises:
        InputError: for networks that do not say their `out_shape`, or conditions of different lengths.

    >>> from pyro_vae import MLP
    >>> FieldDecoder({"image": MLP((2,), (1, 2, 2)), "number": MLP((2,), (1, 1))})(torch.zeros(3, 2)).shape
    torch.Size([3, 5])
    """

    def __init__(self, networks: Mapping[str, nn.Module]) -> None:
        super().__init__()
        names = check_names([*networks], "FieldDecoder", 1)
        shapes = []
        for name, network in networks.items():
            shape = getattr(network, "out_shape", None)
            if shape is None:
                raise InputError(
                    f"the network of the field {name} does not say its out_shape, the outputs of its likelihood"
                )
            shapes.append(tuple(shape))
        self.layout = Layout(names, tuple(shapes))
        self.networks = nn.ModuleList(networks.values())
        self.out_shape = (self.layout.width,)
        self.context = _context(self.networks)

    def forward(self, z: Tensor, *c: Tensor) -> Tensor:
        return self.layout.together([network(z, *c) for network in self.networks])

    def of_field(self, i: int, z: Tensor, *c: Tensor) -> Tensor:
        """The outputs of the field number i alone."""
        return self.networks[i](z, *c)  # type: ignore[no-any-return]


def _context(networks: Any) -> int:
    """The length of the condition that all of some networks read."""
    lengths = {context_of(network) for network in networks}
    if len(lengths) > 1:
        raise InputError(
            f"the networks of the fields read conditions of {' and '.join(map(str, sorted(lengths)))} numbers: give "
            "all the same context"
        )
    return lengths.pop()
