"""A trained pair as two functions of tensors alone, from the numbers in a file and back: what `export` writes."""

import math
import re
from abc import abstractmethod
from collections.abc import Iterable
from typing import Any, NamedTuple

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae.data.bridges import (
    AsStored,
    Bridge,
    Dequantized,
    FieldsBridge,
    RandomBits,
    Scaled,
)
from pyro_vae.data.conditions import Condition
from pyro_vae.distributions.ancestral import Ancestral
from pyro_vae.distributions.pushforward import Pushforward
from pyro_vae.engine.affine import use_products
from pyro_vae.evaluation.moments import closed
from pyro_vae.foundation.abstract import running
from pyro_vae.foundation.errors import InputError
from pyro_vae.models.conditionals import Codebook, Local, Moved, SemiAmortized
from pyro_vae.models.likelihoods import Columns, Fields
from pyro_vae.trained import Run

CLOSED = ("mean", "variance")


class Input(NamedTuple):
    """What a graph is called with, by its name: a row for each datum.

    Attributes:
        name: letters, digits and underscores.
        shape: of one row.
        dtype: of its numbers.
        about: what it is, in words.
        categories: what its whole numbers stand for, from 0.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    about: str
    categories: tuple[str, ...] = ()


class Graph(nn.Module):
    """A part of a pair as a function of tensors by name, which gives tensors by name.

    Attributes:
        part: `'encoder'` or `'decoder'`.
        inputs: what it is called with.
    """

    part: str

    def __init__(self, opened: Run) -> None:
        super().__init__()
        use_products(opened.vae, "torch")
        self.vae, self.dtype = opened.vae, opened.dtype
        self.columns = () if opened.conditions is None else opened.conditions.columns
        self.names = _names(column.name for column in self.columns)
        self.inputs: list[Input] = []

    @abstractmethod
    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        """What it gives of what it is called with, by name."""

    @abstractmethod
    def drawn(self, count: int, random: dict[str, Tensor]) -> dict[str, Tensor]:
        """Inputs as they may come, beside those that are `random`."""

    @abstractmethod
    def asked(self, opened: Run, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """What the pair gives of inputs by its own verbs, by the names of outputs."""

    def _columns_drawn(self, random: dict[str, Tensor]) -> dict[str, Tensor]:
        """Conditions that are numbers, as far around their mean as those of the training data."""
        return {
            self.names[column.name]: column.mean + column.std * values
            for column in self.columns
            if not column.categories
            and (values := random.get(self.names[column.name])) is not None
        }

    def _condition(self, opened: Run, inputs: dict[str, Tensor], count: int) -> Any:
        """The condition of data, as a run reads it from the values in a file; `None` without one."""
        if opened.conditions is None:
            return None
        values: dict[str, Any] = {}
        for column in self.columns:
            given = inputs.get(self.names[column.name])
            if given is None:
                values[column.name] = [""] * count
            elif column.categories:
                values[column.name] = [column.categories[i] for i in given.tolist()]
            else:
                values[column.name] = given.numpy()
        return opened.conditions.encode(values).to(self.dtype)

    def _given(self, column: Condition) -> Input:
        """A condition as an input."""
        name = self.names[column.name]
        if column.categories:
            about = f"{column.name}, the number of its category, from 0"
            return Input(name, (), torch.int64, about, column.categories)
        return Input(name, (), torch.float64, f"{column.name}, as it is stored")

    def _context(self, inputs: dict[str, Tensor], rows: Tensor) -> Tensor | None:
        """The condition c of each datum, `(N, context)`; what is no input is not known."""
        parts = []
        for column in self.columns:
            value = inputs.get(self.names[column.name])
            if value is None:
                empty = torch.full_like(rows, math.nan, dtype=self.dtype)
                parts.append(empty.unsqueeze(-1).expand(-1, column.width))
            elif column.categories:
                levels = torch.arange(column.width, device=value.device)
                parts.append((value.unsqueeze(-1) == levels).to(self.dtype))
            else:
                standard = (value.double() - column.mean) / column.std
                parts.append(standard.to(self.dtype).unsqueeze(-1))
        return torch.cat(parts, -1) if parts else None


class EncoderGraph(Graph):
    """`x` as it is stored -> mean and standard deviation of q(z|x), or a draw of it made from given noise.

    Raises:
        InputError: for a guide that is no function of x alone.
    """

    part = "encoder"

    def __init__(self, opened: Run) -> None:
        super().__init__(opened)
        _check_encoder(opened)
        bridges, shapes = [opened.bridge], [tuple(opened.spec.shape)]
        fields = [""]
        if isinstance(opened.bridge, FieldsBridge):
            bridges, shapes = [*opened.bridge.parts], [*opened.bridge.layout.shapes]
            fields = [f"{name}" for name in opened.bridge.layout.names]
        self.layout = getattr(opened.bridge, "layout", None)
        self.bridges = dict(zip(_names(fields).values(), bridges, strict=True))
        for (name, bridge), shape in zip(self.bridges.items(), shapes, strict=True):
            kind = torch.float64 if bridge.units is not None else self.dtype
            about = f"data as they are stored; seen {bridge}"
            self.inputs.append(Input(name or "x", shape, kind, about))
            if bridge.is_random:
                noise = Input(_noise(name), shape, self.dtype, UNIFORM)
                self.inputs.append(noise)
        given = [column for column in self.columns if not column.latent]
        self.inputs += map(self._given, given)
        self.latent = next((column for column in self.columns if column.latent), None)
        x = {i.name: values for i, values in zip(self.inputs, self._try(), strict=True)}
        q = self._posterior(x)
        self.closed = all(closed(q, name) is not None for name in CLOSED)
        if not self.closed:
            size = (opened.vae.model.latent_dim,)
            self.inputs.append(Input("normal", size, self.dtype, NORMAL))

    def _try(self) -> Iterable[Tensor]:
        return (torch.zeros(2, *i.shape, dtype=i.dtype) for i in self.inputs)

    def seen(self, inputs: dict[str, Tensor]) -> Tensor:
        """What the likelihood sees of data as they are stored, `(N, *shape)`."""
        parts = []
        for name, bridge in self.bridges.items():
            noise = inputs.get(_noise(name))
            draw = None if noise is None else lambda like, dtype, u=noise: u.to(dtype)
            parts.append(bridge(inputs[name or "x"], dtype=self.dtype, draw=draw))
        return parts[0] if self.layout is None else self.layout.together(parts)

    def _data(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        x = self.seen(inputs)
        c = self._context(inputs, x.flatten(1)[:, 0])
        return {"x": x} if c is None else {"x": x, "c": c}

    def _posterior(self, inputs: dict[str, Tensor]) -> Any:
        return self.vae.encoded(self._data(inputs))

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        data = self._data(inputs)
        q = self.vae.encoded(data)
        if self.closed:
            given = {"mean": q.mean, "std": q.variance.clamp_min(0).sqrt()}
        else:
            given = {"z": made_of(q, inputs["normal"])}
        if isinstance(self.vae.guide, Codebook):
            given["codes"] = q.codes
        return {**given, **self._of_y(data)}

    def drawn(self, count: int, random: dict[str, Tensor]) -> dict[str, Tensor]:
        found = self._columns_drawn(random)
        c = self._context({**random, **found}, torch.zeros(count))
        x = self.vae.sample(count, c)
        if self.vae.model.likelihood.missing:
            x = x.masked_fill(torch.rand_like(x) < HOLES, math.nan)
        parts = [x] if self.layout is None else self.layout.parts(x)
        for (name, bridge), part in zip(self.bridges.items(), parts, strict=True):
            found[name or "x"] = self._stored(bridge, part)
        return {
            i.name: found[i.name].to(i.dtype) for i in self.inputs if i.name in found
        }

    @staticmethod
    def _stored(bridge: Bridge, x: Tensor) -> Tensor:
        """Data that a model drew, as they would stand in a file."""
        if bridge.binarizes:
            grey = torch.randint(int(bridge.maximum) + 1, x.shape).to(x)
            x = grey.where(~x.isnan(), math.nan)
            return x if bridge.units is None else bridge.units.inverse(x)
        v = own_units(bridge, x)
        return v.round() if isinstance(bridge, Scaled | Dequantized) else v

    def asked(self, opened: Run, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        values = [inputs[name or "x"] for name in self.bridges]
        v = values[0] if self.layout is None else self.layout.together(values)
        noises = [u for n, u in inputs.items() if n in map(_noise, self.bridges)]
        each = iter(noises)
        x = opened.bridge(v, dtype=self.dtype, draw=lambda like, dtype: next(each))
        c = self._condition(opened, inputs, len(x))
        q, found = self.vae.encode(x, c), {}
        if self.closed:
            found = {"mean": q.mean, "std": q.variance.clamp_min(0).sqrt()}
        else:
            found = {"z": made_of(q, inputs["normal"])}
        if self.latent is None:
            return found
        y = self.vae.predict(x, c)
        if self.latent.categories:
            return {**found, "probabilities": y}
        mean, std = torch.from_numpy(self.latent.stored(y)).T
        return {**found, "prediction": mean, "prediction_std": std}

    def _of_y(self, data: dict[str, Tensor]) -> dict[str, Tensor]:
        """What q(y|x) says, where there is a y: probabilities of classes, or mean and deviation of a target."""
        if self.latent is None:
            return {}
        q = self.vae.class_given(data)
        if self.latent.categories:
            return {"probabilities": q.probs}
        units: Any = self.vae.model.class_prior
        moments = units.units.stored(q.loc, q.scale)
        mean, std = self.latent.mean, self.latent.std
        return {
            "prediction": mean + std * moments[:, 0],
            "prediction_std": std * moments[:, 1],
        }


class DecoderGraph(Graph):
    """z -> what stands for p(x|z) in the units in which the data are stored, and the parameters of p(x|z)."""

    part = "decoder"

    def __init__(self, opened: Run) -> None:
        super().__init__(opened)
        model = opened.vae.model
        self.bridge = opened.bridge
        size = (model.latent_dim,)
        self.inputs.append(Input("z", size, self.dtype, "latents"))
        read = [column for column in self.columns if self._reads(column)]
        self.inputs += map(self._given, read)
        if model.likelihood.sized:
            about = "the total count of each datum"
            self.inputs.append(Input("total", (), self.dtype, about))

    def _reads(self, column: Condition) -> bool:
        """Whether the decoder is given a condition."""
        of_x = self.vae.model.of_x
        return of_x.y if column.latent else of_x.c

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        z, model = inputs["z"], self.vae.model
        c = self._context(inputs, z[:, 0] if z.shape[1] else z.sum(-1))
        context = () if c is None else self.vae.read_by_decoder(c)
        total = [inputs["total"]] if "total" in inputs else []
        h = model.decoder(model.read_of(z), *context)
        p = model.likelihood(h, *total)
        return {**_described(model.likelihood, p, self.bridge), "parameters": h}

    def drawn(self, count: int, random: dict[str, Tensor]) -> dict[str, Tensor]:
        found = self._columns_drawn(random)
        given = self._context({**random, **found}, torch.zeros(count))
        c = self.vae.condition(given, count)
        found["z"] = self.vae.draw_prior(count, *c)
        if "total" in random:
            found["total"] = torch.randint(1, 100, (count,)).to(self.dtype)
        return {
            i.name: found[i.name].to(i.dtype) for i in self.inputs if i.name in found
        }

    def asked(self, opened: Run, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        z = inputs["z"]
        c = self._condition(opened, inputs, len(z))
        p = self.vae.decode(z, c, total=inputs.get("total"))
        return _described(self.vae.model.likelihood, p, self.bridge)


UNIFORM = "noise of the preprocessing, uniform in [0, 1); 0.5 stands for none"
NORMAL = "noise that z is made of, N(0, 1); for 0 it is the middle of q(z|x)"
HOLES = 0.2  # of values, where they may be missing, in data that are tried
STEPS = (Local, SemiAmortized, Moved)


def _check_encoder(opened: Run) -> None:
    """Raise `InputError` for a guide that is no function of x alone."""
    guide = opened.vae.guide
    if isinstance(guide, STEPS):
        raise InputError(
            f"the guide {type(guide).__name__} finds q(z|x) by steps through the model, which are no graph: export "
            "the decoder alone, --part decoder"
        )
    if not opened.vae.model.latent_dim:
        raise InputError(
            "the run has no vector z, as its class is all that there is, and there is nothing to export"
        )


def _noise(name: str) -> str:
    return f"{name}_noise" if name else "noise"


def _names(words: Iterable[str]) -> dict[str, str]:
    """Names of inputs for words of any kind, each its own."""
    found: dict[str, str] = {}
    for word in words:
        plain = re.sub(r"\W", "_", word, flags=re.ASCII)
        plain = f"_{plain}" if plain[:1].isdigit() else plain
        taken = {*found.values(), "x", "z", "total", "noise", "normal"}
        count, name = 2, plain
        while name in taken:
            name, count = f"{plain}_{count}", count + 1
        found[word] = name
    return found


def made_of(q: Any, noise: Tensor) -> Tensor:
    """The draw of `q(z|x)` that standard normal noise makes, both `(N, D)`.

    Raises:
        InputError: for a distribution whose draws are not made of that.
    """
    if isinstance(q, Pushforward):
        z = made_of(q.base, noise)
        for move in q.steps:
            z = move.push(z)[0]
        return z
    if isinstance(q, Ancestral):
        values: dict[str, Tensor] = {}
        for step in q.steps:
            values[step.site] = made_of(step.given(values), noise[..., step.place])
        ordered = sorted(q.steps, key=lambda step: step.place.start)
        return torch.cat([values[step.site] for step in ordered], -1)
    if isinstance(q, dist.MultivariateNormal):
        return q.loc + (q.scale_tril @ noise.unsqueeze(-1)).squeeze(-1)
    base = getattr(q, "base_dist", None)
    if isinstance(base, dist.Normal):
        return base.loc + base.scale * noise
    raise InputError(
        f"q(z|x) is a {type(q).__name__}, which has no mean in closed form and no draws made of normal noise: export "
        "the decoder alone, --part decoder"
    )


def _described(likelihood: Any, p: Any, bridge: Bridge) -> dict[str, Tensor]:
    """What is said of p(x|z) by name: of several fields that of each, of categories their probabilities."""
    found: dict[str, Tensor] = {}
    if isinstance(likelihood, Fields) and isinstance(bridge, FieldsBridge):
        names = _names(bridge.layout.names)
        each = zip(
            names.values(), likelihood.members, p.parts, bridge.parts, strict=True
        )
        for name, member, part, of_part in each:
            said = _described(member, part, of_part)
            found |= {f"{name}_{key}": value for key, value in said.items()}
        return found
    p = getattr(p, "whole", p)  # without the mask of what was not seen
    found["mean"] = own_units(bridge, likelihood.typical(p))
    if isinstance(likelihood, Columns):
        names = _names(likelihood.names)
        for name, member, part in zip(
            names.values(), likelihood.members, p.parts, strict=True
        ):
            if member.seen_as in ("category", "order"):
                found[f"probabilities_{name}"] = _probabilities(part).squeeze(-2)
        return found
    if likelihood.seen_as in ("category", "order"):
        found["probabilities"] = _probabilities(p)
    elif bridge.same_scale and not likelihood.coded:
        variance = closed(p, "variance")
        if variance is not None:
            found["std"] = _spread(bridge, variance.sqrt())
    return found


def _probabilities(p: Any) -> Tensor:
    """Of each category or level, `(..., *shape, levels)`."""
    found: Tensor = getattr(p, "whole", p).base_dist.probs
    return found


def own_units(bridge: Bridge, x: Tensor) -> Tensor:
    """What a likelihood gave, in the units in which the data are stored.

    Of bits that were drawn of grey levels it is the grey level, and of noise that was spread over a step the middle. Of
    bits by a threshold it stays the probability.

    >>> from pyro_vae.data.bridges import DynamicBits
    >>> own_units(DynamicBits(16.0), torch.tensor([0.25]))
    tensor([4.])
    """
    if isinstance(bridge, RandomBits | Scaled):
        x = x * bridge.maximum
    elif isinstance(bridge, Dequantized):
        x = x * (bridge.maximum + 1) - 0.5
    elif not isinstance(bridge, AsStored) and not bridge.same_scale:
        return x
    return x if bridge.units is None else bridge.units.inverse(x).to(x.dtype)


def _spread(bridge: Bridge, std: Tensor) -> Tensor:
    """A standard deviation in the units in which the data are stored."""
    return own_units(bridge, std) - own_units(bridge, torch.zeros_like(std))


def graph_of(opened: Run, part: str) -> Graph:
    """A part of a run, `'encoder'` or `'decoder'`, as a graph.

    Raises:
        InputError: for a part that is none.
    """
    kinds: dict[str, type[Graph]] = {"encoder": EncoderGraph, "decoder": DecoderGraph}
    with torch.no_grad(), running(opened.vae.model, opened.vae.guide):
        return kinds[part](opened).eval()


@torch.no_grad()
def inputs_of(graph: Graph, count: int) -> dict[str, Tensor]:
    """Random inputs of a graph, those that are data as the model draws them."""
    found = {each.name: _random(each, count) for each in graph.inputs}
    with running(graph.vae.model, graph.vae.guide):
        return {**found, **graph.drawn(count, found)}


def _random(each: Input, count: int) -> Tensor:
    """Random numbers for an input that is no data."""
    if each.categories:
        return torch.randint(len(each.categories), (count,))
    if each.about == UNIFORM:
        return torch.rand(count, *each.shape, dtype=each.dtype)
    return torch.randn(count, *each.shape, dtype=each.dtype)


@torch.no_grad()
def asked_of(opened: Run, graph: Graph, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """What the pair itself gives of inputs of a graph, by its own verbs, under the names of the graph's outputs."""
    with running(opened.vae.model, opened.vae.guide):
        return graph.asked(opened, inputs)
