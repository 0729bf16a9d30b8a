"""Encoder and decoder bodies: deterministic maps from (..., *in_shape) to (..., *out_shape)."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from itertools import pairwise
from typing import Any, Self

import torch
from torch import Tensor, nn

from pyro_vae._errors import InputError

Shape = tuple[int, ...]

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "leaky_relu": nn.LeakyReLU,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
}


class Network(nn.Module, ABC):
    """The body of an encoder or decoder, `(..., *in_shape) -> (..., *out_shape)` for any leading dimensions.

    To write one: take `in_shape` and `out_shape` (`None`: end with the last hidden features, as an encoder does), set
    `self.in_shape` and `self.out_shape`, and implement `forward`. `MLP` is the simplest example.
    """

    in_shape: Shape
    out_shape: Shape

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """`(..., *in_shape) -> (..., *out_shape)`."""

    @classmethod
    def encoder(cls, shape: Shape, **arguments: Any) -> Self:
        """The body that reads data of `shape` and returns features `(..., features)`."""
        return cls(shape, None, **arguments)  # type: ignore[call-arg]

    @classmethod
    def decoder(cls, latent_dim: int, shape: Shape, **arguments: Any) -> Self:
        """The body that reads a latent `(..., latent_dim)` and returns `(..., *shape)`; mirrors `encoder`."""
        return cls((latent_dim,), shape, **arguments)  # type: ignore[call-arg]

    @property
    def output_layer(self) -> nn.Linear | nn.ConvTranspose2d | None:
        """The last, linear layer of a decoder; `None` where the body has no such thing."""
        return None

    @torch.no_grad()
    def set_output_bias(self, h: Tensor) -> None:
        """Let the network return `h`, of shape `out_shape`, on average: averaged where one bias serves many outputs."""
        if self.output_layer is not None and self.output_layer.bias is not None:
            bias = self.output_layer.bias
            bias.copy_(h.reshape(bias.numel(), -1).mean(1))

    @torch.no_grad()
    def set_output_spread(self, target: float, x: Tensor) -> None:
        """Scale the last layer's weights so that the outputs for `x`, `(n, *in_shape)`, vary by `target` on average."""
        if self.output_layer is not None:
            spread = self(x).std(0).mean()
            self.output_layer.weight.mul_(target / spread.clamp_min(1e-12))


def _activation(name: str) -> nn.Module:
    if name not in ACTIVATIONS:
        raise InputError(f"activation={name!r} is unknown; choose one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]()


def _spread(layer: nn.Module, activation: str) -> nn.Module:
    """Draw a layer's weights so that activations keep their variance: He for the rectifiers, Glorot for the others.

    PyTorch's own default shrinks signals by a factor of sqrt(3) or more a layer; with ReLU the decoder of a small data
    set then never learns to listen to z. Source: Glorot & Bengio 2010; He et al. 2015.
    """
    if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
        if activation in ("relu", "leaky_relu", "elu", "gelu", "silu", "softplus"):
            nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
        else:
            nn.init.xavier_uniform_(layer.weight)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    return layer


def _sizes(name: str, values: Any) -> tuple[int, ...]:
    values = (values,) if not isinstance(values, tuple | list) else tuple(values)
    if any(not isinstance(v, int) or v < 1 for v in values):
        raise InputError(f"{name}={values} must hold whole numbers of at least 1, such as {name}=(200, 200)")
    return values


class MLP(Network):
    """Fully connected layers, any shapes: `h_{l+1} = activation(W_l h_l + b_l)`, with a linear last layer.

    Args:
        in_shape: shape of one input; it is flattened.
        out_shape: shape of one output, or `None` to end with the last hidden layer.
        hidden: widths of the hidden layers from the data to the latent (a decoder uses them in reverse); `()` makes a
            linear map, the bridge to probabilistic PCA.
        activation: one of `networks.ACTIVATIONS`.
        dropout: probability of dropping a hidden unit while training.

    Raises:
        InputError: for an unknown activation, a width below 1, or a dropout outside [0, 1).

    >>> MLP((28, 28), None, hidden=(200, 100)).out_shape
    (100,)
    """

    def __init__(
        self,
        in_shape: Shape,
        out_shape: Shape | None = None,
        *,
        hidden: tuple[int, ...] = (200, 200),
        activation: str = "relu",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        hidden = _sizes("hidden", hidden)
        if not 0 <= dropout < 1:
            raise InputError(f"dropout={dropout} must lie in [0, 1)")
        widths = [math.prod(in_shape), *hidden]
        layers: list[nn.Module] = []
        for n_in, n_out in pairwise(widths):
            layers += [nn.Linear(n_in, n_out), _activation(activation)]
            if dropout:
                layers.append(nn.Dropout(dropout))
        if out_shape is not None:
            layers.append(nn.Linear(widths[-1], math.prod(out_shape)))
        self.layers = nn.Sequential(*(_spread(layer, activation) for layer in layers))
        self.in_shape = tuple(in_shape)
        self.out_shape = (widths[-1],) if out_shape is None else tuple(out_shape)

    @classmethod
    def decoder(cls, latent_dim: int, shape: Shape, **arguments: Any) -> Self:
        if "hidden" in arguments:
            arguments["hidden"] = _sizes("hidden", arguments["hidden"])[::-1]
        return super().decoder(latent_dim, shape, **arguments)

    def forward(self, x: Tensor) -> Tensor:
        h = self.layers(x.flatten(x.dim() - len(self.in_shape)))  # (..., prod(out_shape))
        return h.unflatten(-1, self.out_shape)

    @property
    def output_layer(self) -> nn.Linear | None:
        last = self.layers[-1] if len(self.layers) else None
        return last if isinstance(last, nn.Linear) else None


class ConvNet(Network):
    """Strided 3×3 convolutions for images of any size, `(H, W)` or `(C, H, W)`.

    An image as input makes the encoder: each layer halves the height and width (rounding up), 28×28 becomes 7×7 with
    the default two layers. A vector as input makes the decoder, the same stack transposed, exact for odd sizes too.

    Args:
        in_shape: `(H, W)`, `(C, H, W)`, or `(latent_dim,)` for a decoder.
        out_shape: `None` for an encoder; for a decoder `(channels, H, W)` or `(channels, C, H, W)`.
        channels: convolution channels from the data to the latent.
        activation: one of `networks.ACTIVATIONS`.

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
        channels: tuple[int, ...] = (16, 32),
        activation: str = "relu",
    ) -> None:
        super().__init__()
        channels = _sizes("channels", channels)
        image = in_shape if out_shape is None else out_shape[1:]
        if not channels or len(image) not in (2, 3):
            raise InputError(f"ConvNet needs images of shape (H, W) or (C, H, W) and at least one layer, not {image}")
        sizes = [image[-2:]]  # height and width before each layer
        for _ in channels:
            sizes.append((-(-sizes[-1][0] // 2), -(-sizes[-1][1] // 2)))
        body: list[nn.Module] = []
        bottleneck = (channels[-1], *sizes[-1])
        if out_shape is None:
            planes = (math.prod(image[:-2]), *channels)
            for c_in, c_out in pairwise(planes):
                body += [nn.Conv2d(c_in, c_out, 3, stride=2, padding=1), _activation(activation)]
            body.append(nn.Flatten())
            self._image = (planes[0], *image[-2:])
            self.out_shape = (math.prod(bottleneck),)
        else:
            planes = (math.prod(out_shape[:-2]), *channels)
            body += [nn.Linear(math.prod(in_shape), math.prod(bottleneck)), nn.Unflatten(1, bottleneck)]
            for layer in reversed(range(len(channels))):
                (h, w), (h_in, w_in) = sizes[layer], sizes[layer + 1]
                extra = (h - (2 * h_in - 1), w - (2 * w_in - 1))  # 1 where the size is even
                body.append(_activation(activation))
                body.append(nn.ConvTranspose2d(planes[layer + 1], planes[layer], 3, 2, 1, output_padding=extra))
            self._image = tuple(in_shape)
            self.out_shape = tuple(out_shape)
        self.layers = nn.Sequential(*(_spread(layer, activation) for layer in body))
        self.in_shape = tuple(in_shape)

    def forward(self, x: Tensor) -> Tensor:
        batch = x.shape[: x.dim() - len(self.in_shape)]
        h = self.layers(x.reshape(-1, *self._image))
        return h.reshape(*batch, *self.out_shape)

    @property
    def output_layer(self) -> nn.ConvTranspose2d | None:
        last = self.layers[-1]
        return last if isinstance(last, nn.ConvTranspose2d) else None


class Standardised(nn.Module):
    """An encoder body that sees `(x - shift) / spread`: real data of any scale look alike to it.

    `shift` and `spread` are buffers of the shape of one datum, 0 and 1 until `VAE.initialise` sets them from the data.
    """

    shift: Tensor
    spread: Tensor

    def __init__(self, body: Network) -> None:
        super().__init__()
        self.body = body
        self.in_shape, self.out_shape = body.in_shape, body.out_shape
        self.register_buffer("shift", torch.zeros(body.in_shape))
        self.register_buffer("spread", torch.ones(body.in_shape))

    def forward(self, x: Tensor) -> Tensor:
        """`(..., *in_shape) -> (..., *out_shape)`."""
        return self.body((x - self.shift) / self.spread)


def features(encoder: nn.Module, given: int | None) -> int:
    """The number of features that an encoder returns: its `out_shape`, or the number `given` for any other module."""
    shape = getattr(encoder, "out_shape", None) if given is None else (given,)
    if shape is None:
        name = type(encoder).__name__
        raise InputError(f"the encoder {name} does not say its out_shape; give the guide features=<its output width>")
    return math.prod(shape)
