"""Networks of convolutions, for images."""

import math
from collections.abc import Callable, Iterable
from itertools import pairwise

import torch
from torch import Tensor, nn

from pyro_vae.foundation.checks import Count, Layers, Whole
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


class _Convolutional(Network):
    """Strided 3×3 convolutions from an image to features, or transposed from a vector to an image of the exact size.

    Args:
        in_shape, out_shape, channels: as in `ConvNet`.
        follow: makes the modules that follow a hidden layer of so many channels.
        widen: how many times more channels than that those modules want at their input.
    """

    of_images = True

    def __init__(
        self,
        in_shape: Shape,
        out_shape: Shape | None,
        channels: tuple[Count, ...],
        follow: Callable[[int], Iterable[nn.Module]],
        widen: int = 1,
    ) -> None:
        super().__init__()
        image = in_shape if out_shape is None else out_shape[1:]
        if not channels or len(image) not in (2, 3):
            name = type(self).__name__
            raise InputError(
                f"{name} needs images of shape (H, W) or (C, H, W) and at least one layer, not {image}"
            )
        sizes = [image[-2:]]  # height and width before each layer
        for _ in channels:
            sizes.append((-(-sizes[-1][0] // 2), -(-sizes[-1][1] // 2)))
        body: list[nn.Module] = []
        if out_shape is None:
            planes = (math.prod(image[:-2]), *channels)
            for c_in, c_out in pairwise(planes):
                body += [
                    nn.Conv2d(c_in, widen * c_out, 3, stride=2, padding=1),
                    *follow(c_out),
                ]
            body.append(nn.Flatten())
            self._image = (planes[0], *image[-2:])
            self.out_shape = (math.prod((channels[-1], *sizes[-1])),)
        else:
            planes = (math.prod(out_shape[:-2]), *channels)
            bottleneck = (widen * channels[-1], *sizes[-1])
            body += [
                nn.Linear(math.prod(in_shape), math.prod(bottleneck)),
                nn.Unflatten(1, bottleneck),
            ]
            for layer in reversed(range(len(channels))):
                (h, w), (h_in, w_in) = sizes[layer], sizes[layer + 1]
                # 1 where the size is even
                extra = (
                    h - (2 * h_in - 1),
                    w - (2 * w_in - 1),
                )
                c_in, c_out = planes[layer + 1], planes[layer] * (widen if layer else 1)
                body += [
                    *follow(c_in),
                    nn.ConvTranspose2d(c_in, c_out, 3, 2, 1, output_padding=extra),
                ]
            self._image = tuple(in_shape)
            self.out_shape = tuple(out_shape)
        self.layers = nn.Sequential(*body)
        self.in_shape = tuple(in_shape)

    def forward(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        c = self.checked_context(c)
        x = self.as_many(x, c)
        batch = x.shape[: x.dim() - len(self.in_shape)]
        first, *others = self.layers
        h = first(x.reshape(-1, *self._image))
        if self.of_context is not None and c is not None:
            added = self.of_context(c)
            added = added.reshape(*added.shape, *[1] * (h.dim() - 2))
            h = h.reshape(*batch, *h.shape[1:]) + added
            batch = torch.broadcast_shapes(batch, c.shape[:-1])
            h = h.flatten(0, len(batch) - 1) if batch else h.unsqueeze(0)
        for layer in others:
            h = layer(h)
        return h.reshape(*batch, *self.out_shape)

    @property
    def first_layer(self) -> nn.Linear | nn.Conv2d:
        return self.layers[0]  # type: ignore[return-value]

    @property
    def output_layer(self) -> nn.ConvTranspose2d | None:
        last = self.layers[-1]
        return last if isinstance(last, nn.ConvTranspose2d) else None


class ConvNet(_Convolutional):
    """Strided 3×3 convolutions for images of any size, `(H, W)` or `(C, H, W)`.

    An image as input makes the encoder: each layer halves the height and width (rounding up), 28×28 becomes 7×7 with
    the default two layers. A vector as input makes the decoder, the same stack transposed, exact for odd sizes too.

    Args:
        in_shape: `(H, W)`, `(C, H, W)`, or `(latent_dim,)` for a decoder.
        out_shape: `None` for an encoder; for a decoder `(channels, H, W)` or `(channels, C, H, W)`.
        channels: convolution channels from the data to the latent.
        activation: one of `networks.ACTIVATIONS`.
        context: as in `Network`.

    Raises:
        InputError: when the data are not images, or an argument is out of range.

    >>> ConvNet((28, 28)).out_shape, ConvNet((10,), (1, 28, 28))(torch.zeros(3, 5, 10)).shape
    ((1568,), torch.Size([3, 5, 1, 28, 28]))
    """

    def __init__(
        self,
        in_shape: Shape,
        out_shape: Shape | None = None,
        *,
        channels: tuple[Count, ...] = (16, 32),
        activation: Activation = "relu",
        context: Whole = 0,
    ) -> None:
        super().__init__(
            in_shape, out_shape, channels, lambda _: [activation_layer(activation)]
        )
        for layer in self.layers:
            draw_weights(layer, activation)
        self.read_context(context, self.first_layer)


class GatedConv(_Convolutional):
    """`ConvNet` with gates for activations: `h_{l+1} = (W_l * h_l + b_l) sigmoid(V_l * h_l + c_l)`.

    Here `*` is a convolution, transposed in a decoder. A hidden layer makes twice the channels at once, those of `W`
    before those of `V`; the last layer is linear. Images of any size; a layer halves height and width, rounding up.

    Args:
        in_shape: `(H, W)`, `(C, H, W)`, or `(latent_dim,)` for a decoder.
        out_shape: `None` for an encoder; for a decoder `(channels, H, W)` or `(channels, C, H, W)`.
        channels: convolution channels from the data to the latent, counted after the gates.
        context: as in `Network`.

    Raises:
        InputError: when the data are not images, or a number of channels is below 1.

    Source: van den Berg et al. 2018, Sylvester Normalizing Flows for Variational Inference; Dauphin et al. 2017,
    Language Modeling with Gated Convolutional Networks.

    >>> GatedConv((28, 28)).out_shape, GatedConv((10,), (1, 28, 28))(torch.zeros(3, 5, 10)).shape
    ((3136,), torch.Size([3, 5, 1, 28, 28]))
    """

    def __init__(
        self,
        in_shape: Shape,
        out_shape: Shape | None = None,
        *,
        channels: tuple[Count, ...] = (32, 64),
        context: Whole = 0,
    ) -> None:
        super().__init__(in_shape, out_shape, channels, lambda _: [nn.GLU(1)], widen=2)
        for layer in self.layers:
            gains = (1.0,) if layer is self.output_layer else (gain(torch.sigmoid), 1.0)
            keep_variance(layer, *gains)
        self.read_context(context, self.first_layer)


class _Block(nn.Module):
    """`h + W_2 * a(W_1 * a(h))`, two 3×3 convolutions; `scale` is the size of the second term at the start."""

    def __init__(self, channels: int, activation: str, scale: float) -> None:
        super().__init__()
        before = activation_layer(activation)
        first, second = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        keep_variance(first, gain(before))
        keep_variance(second, gain(before) * scale)
        self.branch = nn.Sequential(before, first, activation_layer(activation), second)

    def forward(self, h: Tensor) -> Tensor:
        return h + self.branch(h)


class ResNet(_Convolutional):
    """`ConvNet` with residual blocks behind each hidden layer: `h <- h + W_2 * a(W_1 * a(h))`.

    Here `*` is a 3×3 convolution. The activation `a` stands before the weights, so that `h` passes on unchanged. There
    is no batch normalisation, which would mix data; instead the branches start small: `W_2` is divided by the square
    root of the number of blocks in the network. Images of any size; a level halves height and width, rounding up.

    Args:
        in_shape: `(H, W)`, `(C, H, W)`, or `(latent_dim,)` for a decoder.
        out_shape: `None` for an encoder; for a decoder `(channels, H, W)` or `(channels, C, H, W)`.
        channels: channels of each level from the data to the latent.
        blocks: residual blocks at each level.
        activation: one of `networks.ACTIVATIONS`. With `"relu"` the decoder was seen to ignore z for many epochs.
        context: as in `Network`.

    Raises:
        InputError: when the data are not images, or an argument is out of range.

    Source: He et al. 2016, Identity Mappings in Deep Residual Networks; Kingma et al. 2016, Improving Variational
    Inference with Inverse Autoregressive Flow (residual networks with ELU in a VAE); De & Smith 2020, Batch
    Normalization Biases Residual Blocks Towards the Identity Function in Deep Networks (the start of the branches).

    >>> ResNet((28, 28)).out_shape, ResNet((10,), (1, 28, 28))(torch.zeros(3, 5, 10)).shape
    ((1568,), torch.Size([3, 5, 1, 28, 28]))
    """

    def __init__(
        self,
        in_shape: Shape,
        out_shape: Shape | None = None,
        *,
        channels: tuple[Count, ...] = (16, 32),
        blocks: Layers = 1,
        activation: Activation = "elu",
        context: Whole = 0,
    ) -> None:
        scale = 1 / math.sqrt(blocks * max(1, len(channels)))

        def follow(width: int) -> list[nn.Module]:
            return [
                *(_Block(width, activation, scale) for _ in range(blocks)),
                activation_layer(activation),
            ]

        super().__init__(in_shape, out_shape, channels, follow)
        for layer in self.layers:
            keep_variance(layer, gain(activation_layer(activation)))
        self.read_context(context, self.first_layer)
