"""Networks on flattened data."""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Annotated, Any, Literal, Self

import torch
from torch import Tensor, nn

from pyro_vae.engine.affine import Affine
from pyro_vae.foundation.checks import Count, Whole, check, share
from pyro_vae.foundation.errors import InputError
from pyro_vae.networks.base import (
    Activation,
    Network,
    Shape,
    activation_layer,
    draw_weights,
    gain,
    keep_variance,
)

Norm = Literal["batch", "layer"]
Share = Annotated[float, share()]
Pair = tuple[Share, Share]
Dropout = Share | Pair


class BatchNorm(nn.BatchNorm1d):
    """Batch normalisation of the last dimension, over all others: the data, and draws or classes of each."""

    def forward(self, h: Tensor) -> Tensor:
        return super().forward(h.flatten(0, -2)).reshape(h.shape)


NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": BatchNorm,
    "layer": nn.LayerNorm,
}


class _Dense(Network):
    """Hidden layers one after the other on the flattened input, and a linear last layer if there is an `out_shape`.

    Args:
        in_shape, out_shape, hidden, dropout: as in `MLP`.
        nonlinearity: makes the module that follows a hidden layer.
        widen: how many times wider than its output that module wants its input.
        norm: as in `MLP`.
    """

    def __init__(
        self,
        in_shape: Shape,
        out_shape: Shape | None,
        *,
        hidden: tuple[Count, ...] = (),
        dropout: Dropout = 0.0,
        nonlinearity: Callable[[], nn.Module] = nn.Identity,
        widen: int = 1,
        context: Whole = 0,
        norm: Norm | None = None,
    ) -> None:
        super().__init__()
        if isinstance(dropout, tuple | list):
            raise InputError(
                f"dropout={dropout} names an encoder and a decoder, and this is one network: give it one number"
            )
        widths = [math.prod(in_shape), *hidden]
        layers: list[nn.Module] = []
        for n_in, n_out in pairwise(widths):
            layers.append(Affine(n_in, widen * n_out))
            if norm is not None:
                layers.append(NORMS[norm](widen * n_out))
            layers.append(nonlinearity())
            if dropout:
                layers.append(nn.Dropout(dropout))
        if out_shape is not None:
            layers.append(Affine(widths[-1], math.prod(out_shape)))
        self.layers = nn.Sequential(*layers)
        self.in_shape = tuple(in_shape)
        width = widths[-1] if layers else widths[-1] + context
        self.out_shape = (width,) if out_shape is None else tuple(out_shape)

    @classmethod
    def encoder(cls, shape: Shape, **arguments: Any) -> Self:
        return super().encoder(shape, **_share(arguments, 0))

    @classmethod
    def decoder(cls, latent_dim: int, shape: Shape, **arguments: Any) -> Self:
        if "hidden" in arguments:
            hidden = check(
                "hidden", arguments["hidden"], tuple[Count, ...], owner=cls.__name__
            )
            arguments["hidden"] = hidden[::-1]
        return super().decoder(latent_dim, shape, **_share(arguments, 1))

    def forward(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        c = self.checked_context(c)
        x = x if self.of_context is not None else self.as_many(x, c)
        h = x.flatten(x.dim() - len(self.in_shape))
        if c is None:
            h = self.layers(h)  # (..., prod(out_shape))
        elif self.of_context is None:
            batch = torch.broadcast_shapes(h.shape[:-1], c.shape[:-1])
            h = torch.cat([h.expand(*batch, -1), c.expand(*batch, -1)], -1)
        else:
            first, *others = self.layers
            h = first(h) + self.of_context(c)
            for layer in others:
                h = layer(h)
        return h.unflatten(-1, self.out_shape)

    @property
    def first_layer(self) -> nn.Linear | None:
        return self.layers[0] if len(self.layers) else None  # type: ignore[return-value]

    @property
    def output_layer(self) -> nn.Linear | None:
        last = self.layers[-1] if len(self.layers) else None
        return last if isinstance(last, nn.Linear) else None


def blocks_of(network: Any) -> list[nn.Sequential]:
    """The layers of a network of this module: each linear map with what follows it; none of any other network."""
    if not isinstance(network, _Dense):
        return []
    layers = list(network.layers)
    starts = [i for i, layer in enumerate(layers) if isinstance(layer, Affine)]
    ends = [*starts[1:], len(layers)][: len(starts)]
    return [nn.Sequential(*layers[i:j]) for i, j in zip(starts, ends, strict=True)]


def _share(arguments: dict[str, Any], which: int) -> dict[str, Any]:
    """The arguments of the encoder (0) or of the decoder (1), where `dropout` may name one for each."""
    dropout = arguments.get("dropout")
    if not isinstance(dropout, tuple | list):
        return arguments
    return {**arguments, "dropout": check("dropout", dropout, Pair)[which]}


class Linear(_Dense):
    """No hidden layers: the encoder is the flattened datum itself, the decoder one affine map `W z + b`.

    With `Gaussian` this is probabilistic PCA, or factor analysis where each element has a scale of its own; the best
    encoder is then linear too. It shows what the hidden layers of another network add.

    A context c shifts the output, `W z + V c + b`. With `interaction` it changes the weights too,
    `(W + sum_k c_k W_k) z + V c + b`: given a class, each has loadings of its own, as in a mixture of factor analysers.

    Args:
        in_shape: shape of one input; it is flattened.
        out_shape: shape of one output, or `None` for the flattened input itself.
        interaction: whether the weights of a decoder depend on its context; without one it has no effect.
        context: as in `Network`.

    Source: Tipping & Bishop 1999, Probabilistic Principal Component Analysis; Ghahramani & Hinton 1996, The EM
    Algorithm for Mixtures of Factor Analyzers (interaction).

    >>> Linear((28, 28)).out_shape, Linear((10,), (1, 28, 28)).out_shape
    ((784,), (1, 28, 28))
    """

    def __init__(
        self,
        in_shape: Shape,
        out_shape: Shape | None = None,
        *,
        interaction: bool = False,
        context: Whole = 0,
    ) -> None:
        super().__init__(in_shape, out_shape, context=context)
        for layer in self.layers:
            keep_variance(layer, 1.0)
        self.read_context(context, self.first_layer)
        self.of_both: Affine | None = None
        if interaction and context and self.layers:
            size = context * math.prod(in_shape)
            self.of_both = Affine(size, math.prod(self.out_shape), bias=False)
            keep_variance(self.of_both, math.sqrt(context))

    def forward(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        h = super().forward(x, c)
        if self.of_both is None or c is None:
            return h
        flat = x.flatten(x.dim() - len(self.in_shape))
        both = (c.unsqueeze(-1) * flat.unsqueeze(-2)).flatten(-2)
        return h + self.of_both(both).unflatten(-1, self.out_shape)

    @torch.no_grad()
    def set_output_spread(
        self, target: float, x: Tensor, c: Tensor | None = None
    ) -> None:
        assert self.output_layer is not None
        before = self.output_layer.weight.norm()
        super().set_output_spread(target, x, c)
        if self.of_both is not None:
            self.of_both.weight.mul_(self.output_layer.weight.norm() / before)


class MLP(_Dense):
    """Fully connected layers, any shapes: `h_{l+1} = activation(W_l h_l + b_l)`, with a linear last layer.

    Args:
        in_shape: shape of one input; it is flattened.
        out_shape: shape of one output, or `None` to end with the last hidden layer.
        hidden: widths of the hidden layers from the data to the latent (a decoder uses them in reverse); `()` makes a
            linear map.
        activation: one of `networks.ACTIVATIONS`.
        dropout: probability of dropping a hidden unit while training; of `encoder` and `decoder` also a pair with one
            for each.
        norm: what each hidden layer is normalised by before its activation: `'batch'`, over the data of a batch in
            training and by running averages in evaluation, `'layer'`, over its units, or `None`.
        context: as in `Network`.

    Raises:
        InputError: for an unknown activation, a width below 1, or a dropout outside [0, 1).

    Source of the norms: Ioffe & Szegedy 2015, Batch Normalization; Ba, Kiros & Hinton 2016, Layer Normalization.

    >>> MLP((28, 28), None, hidden=(200, 100)).out_shape
    (100,)
    """

    def __init__(
        self,
        in_shape: Shape,
        out_shape: Shape | None = None,
        *,
        hidden: tuple[Count, ...] = (200, 200),
        activation: Activation = "relu",
        dropout: Dropout = 0.0,
        norm: Norm | None = None,
        context: Whole = 0,
    ) -> None:
        super().__init__(
            in_shape,
            out_shape,
            hidden=hidden,
            dropout=dropout,
            nonlinearity=lambda: activation_layer(activation),
            context=context,
            norm=norm,
        )
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                draw_weights(layer, activation)
        self.read_context(context, self.first_layer)


class GatedMLP(_Dense):
    """Fully connected layers with gates: `h_{l+1} = (W_l h_l + b_l) * sigmoid(V_l h_l + c_l)`, a linear last layer.

    The gate decides for each datum which units speak, and the other factor passes gradients on unsquashed. A layer is
    one matrix of twice the width, `W_l` above `V_l`. `V` starts with unit gain, `W` with the gain that makes up for
    what the gate takes away.

    Args:
        in_shape: shape of one input; it is flattened.
        out_shape: shape of one output, or `None` to end with the last hidden layer.
        hidden: widths of the hidden layers from the data to the latent (a decoder uses them in reverse).
        dropout: probability of dropping a hidden unit while training; of `encoder` and `decoder` also a pair with one
            for each.
        context: as in `Network`.

    Raises:
        InputError: for a width below 1 or a dropout outside [0, 1).

    Source: Dauphin et al. 2017, Language Modeling with Gated Convolutional Networks; Tomczak & Welling 2018, VAE with a
    VampPrior.

    >>> GatedMLP((28, 28)).out_shape, GatedMLP((10,), (1, 28, 28))(torch.zeros(3, 5, 10)).shape
    ((300,), torch.Size([3, 5, 1, 28, 28]))
    """

    def __init__(
        self,
        in_shape: Shape,
        out_shape: Shape | None = None,
        *,
        hidden: tuple[Count, ...] = (300, 300),
        dropout: Dropout = 0.0,
        context: Whole = 0,
    ) -> None:
        super().__init__(
            in_shape,
            out_shape,
            hidden=hidden,
            dropout=dropout,
            nonlinearity=nn.GLU,
            widen=2,
            context=context,
        )
        for layer in self.layers:
            gains = (1.0,) if layer is self.output_layer else (gain(torch.sigmoid), 1.0)
            keep_variance(layer, *gains)
        self.read_context(context, self.first_layer)
