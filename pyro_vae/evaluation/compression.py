"""Bits back: data are coded with a pair and decoded again, and the code is as long as -ELBO says."""

import bz2
import copy
import gzip
import lzma
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.inputs import (
    COPIES,
    as_condition,
    as_data,
    classes_of,
    fields_of,
    label_width_of,
    once,
    rows_within,
)
from pyro_vae.engine.memory import MEMORY
from pyro_vae.evaluation.ans import MOST_VALUES, WORD, Coding, Stack
from pyro_vae.evaluation.classes import unlabelled
from pyro_vae.evaluation.entries import Grid, entries_of_data, entries_of_latent
from pyro_vae.evaluation.question import (
    Answer,
    Evaluated,
    PerDatum,
    Printed,
    Progress,
    Question,
    Row,
    Tick,
    Trained,
    unseen,
)
from pyro_vae.foundation.abstract import context_of, forked_random, running
from pyro_vae.foundation.checks import Number, Whole, between, checked
from pyro_vae.foundation.errors import InputError
from pyro_vae.inference.bounds import each_bound
from pyro_vae.inference.pairs import pair_of
from pyro_vae.models.program import Factor, Program

DRAWN = 1000  # latents that tell where the buckets of a layer lie
ROWS = 1000  # data at a time, where a code does not fix how many
DRAWS = 10  # for each datum, of the ELBO that stands beside the code
COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
}
HEADS = {
    "nats": "nats",
    "error": "± data",
    "bits": "bits",
    "bits_per_dimension": "bits/dim",
    "bytes": "bytes",
    "share": "bits/dim",
}
Bits = Annotated[int, between(4, 20)]


class Code(NamedTuple):
    """What is sent: the stack after all data were put on it.

    Attributes:
        heads: 64 bits for each of the chains, `(chains,)`.
        words: 32 bits each.
        num_data: N.
        bits: that number the buckets of a latent.
        most: the greatest value of the data.
        seed: of the bits that were there before the first datum.
    """

    heads: np.ndarray
    words: np.ndarray
    num_data: int
    bits: int
    most: int
    seed: int

    @property
    def num_bits(self) -> int:
        """Of heads and words."""
        return 2 * WORD * len(self.heads) + WORD * len(self.words)


@dataclass(frozen=True)
class Compressed(Printed):
    """N data as a code, and what it costs.

    Attributes:
        code: what is sent.
        lengths: how many nats longer each datum made the code, `(N,)`.
        bounds: `log p(x, z) - log q(z|x)` at the latents that were coded, nats, `(N,)`.
        borrowed: bits that have to be there before the first datum; they come back when all is decoded.
        elements: of a datum.
    """

    code: Code
    lengths: Tensor
    bounds: Tensor
    borrowed: int
    elements: int

    @property
    def overhead(self) -> Tensor:
        """What buckets and whole frequencies change, nats, `(N,)`: the length beyond `-log p(x, z) + log q(z|x)`."""
        return self.lengths + self.bounds

    @property
    def net_bits(self) -> float:
        """The growth of the code over all data."""
        return float(self.lengths.sum()) / math.log(2)

    def per_dimension(self, bits: float) -> float:
        """Bits of all data as bits for each element of a datum."""
        return bits / (len(self.lengths) * self.elements)

    def row(self, values: Tensor) -> dict[str, float]:
        """Nats of each datum, `(N,)`, as their mean in several units."""
        found = PerDatum(values, None)
        bits = found.mean / math.log(2)
        return {
            "nats": found.mean,
            "error": found.data_standard_error,
            "bits": bits,
            "bits_per_dimension": bits / self.elements,
        }

    def answer(self) -> Answer:
        """The length of the code."""
        return self.beside({}, {})

    def beside(self, values: Mapping[str, Tensor], sizes: Mapping[str, int]) -> Answer:
        """The length of the code beside other numbers of the same data.

        Args:
            values: by name nats of each datum, `(N,)`.
            sizes: by name the bits of other codes of all data.
        """
        overhead = PerDatum(self.overhead, None)
        gross = self.code.num_bits
        every = {"code length": self.lengths, **values}
        rows: dict[str, Row] = {name: self.row(v) for name, v in every.items()}
        for name, bits in {"code": gross, **sizes}.items():
            share = self.per_dimension(bits)
            rows[name] = {"bytes": math.ceil(bits / 8), "share": share}
        count = len(self.code.heads)
        chains = f"{count} chains" if count > 1 else "one chain"
        sentences = [
            f"Buckets and whole frequencies change the length of a datum by {overhead.mean:.4f} nats: the code length "
            "minus that by the densities at the same latents, -log p(x, z) + log q(z|x).",
            f"In {chains}; {self.borrowed // 8:,} bytes of random bits stand below the first data "
            "and come back when all is decoded: the code holds them, and the code length does not count them.",
        ]
        return Answer(
            title="Bits back",
            about=f"{len(self.lengths)} data of {self.elements} elements",
            rows=rows,
            heads=HEADS,
            meanings=MEANINGS,
            sentences=sentences,
            numbers={
                "data": len(self.lengths),
                "chains": count,
                "borrowed_bits": self.borrowed,
                "overhead": overhead.mean,
                "net_bits": self.net_bits,
                "gross_bits": gross,
            },
        )


MEANINGS = {
    "code length": "what a datum adds to the code, on average",
    "-ELBO": "what it is to be, by other draws",
    "-log p(x)": "what it would be by the exact posterior",
    "code": "the whole of it, with the bits that are there before the first datum",
    "gzip": "of the same data, bits packed",
    "bz2": "of the same data, bits packed",
    "xz": "of the same data, bits packed",
}


class Coder:
    """A pair as a coder of data: bits back with asymmetric numeral systems.

    To put a datum on the stack, z is taken off it as q(z|x) has it, then x is put on it by p(x|z) and z by p(z): it
    grows by `-log p(x|z) - log p(z) + log q(z|x)`. What was taken comes back: whoever has decoded z and x puts z on the
    stack by q(z|x). Of pairs with several factors each is a step. What earlier data left on the stack is not random
    where the posteriors, taken together, are not the prior; blended with random numbers that both ways know it is, so
    that z is a draw of q(z|x).

    Networks run in float64 on batches of the same rows on both ways, so that the same numbers come out.

    Args:
        pair: a VAE, or a tuple of a model and a guide that consist of factors.
        c: the conditions of the first data, up to 1,000, or `None`.
        bits: that number the buckets of each latent.
        most: the greatest value of the data.
        seed: of the numbers that the stack is blended with.
    """

    def __init__(
        self, pair: Any, c: Any, *, bits: int, most: int, seed: int = 0
    ) -> None:
        programs = pair_of(pair)
        if not all(isinstance(program, Program) for program in programs):
            raise InputError(
                "a code is made factor by factor, and this pair does not say its factors: give a VAE or two Programs"
            )
        self.model, self.guide = self._wide(*programs)
        self.bits, self.most, self.seed = bits, most, seed
        self._check()
        with running(self.model, self.guide), forked_random():
            self.grids = self._grids(c)

    @staticmethod
    def _wide(*programs: Any) -> list[Any]:
        """Copies of both programs that compute on the host, in float64."""
        copies = copy.deepcopy(programs)
        return [program.cpu().double().eval() for program in copies]

    @property
    def observed(self) -> tuple[str, ...]:
        """The sites of the data."""
        fields = getattr(self.model, "fields", None)
        return ("x",) if fields is None else fields.names

    def _check(self) -> None:
        """Raise `InputError` for a pair whose factors tell no way to code."""
        if not getattr(self.guide, "has_density", True):
            raise InputError(
                "the guide is a point for each datum, and bits back take z from a distribution q(z|x): train with "
                "another guide, such as MeanField"
            )
        sites = {f.site for f in self.model.factors()} - {*self.observed}
        drawn = {f.site for f in self.guide.factors()}
        if sites != drawn:
            raise InputError(
                f"the model has the latents {', '.join(sorted(sites))} and the guide draws {', '.join(sorted(drawn))}: "
                "bits back need a guide that draws each"
            )
        if any(f.partly for f in self.model.factors()):
            raise InputError(
                "the pair has a real target y beside x, and bits back code x alone: train without a target"
            )
        if "total" in {name for f in self.model.factors() for name in f.given}:
            raise InputError(
                "the likelihood is given the total count of each datum, which nobody knows who has not decoded it: "
                "train without size='observed'"
            )

    def _grids(self, c: Any) -> dict[str, Grid]:
        """The buckets of each latent that is made of reals, where the model draws it; the same for whoever decodes."""
        torch.manual_seed(0)
        rows = DRAWN if c is None else min(DRAWN, len(c))
        values = self.model.known({} if c is None else {"c": c[:rows]})
        grids = {}
        for factor in self.model.factors():
            if factor.site in self.observed:
                continue
            p = factor.at(values)
            p = p if len(p.batch_shape) else p.expand((rows,))
            if not p.support.is_discrete:
                grids[factor.site] = self._grid(factor, p)
            values[factor.site] = p.sample()
        return grids

    def _grid(self, factor: Factor, p: Any) -> Grid:
        try:
            means, variances = p.mean, p.variance
        except NotImplementedError:
            raise InputError(self._unknown("p", factor, p)) from None
        loc = means.mean(0)
        scale = (variances + (means - loc).square()).mean(0).sqrt()
        return Grid(loc.numpy(), scale.numpy(), self.bits)

    @staticmethod
    def _unknown(name: str, factor: Factor, p: Any) -> str:
        kind = type(p).__name__
        return (
            f"bits back code {factor.site} by distribution functions, and those of {name}({factor}), a {kind}, are not "
            "known: take a prior and a guide that are Gaussian, mixtures of Gaussians, or categorical"
        )

    def push(self, stack: Stack, batch: Mapping[str, Tensor], first: int) -> Tensor:
        """Put data on the stack; `log p(x, z) - log q(z|x)` at their latents, `(rows,)`.

        Args:
            stack: all that was put there before.
            batch: the data.
            first: the number of the first of them.
        """
        rows = len(batch["x"])
        values, latents = self.guide.known(batch), {}
        numbers, total = {}, torch.zeros(rows, dtype=torch.float64)
        for factor in self.guide.factors():
            q = self._given_x(factor, values)
            coding = self._of_latent("q", factor, q, rows, first)
            site, number = factor.site, coding.pop(stack, rows)
            values[site] = latents[site] = self._value(site, q, number)
            numbers[site] = number
            total -= q.log_prob(values[site])
        values = {**self.model.known(batch), **latents}
        for factor in reversed(self.model.factors()):
            p, value = factor.at(values), values[factor.site]
            total += p.log_prob(value)
            if factor.site in numbers:
                coding = self._of_latent("p", factor, p, rows)
                coding.push(stack, numbers[factor.site])
                continue
            coding, order = self._of_data(p)
            places = value.reshape(rows, -1).long().numpy()[:, order]
            coding.push(stack, places)
        return total

    def pop(
        self, stack: Stack, rows: int, given: Mapping[str, Tensor], first: int
    ) -> Tensor:
        """Take data off the stack, `(rows, *shape)`, given their conditions and the number of the first."""
        values = self.model.known(given)
        data: dict[str, Tensor] = {}
        latents, numbers = {}, {}
        for factor in self.model.factors():
            p, site = factor.at(values), factor.site
            if site in self.observed:
                coding, order = self._of_data(p)
                number = np.empty((rows, len(order)), np.int64)
                number[:, order] = coding.pop(stack, rows)
                x = torch.from_numpy(number).double()
                values[site] = data[site] = x.reshape(rows, *p.event_shape)
                continue
            numbers[site] = self._of_latent("p", factor, p, rows).pop(stack, rows)
            values[site] = latents[site] = self._value(site, p, numbers[site])
        if "x" not in data:
            data = {"x": self.model.fields.join(data)}
        values = {**self.guide.known({**given, **data}), **latents}
        for factor in reversed(self.guide.factors()):
            q = self._given_x(factor, values)
            coding = self._of_latent("q", factor, q, rows, first)
            coding.push(stack, numbers[factor.site])
        return data["x"]

    @staticmethod
    def _given_x(factor: Factor, values: Mapping[str, Tensor]) -> Any:
        """`q(site|x, ...)`, the same on both ways where it is found by draws."""
        with forked_random():
            torch.manual_seed(0)
            return factor.at(values)

    def _of_latent(
        self, name: str, factor: Factor, p: Any, rows: int, first: int = 0
    ) -> Coding:
        """How a latent is coded: by the model every value can be, however improbable; by the guide it is a draw."""
        entries = entries_of_latent(p, (rows,), self.grids.get(factor.site))
        if entries is None:
            raise InputError(self._unknown(name, factor, p))
        if name == "p":
            return Coding(entries, possible=True)
        random = np.random.default_rng([self.seed, first, *factor.site.encode()])
        shape = len(entries.sizes), rows
        masks = random.integers(0, 2**WORD, shape, dtype=np.uint64)
        return Coding(entries, possible=False, masks=masks)

    def _of_data(self, p: Any) -> tuple[Coding, np.ndarray]:
        found = entries_of_data(p, self.most)
        if found is None:
            kind = type(getattr(self.model, "likelihood", p)).__name__
            raise InputError(
                f"bits back code data that have a mass, and {kind} has a density, or masses that are not known: take "
                "bits, grey levels, counts or categories, and a likelihood of these such as DiscretizedLogistic"
            )
        entries, order = found
        return Coding(entries, possible=True), order

    def _value(self, site: str, p: Any, numbers: np.ndarray) -> Tensor:
        """The value of a latent by the numbers of its entries, `(rows, entries)`."""
        if site in self.grids:
            return self.grids[site].middles(numbers)
        index = torch.from_numpy(numbers)
        if not len(p.event_shape):
            return index.squeeze(1)
        return torch.nn.functional.one_hot(index, p.levels).double().flatten(1)


def _batches(model: Any, data: Any, rows: int) -> Iterator[dict[str, Tensor]]:
    """Data so many at a time, without their labels, in float64 on the host: `{"x": ..., "c": ...}`."""
    for start in range(0, len(data), rows):
        x, c = fields_of(unlabelled(model, data[start : start + rows]))
        given = {"c": c} if c is not None and _reads_condition(model) else {}
        yield {name: v.cpu().double() for name, v in {"x": x, **given}.items()}


def _conditions(model: Any, data: Any) -> Tensor | None:
    """The conditions of the first data, which tell where latents lie."""
    return next(_batches(model, data, DRAWN)).get("c")


def _reads_condition(model: Any) -> bool:
    """Whether a pair is given conditions beside the label of a class."""
    return context_of(model) > label_width_of(model)


def _known(model: Any, c: Tensor) -> Tensor:
    """Conditions without labels, in float64 on the host."""
    return unlabelled(model, {"x": c, "c": c})["c"].cpu().double()


def _most(model: Any, data: Any, rows: int) -> int:
    """The greatest value of data.

    Raises:
        InputError: for values that are missing, or too great.
    """
    most = 0.0
    for batch in _batches(model, data, rows):
        if batch["x"].isnan().any():
            raise InputError(
                "x has missing values, and where they are is not coded: compress data without"
            )
        most = max(most, float(batch["x"].max()))
    if most >= MOST_VALUES:
        raise InputError(
            f"x holds the value {most:.0f}, and values from {MOST_VALUES:,} on are not coded"
        )
    return int(most)


def _lanes(model: Any, data: Any, chain: int, memory: int) -> int:
    """How many chains there are: of so many data each, and no more than memory holds decoder outputs for."""
    likelihood = getattr(model, "likelihood", None)
    outputs = math.prod(getattr(likelihood, "output_shape", (1,)))
    most = min(rows_within(data, memory), memory // (COPIES * outputs))
    return max(1, min(-(-len(data) // chain), most))


@checked
@torch.no_grad()
def compress(
    pair: Any,
    x: Any,
    *,
    bits: Bits = 16,
    chain: Number = 100,
    seed: Whole = 0,
    memory: Number = MEMORY,
    progress: Tick = None,
) -> Compressed:
    """Code data with a pair by bits back: the code grows by `-ELBO` for each datum, on average.

    Several chains of data are coded side by side, on one stack. `decompress` gives the same data back, with the same
    pair on the same machine: both ways take the same numbers from the networks, which another processor, or another
    number of threads, may round otherwise.

    Args:
        pair: a VAE, or a tuple of a model and a guide that consist of factors, of data with a mass; labels of a class y
            are not looked at.
        x: the data, `(N, *shape)`, of a conditional pair `{"x": ..., "c": ...}`.
        bits: each latent that is a real is one of `2^bits` buckets, equally likely under a normal distribution with the
            mean and the variance of its prior.
        chain: data one after the other. Each chain needs random bits before its first datum: longer ones waste less,
            shorter ones are faster.
        seed: of these bits.
        memory: bytes to keep within.
        progress: called with the number of data done since its last call.

    Returns:
        The `Compressed`.

    Raises:
        InputError: for data with a density, with missing values, or given their total count; for a pair whose latents
            have distribution functions that are not known, as those of flows; for one that lacks a latent.

    Source: Townsend, Bird & Barber 2019, Practical Lossless Compression with Latent Variables using Bits Back Coding;
    Hinton & van Camp 1993, Keeping Neural Networks Simple by Minimizing the Description Length of the Weights.

    >>> from pyro_vae import MLP, Bernoulli, MeanField, StandardNormal, VAE
    >>> _ = torch.manual_seed(0)
    >>> vae = VAE(StandardNormal(2), MLP((2,), (1, 8)), Bernoulli((8,)), MeanField(MLP((8,)), 2))
    >>> x = torch.rand(50, 8).round()
    >>> found = compress(vae, x)
    >>> torch.equal(decompress(vae, found.code), x)
    True
    """
    model, _ = pair_of(pair)
    data = once(as_data(model, x))
    lanes = _lanes(model, data, chain, memory)
    most = _most(model, data, lanes)
    coder = Coder(pair, _conditions(model, data), bits=bits, most=most, seed=seed)
    stack = Stack(lanes, seed=seed)
    lengths: list[Tensor] = []
    bounds: list[Tensor] = []
    with running(coder.model, coder.guide):
        for batch in _batches(model, data, lanes):
            before = stack.bits
            bounds.append(coder.push(stack, batch, lanes * len(bounds)))
            grown = (stack.bits - before)[: len(batch["x"])]
            lengths.append(torch.from_numpy(grown * math.log(2)))
            if progress:
                progress(len(grown))
    code = Code(stack.heads, stack.words, len(data), bits, coder.most, seed)
    elements = batch["x"][0].numel()
    borrowed = WORD * (lanes + stack.borrowed)
    return Compressed(code, torch.cat(lengths), torch.cat(bounds), borrowed, elements)


@checked
@torch.no_grad()
def decompress(pair: Any, code: Code, c: Any = None, *, progress: Tick = None) -> Any:
    """The data of a code, `(N, *shape)`, as `compress` was given them.

    Args:
        pair: the same.
        code: of a `Compressed`.
        c: of a conditional pair the conditions of all data, which the code does not hold.
        progress: called with the number of data done since its last call.

    Raises:
        InputError: for a code of another pair, or conditions that are missing.
    """
    model: Any = pair_of(pair)[0]
    if (c is None) == _reads_condition(model):
        raise InputError(
            "c= holds the conditions of all data, of a pair that reads some beside its class: "
            + ("give it" if c is None else "leave it out")
        )
    c = None if c is None else _known(model, as_condition(model, c))
    coder = Coder(pair, c, bits=code.bits, most=code.most, seed=code.seed)
    own = (p.dtype for p in model.parameters() if p.is_floating_point())
    dtype = next(own, torch.get_default_dtype())
    stack, found = Stack.of(code.heads, code.words), []
    lanes = len(code.heads)
    # A damaged code may ask for frequencies that are 0.
    with running(coder.model, coder.guide), np.errstate(all="ignore"):
        for start in reversed(range(0, code.num_data, lanes)):
            rows = min(lanes, code.num_data - start)
            given = {} if c is None else {"c": c[start : start + rows]}
            found.append(coder.pop(stack, rows, given, start).to(dtype))
            if progress:
                progress(rows)
    if not np.array_equal(stack.heads, Stack(lanes, seed=code.seed).heads):
        raise InputError(
            "nothing is left of a code but the bits that were there before it, and here something is: it is of another "
            "pair, or damaged"
        )
    return torch.cat(found[::-1])


def _stored(batches: Iterable[Tensor], most: int) -> bytes:
    """Data as other compressors read them: bits packed, whole numbers in as few bytes as they take."""
    kind = np.min_scalar_type(most)
    values = np.concatenate([x.numpy().astype(kind) for x in batches])
    return np.packbits(values).tobytes() if most <= 1 else values.tobytes()


def _has_labels(model: Any, data: Any) -> bool:
    """Whether the class of some data is known."""
    conditions = fields_of(data[:])[1]
    if conditions is None or not classes_of(model):
        return False
    return not conditions[:, : classes_of(model)].isnan().all()


class Compress(Question):
    """Bits back: the data are coded with the pair and decoded to the same bits, and the code is as long as -ELBO.

    Args:
        n: how many of the data, spread evenly; by default all.
        bits: that number the buckets of each latent.
        chain: data coded one after the other; several such chains stand side by side.
    """

    def __init__(
        self, *, n: Number | None = None, bits: Bits = 16, chain: Number = 100
    ) -> None:
        self.n, self.bits, self.chain = n, bits, chain

    @torch.no_grad()
    def check(self, run: Trained, data: Evaluated) -> None:
        model = run.vae.model
        few = once(as_data(model, data.x))
        coder = Coder(
            run.vae,
            _conditions(model, few),
            bits=self.bits,
            most=_most(model, few, ROWS),
        )
        with running(coder.model, coder.guide):
            coder.push(Stack(1), next(_batches(model, few, 1)), 0)

    @torch.no_grad()
    def ask(self, run: Trained, data: Evaluated, progress: Progress = unseen) -> Answer:
        few, places = data.some(self.n or len(data))
        few, vae = once(as_data(run.vae.model, few)), run.vae
        with progress("data", 2 * len(few)) as done:
            options: dict[str, Any] = {"memory": data.memory, "progress": done}
            found = compress(vae, few, bits=self.bits, chain=self.chain, **options)
            same = _decodes(vae, few, found.code, done)
        values = {"-ELBO": _minus_elbo(vae, few)}
        if data.log_marginal is not None and not _has_labels(vae.model, few):
            values["-log p(x)"] = -data.log_marginal.values[places]
        batches = (batch["x"] for batch in _batches(vae.model, few, ROWS))
        stored = _stored(batches, found.code.most)
        sizes = {name: 8 * len(pack(stored)) for name, pack in COMPRESSORS.items()}
        length = torch.full((len(data),), math.nan, dtype=torch.float64)
        length[places] = found.lengths
        said = f"{len(few)} data were decoded to the same bits."
        wrong = "decoding gave other data: the networks did not give the same numbers twice, and the code is of no use"
        return found.beside(values, sizes).plus(
            sentences=[*self._compared(found, values), *([said] if same else [])],
            warnings=[] if same else [wrong],
            columns={"length": length},
            numbers={"decoded": same},
        )

    @staticmethod
    def _compared(found: Compressed, values: Mapping[str, Tensor]) -> list[str]:
        """How much longer the code is than what it is held against, datum by datum."""
        parts = []
        for name, value in values.items():
            more = PerDatum(found.lengths - value, None)
            share = 100 * more.mean / PerDatum(value, None).mean
            parts.append(
                f"minus {name} it is {more.mean:.3f} ± {more.data_standard_error:.3f} nats ({share:.2f} %)"
            )
        return [f"The code length, datum by datum: {', '.join(parts)}."]


def _decodes(vae: Any, data: Any, code: Code, progress: Tick) -> bool:
    """Whether the data of a code are these, to the bit."""
    c = fields_of(data[:])[1] if _reads_condition(vae.model) else None
    try:
        decoded = decompress(vae, code, c, progress=progress)
    except InputError:
        return False
    pairs = zip(_batches(vae.model, data, ROWS), decoded.split(ROWS), strict=True)
    return all(torch.equal(batch["x"], part.double()) for batch, part in pairs)


def _minus_elbo(vae: Any, data: Any) -> Tensor:
    """`-ELBO` of each datum, `(N,)`."""
    each: list[Tensor] = []
    with forked_random():
        for start in range(0, len(data), ROWS):
            batch = unlabelled(vae.model, data[start : start + ROWS])
            each_bound(vae.model, vae.guide, batch, each.append, num_particles=DRAWS)
    log_px, kl = torch.cat(each, 1)
    return kl - log_px
