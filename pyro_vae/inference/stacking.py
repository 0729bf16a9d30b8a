"""Layer by layer: the hidden layers of encoder and decoder, each pair trained by itself before all are together."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pyro_vae.data.inputs import as_data, fields_of
from pyro_vae.foundation.abstract import running
from pyro_vae.foundation.errors import InputError
from pyro_vae.networks import Corruption, Standardised
from pyro_vae.networks.corruptions import clean, corrupting
from pyro_vae.networks.dense import blocks_of

RATE = 1e-3  # of Adam


class Pair(NamedTuple):
    """A hidden layer of the encoder and the layer of the decoder that undoes it."""

    down: nn.Module
    up: nn.Module


class How(NamedTuple):
    """How each layer is trained, as in `stack`."""

    epochs: int
    batch_size: int
    corrupt: Corruption | None


def pairs_of(vae: Any) -> list[Pair]:
    """The hidden layers of an encoder, that next to the data first, each with its mirror image in the decoder.

    Raises:
        InputError: for networks that have no such layers.
    """
    guide, decoder = vae.guide, getattr(vae.model, "decoder", None)
    several = len(getattr(vae.model, "dims", (1,))) > 1
    encoder: Any = None if several else getattr(guide, "encoder", None)
    body: Any = encoder.body if isinstance(encoder, Standardised) else encoder
    down, up = blocks_of(body), blocks_of(decoder)
    if not getattr(guide, "amortised", True) or not down or not up:
        raise InputError(
            "stacked trains hidden layers one by one, and encoder and decoder have no such layers: take the network "
            "mlp, one vector z and data of one field"
        )
    # What a block makes is what the next one reads.
    widths = [*(block[0].in_features for block in down[1:]), *body.out_shape]
    _, *mirror = up
    back = [block[0].in_features for block in reversed(mirror)]
    if widths != back:
        raise InputError(
            f"stacked trains each hidden layer of the encoder with its mirror image, and those of the encoder are "
            f"{widths} wide and those of the decoder {back[::-1]}: make it by decoder() of the same network"
        )
    return [Pair(*pair) for pair in zip(down, reversed(mirror), strict=True)]


def check_stack(vae: Any) -> None:
    """Raise `InputError` where a pair has no layers that can be trained one by one."""
    pairs_of(vae)


def stack(
    vae: Any,
    data: Any,
    epochs: int,
    *,
    batch_size: int = 100,
    corrupt: Corruption | None = None,
    say: Callable[[str], None] | None = None,
) -> None:
    """Train the hidden layers of encoder and decoder one by one, from the data upwards, each for so many epochs.

    Layer l of the encoder and its mirror image in the decoder are an autoencoder of what the layers below make of the
    data: the first is trained by `log p(x|h)`, each other one by the squared error of `h_{l-1}`. The code itself, the
    last layer of the guide and the first of the decoder, is left to the training of all. A condition counts as 0.

    Args:
        vae: a pair whose networks are `MLP`s or the like, the decoder the mirror image of the encoder.
        data: the training data.
        epochs: of each layer.
        batch_size: data in a step, of Adam at 0.001.
        corrupt: what each layer sees in place of its input; it makes it again as it was.
        say: called with a sentence for each layer.

    Raises:
        InputError: for networks that have no such layers.

    Source: Bengio, Lamblin, Popovici & Larochelle 2007, Greedy Layer-Wise Training of Deep Networks; Vincent,
    Larochelle, Lajoie, Bengio & Manzagol 2010, Stacked Denoising Autoencoders.
    """
    pairs = pairs_of(vae)
    data = as_data(vae.model, data)
    vae.train()
    with (
        running(vae.model, vae.guide),
        corrupting([vae.guide.encoder], corrupt),
        torch.enable_grad(),
    ):
        for i, pair in enumerate(pairs):
            below = [of.down for of in pairs[:i]]
            how = How(epochs, batch_size, corrupt)
            error = _train(vae, data, below, pair, how)
            if say is not None:
                unit = "nats per datum" if i == 0 else "a unit, squared"
                say(f"{i + 1} of {len(pairs)} trained by itself: {error:.4g} {unit}")


def _train(
    vae: Any,
    data: Any,
    below: list[nn.Module],
    pair: Pair,
    how: How,
) -> float:
    """Train a layer and its mirror image; the mean error in the last epoch."""
    parameters = [*pair.down.parameters(), *pair.up.parameters()]
    first = not below
    if first:  # a scale of the likelihood belongs to it
        parameters += vae.model.likelihood.parameters()
    wanted = [p for p in dict.fromkeys(parameters) if p.requires_grad]
    optimizer = torch.optim.Adam(wanted, lr=RATE)
    loss_of = partial(_density if first else _distance, vae.model)
    total = torch.zeros(())
    for _ in range(how.epochs):
        total = torch.zeros(())
        for rows in torch.randperm(len(data)).split(how.batch_size):
            x, _ = fields_of(data[rows])
            h, seen = _inputs(vae.guide.encoder, x, below, how.corrupt)
            loss = loss_of(x if first else h, pair.up(pair.down(seen)))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total = total + loss.detach().cpu() * len(rows)
    optimizer.zero_grad()
    return float(total) / len(data)


def _inputs(
    encoder: Any, x: Tensor, below: list[nn.Module], corrupt: Corruption | None
) -> tuple[Tensor, Tensor]:
    """What a layer is trained to make again, `(batch, width)`, and what it sees of it."""
    with torch.no_grad():
        own = isinstance(encoder, Standardised)
        if not below:
            dims = len(encoder.in_shape)
            seen = x if corrupt is None else corrupt(x)
            seen = encoder.standardise(x) if own else seen  # which corrupts by itself
            return x, seen.flatten(x.dim() - dims)
        with clean():
            h = encoder.standardise(x) if own else x
        h = h.flatten(1)
        for layer in below:
            h = layer(h)
        return h, h if corrupt is None else corrupt(h, standard=True)


def _density(model: Any, x: Tensor, outputs: Tensor) -> Tensor:
    """`-mean log p(x|h)` of the decoder's outputs, in nats."""
    h = outputs.unflatten(-1, model.decoder.out_shape)
    likelihood = model.likelihood
    total = [model.total(x)] if likelihood.sized else []
    p = likelihood(h, *total)
    p = likelihood.partly(p) if likelihood.missing else p
    return -p.log_prob(x).mean()


def _distance(model: Any, h: Tensor, outputs: Tensor) -> Tensor:
    """The mean squared error of what the layers below made."""
    return (outputs - h).square().mean()
