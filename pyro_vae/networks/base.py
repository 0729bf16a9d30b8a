"""What a network is, and what the members share."""

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Annotated, Any, Self

import torch
from torch import Tensor, nn

from pyro_vae.foundation.abstract import context_of
from pyro_vae.foundation.checks import Count, Whole, one_of
from pyro_vae.foundation.errors import InputError
from pyro_vae.foundation.sizes import Declared

Shape = tuple[Count, ...]

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "leaky_relu": nn.LeakyReLU,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
}
Activation = Annotated[str, one_of(ACTIVATIONS)]


class Network(Declared, nn.Module, ABC):
    """The body of an encoder or decoder, `(..., *in_shape) -> (..., *out_shape)` for any leading dimensions.

    A network with a `context` reads, beside x, a vector c of so many numbers: one linear map of c is added to the
    first hidden layer before its nonlinearity (in a convolution, to all pixels of a channel), which is what the layer
    would do with c behind its input.

    To write one: take `in_shape` and `out_shape` (`None`: end with the last hidden features, as an encoder does), set
    `self.in_shape` and `self.out_shape`, and implement `forward`. `MLP` is the simplest example. To let it be
    conditional, take `context` too, call `read_context` when the first layer is made, and add `self.of_context(c)`.
    """

    in_shape: Shape
    out_shape: Shape
    of_images = False  # True: it reads images alone, and no vectors

    def __init__(self) -> None:
        super().__init__()
        self.context = 0  # numbers in c
        self.of_context: nn.Linear | None = None

    @abstractmethod
    def forward(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        """`(..., *in_shape) -> (..., *out_shape)`; c is `(batch, context)` also for x of more dimensions."""

    @classmethod
    def encoder(cls, shape: Shape, *, context: Whole = 0, **arguments: Any) -> Self:
        """The body that reads data of `shape` and returns features `(..., features)`."""
        return cls(shape, None, **cls._with_context(context), **arguments)  # type: ignore[call-arg]

    @classmethod
    def decoder(
        cls, latent_dim: int, shape: Shape, *, context: Whole = 0, **arguments: Any
    ) -> Self:
        """The body that reads a latent `(..., latent_dim)` and returns `(..., *shape)`; mirrors `encoder`."""
        return cls((latent_dim,), shape, **cls._with_context(context), **arguments)  # type: ignore[call-arg]

    @classmethod
    def _with_context(cls, context: int) -> dict[str, int]:
        """The argument `context` where there is one, once the network is known to take it."""
        if context and "context" not in inspect.signature(cls).parameters:
            raise InputError(
                f"the network {cls.__name__} takes no context: give its class an argument context and its forward a "
                "second one, c"
            )
        return {"context": context} if context else {}

    @torch.no_grad()
    def read_context(self, context: int, layer: nn.Linear | nn.Conv2d | None) -> None:
        """Make `of_context`, whose outputs are added to those of the first `layer`.

        Its weights are drawn as the layer's would be if c were all that it reads; drawn as those of one input among
        many, a class is heard too late, when z holds it already. Without a layer c is handed on behind the input.
        """
        self.context = context
        if context and layer is not None:
            self.of_context = nn.Linear(context, layer.weight.shape[0], bias=False)
            alone = math.sqrt(layer.weight[0].numel() / context)
            spread = layer.weight.std(correction=0).item() * alone
            nn.init.uniform_(self.of_context.weight, -spread * 3**0.5, spread * 3**0.5)

    def as_many(self, x: Tensor, c: Tensor | None) -> Tensor:
        """`x`, `(..., *in_shape)`, repeated for each condition where one stands for all, as an enumerated code does."""
        leading = x.shape[: x.dim() - len(self.in_shape)]
        if c is None or len(leading) < c.dim() - 1:
            return x
        batch = torch.broadcast_shapes(leading, c.shape[:-1])
        return x if batch == leading else x.expand(*batch, *self.in_shape)

    def checked_context(self, c: Tensor | None) -> Tensor | None:
        """`c` as it was given.

        Raises:
            InputError: where the network has a context and none is given, or the other way round.
        """
        width = 0 if c is None else c.shape[-1]
        if width == self.context:
            return c
        name = type(self).__name__
        if c is None:
            raise InputError(
                f"{name} reads a condition of {self.context} numbers, c, and none is given"
            )
        raise InputError(
            f"c has {width} numbers for each datum and {name} reads {self.context}"
        )

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
    def set_output_spread(
        self, target: float, x: Tensor, c: Tensor | None = None
    ) -> None:
        """Scale the last layer's weights so that the outputs for `x`, `(n, *in_shape)`, vary by `target` on average.

        `c`, `(n, context)`, is what a conditional network reads beside them.
        """
        if self.output_layer is not None:
            factor = target / self(x, *([] if c is None else [c])).std(
                0
            ).mean().clamp_min(1e-12)
            self.output_layer.weight.mul_(factor)
            if self.of_context is not None and self.output_layer is self.first_layer:
                self.of_context.weight.mul_(factor)

    @property
    def first_layer(self) -> nn.Module | None:
        """The layer that reads the input, to whose outputs `of_context` is added."""
        return None


def activation_layer(name: str) -> nn.Module:
    """The module of one of `ACTIVATIONS`."""
    return ACTIVATIONS[name]()


def draw_weights(layer: nn.Module, activation: str) -> None:
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


def gain(nonlinearity: Callable[[Tensor], Tensor]) -> float:
    """`1 / sqrt(E[f(g)^2])` with `g ~ N(0, 1)`: the factor that makes up for what a nonlinearity f takes away.

    >>> round(gain(torch.relu) ** 2, 3), round(gain(torch.sigmoid), 3)
    (2.0, 1.846)
    """
    g = torch.linspace(-10, 10, 2001, dtype=torch.float64)
    density = torch.distributions.Normal(0.0, 1.0).log_prob(g).exp()
    return torch.trapezoid(nonlinearity(g).square() * density, g).item() ** -0.5


@torch.no_grad()
def keep_variance(layer: nn.Module, *gains: float) -> None:
    """Draw a layer's weights with variance `gain^2 / n_in`, one gain for each equal part of its outputs.

    `n_in` is the number of inputs that reach one output; a transposed convolution of stride s spreads its kernel over
    s^2 outputs. Inputs of mean square 1 then make outputs of variance `gain^2`, whatever the widths and the channels.
    Biases start at zero. Source: Glorot & Bengio 2010 (the condition for the forward signal).
    """
    if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
        outputs, reach = (
            (1, math.prod(layer.stride))
            if isinstance(layer, nn.ConvTranspose2d)
            else (0, 1)
        )
        n_in = layer.weight.numel() / layer.weight.shape[outputs] / reach
        for part, gain in zip(
            layer.weight.chunk(len(gains), outputs), gains, strict=True
        ):
            bound = gain * math.sqrt(3 / n_in)
            part.uniform_(-bound, bound)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def with_mask(shape: Shape, seen: Shape | None = None) -> Shape:
    """The shape of a datum and its mask together: for a vector behind it, for an image as further channels.

    Args:
        shape: of one datum, and of its mask.
        seen: the shape that a network is given of the datum, where it is another.

    >>> with_mask((4,)), with_mask((28, 28)), with_mask((3, 32, 32))
    ((8,), (2, 28, 28), (6, 32, 32))
    """
    seen = shape if seen is None else seen
    if len(seen) == 1:
        return (seen[0] + math.prod(shape),)
    return (2 * seen[0], *seen[1:]) if len(seen) == 3 else (2, *seen)


FAR = 10.0  # spreads from the middle, where an encoder has hardly seen anything
NEVER = 3e38  # what no number is away, within the type of weights


class Standardised(nn.Module):
    """An encoder body that sees `(v(x) - shift) / spread`: real data of any scale look alike to it.

    What lies more than `far` = 10 spreads away comes nearer, by the logarithm of what is beyond: a single outlier would
    otherwise lead the features, and the scales that a guide makes of them, out of bounds. Until the units are set from
    data nothing is far. Weights that were kept by a version without `far` go on with what the body saw then.

    `shift` and `spread` are buffers of the shape of what is seen of one datum, 0 and 1 until `VAE.initialise` sets them
    from the data.

    Of data with missing values it sees the element's mean, `fill` in these units, where x is nan, and beside x a mask,
    1 where an element was seen and 0 elsewhere, if the body's `in_shape` is `with_mask(shape)`.

    Args:
        body: any module, `(..., *seen) -> (..., features)`.
        shape: of one datum.
        features: the width of what `body` returns.
        view: what is seen of x, `v`, with its `out_shape`; `None`: x itself.
        missing: whether elements of x may be nan.

    Raises:
        InputError: for a body that reads data of another shape.

    >>> encoder = Standardised(nn.Identity(), (2,), 2, missing=True)
    >>> encoder(torch.tensor([3.0, torch.nan]))
    tensor([3., 0.])
    """

    shift: Tensor
    spread: Tensor
    fill: Tensor
    far: Tensor | None
    # What is done to it in training before the body sees it, see `Corruption`.
    corruption: Callable[[Tensor], Tensor] | None = None

    def __init__(
        self,
        body: nn.Module,
        shape: Shape,
        features: int,
        view: Any | None = None,
        *,
        missing: bool = False,
    ) -> None:
        super().__init__()
        self.body = body
        self.in_shape = shape
        self.out_shape = getattr(body, "out_shape", (features,))
        self.view = self._view = view
        seen = shape if view is None else view.out_shape
        self.missing = missing
        self.masked = missing and self._reads_mask(seen)
        self.register_buffer("shift", torch.zeros(seen))
        self.register_buffer("spread", torch.ones(seen))
        self.register_buffer("far", torch.tensor(NEVER))
        if missing:
            self.register_buffer("fill", torch.zeros(seen))

    def _reads_mask(self, seen: Shape) -> bool:
        """Whether the body reads what is seen of x and the mask, or the first alone."""
        both = with_mask(self.in_shape, seen)
        read = tuple(getattr(self.body, "in_shape", seen))
        if read not in (both, tuple(seen)):
            raise InputError(
                f"the encoder reads data of shape {read}, and those with missing values come as {both}, with their "
                f"mask, or without it as {tuple(seen)}"
            )
        return read == both

    @property
    def context(self) -> int:
        """How many numbers of a condition the body reads."""
        return context_of(self.body)

    def forward(self, x: Tensor, *c: Tensor) -> Tensor:
        """`(..., *in_shape) -> (..., *out_shape)`; a condition goes to the body."""
        return self.body(self.standardise(x), *c)

    def standardise(self, x: Tensor) -> Tensor:
        """What the body sees: `(v(x) - shift) / spread`, with the fill and the mask where values may be missing."""
        seen = x if self.view is None else self.view(x)
        standard = (seen - self.shift) / self.spread
        if self.corruption is not None and self.training:
            standard = self.corruption(standard)
        if self.far is not None:
            beyond = (standard.abs() - self.far).clamp_min(0).log1p()
            near = standard.clamp(-self.far, self.far)
            standard = near + standard.sign() * beyond
        return self._filled(standard, ~x.isnan()) if self.missing else standard

    def _filled(self, standard: Tensor, mask: Tensor) -> Tensor:
        """What is seen of x in standard units, with the fill where the mask is false, and the mask."""
        there = mask if self.view is None else self.view.of_mask(mask)
        filled = torch.where(there, standard, self.fill)
        if not self.masked:
            return filled
        beside, dims = mask.to(filled), len(self.in_shape)
        if self.shift.dim() == 1:  # a vector is seen, whatever a datum is
            return torch.cat([filled, beside.flatten(-dims)], -1)
        if dims == 3:
            return torch.cat([filled, beside], -dims)
        return torch.stack([filled, beside], -dims - 1)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        if f"{prefix}shift" in state_dict:
            # A buffer that weights of before do not have.
            far = state_dict.get(f"{prefix}far")
            self.far = None if far is None else far.to(self.shift)
            before = getattr(self._view, "before", None)
            self.view = before if far is None else self._view
        super()._load_from_state_dict(state_dict, prefix, *args)

    @torch.no_grad()
    def count_in(self, shift: Tensor, spread: Tensor, mean: Tensor) -> None:
        """Set the units, and the fill to the `mean` of what is seen."""
        self.shift.copy_(shift)
        self.spread.copy_(spread)
        if self.far is not None:
            self.far.fill_(FAR)
        if self.missing:
            self.fill.copy_((mean - shift) / spread)


def features(encoder: nn.Module, given: int | None) -> int:
    """The number of features that an encoder returns: its `out_shape`, or the number `given` for any other module."""
    shape, name = getattr(encoder, "out_shape", None), type(encoder).__name__
    if given is not None:
        if shape is not None and math.prod(shape) != given:
            raise InputError(
                f"features={given} are not those of the encoder {name}, whose out_shape is {tuple(shape)}"
            )
        return given
    if shape is None:
        raise InputError(
            f"the encoder {name} does not say its out_shape; give the guide features=<its output width>"
        )
    return math.prod(shape)
