"""A batch that processes share has the gradient that it has in one process, for every member, or is refused."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from example import SHAPE, SHORTER, D, beside, example
from pyro_vae import SVI, InputError, Spec, build, variants
from pyro_vae.data.fields import Data, cut
from pyro_vae.data.inputs import as_labels, moments
from pyro_vae.engine import processes
from pyro_vae.engine.processes import Exchange, Processes
from pyro_vae.inference.joint import join
from pyro_vae.spec import AXES, FAMILIES, parse

SIZE = 44  # in a batch: no other dimension has 44, 22 or 11
MEMBERS = [
    (axis, name)
    for axis in AXES
    if axis != "schedule" and axis in FAMILIES
    for name in variants(FAMILIES[axis][0])
]

MEMBERS += [
    ("network", "MLP(norm='batch')"),
    ("objective", "Annealed(objective=BetaTC())"),
    ("objective", "Autoencoder(sparse=1.0)"),
    ("objective", "ELBO(num_particles=3)"),
]
# What looks at the whole batch, and so is trained in one process.
REFUSED = {
    "BetaTC",
    "Capacity",
    "FreeBits",
    "InfoVAE",
    "FactorVAE",
    "Annealed(objective=BetaTC())",
}
REFUSED |= {"Autoencoder(sparse=1.0)", "MLP(norm='batch')"}
REFUSED |= {"Codebook", "Codes", "Moved"}


class Noise(TorchDispatchMode):
    """Random numbers that are a function of the call and of the datum's place in the whole batch.

    Args:
        rows: in the share of the batch.
        first: the place of the first of them.
    """

    def __init__(self, rows, first):
        super().__init__()
        self.rows, self.first, self.calls = rows, first, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return out
        self.calls += 1
        u = self.uniform(out)
        name = func._schema.name.removeprefix("aten::").rstrip("_")
        match name:
            case "rand" | "uniform" | "rand_like":
                return out.copy_(u)
            case "randn" | "normal" | "randn_like":
                scale = 1.0
                loc = 0.0
                if name == "normal" and isinstance(args[0], torch.Tensor):
                    loc, scale = (
                        args[:2]
                        if func._overloadname == "Tensor_Tensor"
                        else (0.0, 1.0)
                    )
                return out.copy_(loc + scale * (2 * u - 1).erfinv() * 2**0.5)
            case "exponential":
                return out.copy_(-torch.log1p(-u))
            case "bernoulli":
                p = args[0] if func._overloadname == "" else args[1]
                return out.copy_((u < p).to(out.dtype))
            case "multinomial":
                shares = args[0] / args[0].sum(-1, keepdim=True)
                return (u.unsqueeze(-1) > shares.cumsum(-1)[:, None]).sum(-1)
            case "randint":
                return out.copy_((u * args[1 if len(args) > 2 else 0]).long())
        raise NotImplementedError(func)

    def uniform(self, out):
        found = torch.full(out.shape, 0.618034 * self.calls, dtype=torch.float64)
        for axis, size in enumerate(out.shape):
            place = torch.arange(size, dtype=torch.float64)
            if size == self.rows:
                place = place + self.first
            elif axis == 0 and size % self.rows == 0:  # rows of the batch, flattened
                place = place + self.first * (size // self.rows)
            shape = [-1 if i == axis else 1 for i in range(out.dim())]
            found = (
                found
                + place.view(shape)
                * (0.7548776662, 0.569840291, 0.8191725134, 0.2887)[axis]
            )
        return 0.01 + 0.98 * (found % 1)


class Pretended(Processes):
    """One of several processes that tells the others nothing: sums are its own part of them."""

    def total(self, tensors):
        return list(tensors)


def pair(axis, name):
    """A pair with a member, in a double's precision, data for it, and the objective."""
    choice = {axis: SHORTER.get(name, name), **beside(axis, name.partition("(")[0])}
    objective = choice.pop("objective", "ELBO")
    structure = choice.get("structure", "Vae")
    context = {}
    if structure in ("Labelled", "Clusters"):
        choice["structure"] += "(classes=3)"
        context = {"context": 3}
    if choice.get("prior", "").startswith("Conditional") and not context:
        context = {"context": 2}
    torch.manual_seed(0)
    vae = build(Spec(SHAPE, D, **choice, **context)).double()
    x = example(vae.model.likelihood.support, SIZE, *SHAPE)
    data = x
    if vae.context:
        c = torch.randn(SIZE, vae.context).double()
        if vae.classes:
            c[:, : vae.classes] = as_labels(vae.model, torch.arange(SIZE) % 4 - 1)
        data = {"x": x, "c": c}
    mean, std = moments(x)
    examples = (
        cut(data, torch.arange(600) % SIZE, SIZE) if vae.model.prior.examples else None
    )
    vae.initialise(
        mean + 0.2 * std, std, examples=examples, given=data if vae.context else None
    )
    with torch.no_grad():  # nothing is where it is by symmetry
        for p in vae.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return vae, data, parse("objective", objective)()


def gradient(vae, data, objective, world, rank):
    """The part of a process in record and gradient of a batch, or all of both."""
    mine = Pretended(rank, world).share(SIZE)
    svi = SVI(
        vae.model,
        vae.guide,
        lambda p: torch.optim.SGD(p, lr=0.0),
        objective,
        reduction="mean",
    )
    objective.prepare(SIZE, 20)
    objective.advance(5)
    svi.exchange = Exchange(Pretended(rank, world), SIZE)
    svi.exchange.meet(SIZE)
    vae.train()
    some = cut(data, slice(mine.start, mine.stop), SIZE)
    with Noise(len(mine), mine.start):
        outputs, used = svi._differentiate((some,), {})
    values, gradients, used = svi._exchanged(outputs[0], outputs[1:], used)
    whole = dict(zip(used.moved, gradients, strict=True))
    return values, whole


@pytest.mark.parametrize(("axis", "name"), MEMBERS, ids=lambda text: text)
def test_shares_of_a_batch_add_up_to_it_or_are_refused(axis, name, monkeypatch):
    vae, data, objective = pair(axis, name)
    svi = SVI(
        vae.model,
        vae.guide,
        lambda p: torch.optim.SGD(p, lr=0.0),
        objective,
        reduction="mean",
    )
    with monkeypatch.context() as patch:
        patch.setattr(processes, "_current", [Pretended(0, 2)])
        if name in REFUSED:
            with pytest.raises(InputError, match="train in one process"):
                join(svi, Data(data), SIZE)
            return
        join(svi, Data(data), SIZE)
    values, whole = gradient(vae, data, objective, 1, 0)
    for world in (2, 4):
        parts = [gradient(vae, data, objective, world, rank) for rank in range(world)]
        torch.testing.assert_close(sum(p[0] for p in parts), values)
        assert whole.keys() == parts[0][1].keys()
        for i, g in whole.items():
            torch.testing.assert_close(
                sum(p[1][i] for p in parts), g, rtol=1e-7, atol=1e-9
            )
