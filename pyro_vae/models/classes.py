"""A class y of few values as a latent of its own, beside the vector z."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae.data.conditions import UNKNOWN
from pyro_vae.foundation.abstract import MOST_LISTED, context_of
from pyro_vae.foundation.checks import Count, NotNegative, Whole
from pyro_vae.foundation.errors import InputError
from pyro_vae.networks import features as width_of

WEIGHT = 50.0  # of labels, beside the bound of a datum


class ClassPrior(nn.Module):
    """`p(y) = Categorical(pi)` over K classes, all equally likely or learned.

    >>> ClassPrior(4)().probs
    tensor([0.2500, 0.2500, 0.2500, 0.2500])
    """

    logits: Tensor

    def __init__(self, size: Count, *, uniform: bool = True) -> None:
        super().__init__()
        self.size = size
        if uniform:
            self.register_buffer("logits", torch.zeros(size), persistent=False)
        else:
            self.logits = nn.Parameter(torch.zeros(size))

    def forward(self) -> dist.Categorical:
        return dist.Categorical(logits=self.logits, validate_args=False)


class Classifier(nn.Module):
    """`q(y|x) = Categorical(softmax(W h(x) + b))`, with `h` the features of a network.

    Args:
        network: any module, `(..., *shape) -> (..., features)`; one with a `context` is called with `(x, c)`.
        size: K, how many classes there are.
        weight: alpha, by which `log q(label|x)` of a labelled datum is added to what is maximised; `None`: 50.
        features: the network's output width, needed only for one that has no `out_shape`.
    """

    def __init__(
        self,
        network: nn.Module,
        size: Count,
        *,
        weight: NotNegative | None = None,
        features: Count | None = None,
    ) -> None:
        super().__init__()
        self.network, self.size, self.asked_weight = network, size, weight
        self.weight = float(WEIGHT if weight is None else weight)
        self.features = width_of(network, features)
        self.head = nn.Linear(self.features, size)

    @property
    def each(self) -> Tensor:
        """A number for each class, in the type of the parameters."""
        return self.head.bias

    @property
    def context(self) -> int:
        """How many numbers of a condition the network reads beside x."""
        return context_of(self.network)

    def forward(self, x: Tensor, *c: Tensor) -> dist.Categorical:
        logits = self.head(self.network(x, *c))
        return dist.Categorical(logits=logits, validate_args=False)


class Classes(nn.Module):
    """A class `y` of K for each datum: `p(y)` in the model and `q(y|x)` in the guide, summed over exactly.

    The label of a datum is a condition that may be unknown: `c` begins with it. Where it is known the pair's density
    is `p(x, y)`, where it is not `p(x) = sum_y p(x, y)`.

    Args:
        size: K.
        network: the body of q(y|x), `(..., *shape) -> (..., features)`.
        of: which sites of the model depend on y: `("x",)` for `p(x|z,y)`, `("z",)` for `p(z|y)`, or both. The parts
            that do have a `context` of K more numbers, y one-hot, before those of a condition.
        weight: alpha; the objective of a labelled datum is `log p(x, y)`'s bound plus `alpha log q(y|x)`, without which
            labels do not train q(y|x). `None`: 50, or 0 where the guide is `Exact`, which labels train through p(x, y).
        uniform: whether all classes are equally likely, or `p(y)` is learned.
        start: where p(z|y) depends on y, after how many epochs of `fit` the classes begin anew, as clusters that are
            sought among the codes; 0: never, `None`: after 2,000 steps, at most half of the epochs. Without it most
            data are too few for classes to part.
        labels_first: in how many steps `fit` learns the labelled data alone, before all; 0: none, `None`: 200 where
            fewer than one in twenty of the data has a label and p(x|z,y) depends on it. Among many others they come too
            late: y then stands for something else already.
        spread: whether `fit` gives labels to data that have none, by their nearest neighbours, and takes them for
            known, see `spread_labels`. `None`: where fewer than one in ten of the data has a label, p(x|z,y) depends
            on it, and four in five of the known labels come out right where they are held back.
        features: as in `Classifier`.

    Raises:
        InputError: for other sites, fewer than two classes, or more than 1,000.

    Source: Kingma, Rezende, Mohamed & Welling 2014, Semi-Supervised Learning with Deep Generative Models (M2, alpha);
    Dilokthanakul et al. 2016, Deep Unsupervised Clustering with Gaussian Mixture Variational Autoencoders.

    >>> from pyro_vae import MLP, Bernoulli, MeanField, StandardNormal, VAE
    >>> encoder, decoder = MLP((4,), context=3), MLP((2,), (1, 4), context=3)
    >>> classes = Classes(3, MLP((4,)))
    >>> vae = VAE(StandardNormal(2), decoder, Bernoulli((4,)), MeanField(encoder, 2), classes=classes)
    >>> vae.predict(torch.ones(5, 4)).shape, vae.sample(5, 2).shape
    (torch.Size([5, 3]), torch.Size([5, 4]))
    """

    def __init__(
        self,
        size: Count,
        network: nn.Module,
        *,
        of: tuple[str, ...] = ("x",),
        weight: NotNegative | None = None,
        uniform: bool = True,
        start: Whole | None = 0,
        labels_first: Whole | None = None,
        spread: bool | None = None,
        features: Count | None = None,
    ) -> None:
        super().__init__()
        if not of or not {*of} <= {"x", "z"}:
            raise InputError(f"of={of!r}: name the sites x, z or both")
        if not 2 <= size <= MOST_LISTED:
            raise InputError(
                f"{size} classes cannot be told apart and summed over: give from 2 to {MOST_LISTED:,}"
            )
        self.size, self.of, self.start = size, tuple(of), start
        self.labels_first = labels_first
        self.spread = False if spread is None and "x" not in of else spread
        self.prior = ClassPrior(size, uniform=uniform)
        self.classifier = Classifier(network, size, weight=weight, features=features)


class Reads(NamedTuple):
    """What a part of a pair is given beside its first input: the class, a condition, or both."""

    y: bool = False
    c: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """Of the sites and fields, in the order in which the part reads them."""
        return tuple(name for name, read in self._asdict().items() if read)

    def context(self, values: tuple[Tensor, ...], each: Tensor) -> tuple[Tensor, ...]:
        """The values of `names` as the one vector that the part reads, `(..., context)`; nothing where it reads none.

        y are whole numbers or reals `(...)`, and c is `(batch, width)`; `each` has an entry for each class, and the
        type.
        """
        if not self.y:
            return values
        y, *c = values
        return (beside(as_vector(y, each), *c),)


def reads(
    what: str, part: Any, size: int, width: int, *, y: bool | None = None
) -> Reads:
    """What a part reads of K = `size` classes and a condition of `width` numbers, by the length of its context.

    Args:
        what: what an error calls the part.
        part: the part.
        size: K.
        width: the length of the condition, which q(y|x) is given.
        y: whether it has to read the class, or must not; `None` where both will do.

    Raises:
        InputError: for another length.
    """
    context = context_of(part)
    known = {size: Reads(y=True), size + width: Reads(y=True, c=width > 0)}
    without = {0: Reads(), width: Reads(c=width > 0)}
    lengths = {True: known, False: without, None: without | known}[y]
    if y and context < size:
        raise InputError(
            f"{what} has to read the class and reads {context} numbers beside its input: make it with "
            f"context={size + width}, the {size} classes first"
        )
    if context not in lengths:
        some = " or ".join(map(str, sorted({*lengths})))
        raise InputError(
            f"{what} has context={context}, and with {size} classes and a condition of {width} numbers it is {some}"
        )
    return lengths[context]


def as_vector(y: Tensor, each: Tensor) -> Tensor:
    """What networks read of y `(...)`: one-hot classes `(..., K)` of the type of `each`, `(K,)`; a real as it is."""
    if y.is_floating_point():
        return y.unsqueeze(-1)
    values = torch.arange(len(each), device=each.device)
    return (y.unsqueeze(-1) == values).to(each.dtype)


def beside(first: Tensor, *others: Tensor) -> Tensor:
    """Vectors side by side, each repeated over the batches of the others."""
    vectors = (first, *others)
    batch = torch.broadcast_shapes(*(v.shape[:-1] for v in vectors))
    return torch.cat([v.expand(*batch, -1) for v in vectors], -1)


def codes(c: Tensor) -> Tensor:
    """One-hot labels `(..., K)`, nan where there is none, as whole numbers `(...)` with -1 there.

    Of a real target, `(..., 1)`, the numbers themselves, `(...)`, with nan there.
    """
    if c.shape[-1] == 1:
        return c[..., 0]
    known = ~c[..., 0].isnan()
    return torch.where(known, c.nan_to_num().argmax(-1), UNKNOWN)


def with_label(values: Mapping[str, Any], size: int) -> dict[str, Any]:
    """The data of a pair with a label of so many numbers: y apart from the condition c, which began with it."""
    if "c" not in values:
        return dict(values)
    label, rest = values["c"][..., :size], values["c"][..., size:]
    others = {name: value for name, value in values.items() if name != "c"}
    given = {"c": rest} if rest.shape[-1] else {}
    y = codes(label)
    if y.is_floating_point() and "y" in others:  # a draw, which a label replaces
        y = y.where(~y.isnan(), others.pop("y"))
    return {"y": y, **given, **others}
