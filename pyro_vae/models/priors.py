"""Priors p(z)."""

from abc import ABC, abstractmethod
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin as Distribution
from torch import Tensor, nn

from pyro_vae.distributions import (
    DiagonalMixture,
    DiagonalNormal,
    OneHots,
    Pushforward,
    Standard,
)
from pyro_vae.distributions.pushforward import AffineStep, Step, Zuko
from pyro_vae.distributions.words import Chain, Words
from pyro_vae.distributions.zuko import Kind, flow
from pyro_vae.foundation.abstract import context_of
from pyro_vae.foundation.checks import Count, Layers, Whole
from pyro_vae.foundation.errors import InputError
from pyro_vae.foundation.sizes import Declared
from pyro_vae.models.conditionals.base import Guide
from pyro_vae.models.conditionals.codebook import Codebook
from pyro_vae.models.conditionals.discrete import Levels, levels_of
from pyro_vae.models.layers import GaussianLayer
from pyro_vae.networks import MLP, Standardised
from pyro_vae.networks.base import Shape
from pyro_vae.networks.corruptions import clean
from pyro_vae.networks.fields import FieldEncoder

__all__ = [
    "Categorical",
    "Codes",
    "Conditional",
    "Flow",
    "GaussianLayer",
    "GaussianMixture",
    "Laplace",
    "Prior",
    "StandardNormal",
    "VampPrior",
]


class Prior(Declared, nn.Module, ABC):
    """A prior `p(z)` over latent vectors, as a module that returns a distribution.

    To write one: take `latent_dim`, put whatever is learned into parameters, and return from `forward` a distribution
    of batch shape `()` and event shape `(latent_dim,)`. `StandardNormal` is the simplest example. Its docstring's first
    line is what `--help` prints. A prior `p(z|c)` takes `context` too, the length of c, keeps it, and `forward(c)`, c
    `(batch, context)`, returns a distribution of batch shape `(batch,)`.
    """

    examples: int = 0  # how many data `initialise` wants
    levels: int | None = (
        None  # values of each variable of a z of one-hot codes; None where z is made of reals
    )
    # Of a prior of several parts, after how many epochs of `fit` they are sought among the codes; 0: never, None: after
    # 2,000 steps, at most half of the epochs. Such a prior has `components` of them, and a method `follow`.
    start: int | None = 0
    of_words = False  # True: z is words of the guide's codebook

    def __init__(self, latent_dim: Count) -> None:
        super().__init__()
        self.latent_dim = latent_dim

    @abstractmethod
    def forward(self, *c: Tensor) -> Distribution:
        """`p(z)`: batch shape `()`, event shape `(latent_dim,)`."""

    def connect(self, guide: Any) -> None:
        """Called once by `VAE` with the guide, for priors that are made of it."""

    def initialise(self, examples: Tensor, contexts: Tensor | None = None) -> None:
        """Start from `self.examples` data or more, `(n, *shape)`, and their conditions where they have some."""

    def meet(self, codes: Tensor) -> None:
        """Start where the codes of a trained pair lie, `(n, latent_dim)`; a second prior is told of them.

        A prior that does nothing here starts as it was made.
        """


def moments_of(codes: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of codes, each `(latent_dim,)`; of a latent that is constant one above 0."""
    scale = codes.std(0, correction=0)
    return codes.mean(0), scale.clamp_min(NARROWEST)


class StandardNormal(Prior):
    """`p(z) = N(z; 0, I)`: nothing learned, the usual choice.

    Source: Kingma & Welling 2013, Auto-Encoding Variational Bayes.

    >>> StandardNormal(2)().log_prob(torch.zeros(2))  # -log(2 pi)
    tensor(-1.8379)
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, latent_dim: Count) -> None:
        super().__init__(latent_dim)
        self.register_buffer("loc", torch.zeros(latent_dim), persistent=False)
        self.register_buffer("scale", torch.ones(latent_dim), persistent=False)

    def forward(self, *c: Tensor) -> Distribution:
        return Standard(
            dist.Normal(self.loc, self.scale, validate_args=False),
            1,
            validate_args=False,
        )


class GaussianMixture(Prior):
    """`p(z) = sum_c pi_c N(z; loc_c, diag(scale_c^2))`: a learned mixture, for data that come in clusters.

    Args:
        latent_dim: length of z.
        components: number of Gaussians; they start at random places of the standard normal, all equally likely.
        start: after how many epochs of training they begin anew, as a mixture that is fitted by EM to the codes; 0:
            never, `None`: after 2,000 steps, at most half of the run.

    Raises:
        InputError: for fewer than one component.

    Source: Dilokthanakul et al. 2016, Deep Unsupervised Clustering with Gaussian Mixture Variational Autoencoders;
    Jiang, Zheng, Tan, Tang & Zhou 2017, Variational Deep Embedding (the start).

    >>> GaussianMixture(2, components=3)().sample((5,)).shape
    torch.Size([5, 2])
    """

    def __init__(
        self, latent_dim: Count, *, components: Count = 10, start: Whole | None = 0
    ) -> None:
        super().__init__(latent_dim)
        self.components, self.start = components, start
        self.logits = nn.Parameter(torch.zeros(components))
        self.loc = nn.Parameter(torch.randn(components, latent_dim))
        self.log_scale = nn.Parameter(torch.zeros(components, latent_dim))

    def forward(self, *c: Tensor) -> Distribution:
        return DiagonalMixture(self.logits, self.loc, self.log_scale.exp())

    @torch.no_grad()
    def follow(self, weights: Tensor, loc: Tensor, scale: Tensor) -> None:
        """Be this mixture: weights `(C,)`, places and scales `(C, latent_dim)`."""
        self.logits.copy_(weights.clamp_min(LEAST).log())
        self.loc.copy_(loc)
        self.log_scale.copy_(scale.log())


class Laplace(Prior):
    """`p(z) = prod_d exp(-|z_d| sqrt(2)) / sqrt(2)`: variance 1, a sharp peak at 0 and heavy tails.

    Source: the double exponential of Laplace 1774; as the prior of a VAE it favours codes of few large entries.

    >>> Laplace(2)().log_prob(torch.zeros(2))  # -log 2
    tensor(-0.6931)
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, latent_dim: Count) -> None:
        super().__init__(latent_dim)
        self.register_buffer("loc", torch.zeros(latent_dim), persistent=False)
        self.register_buffer(
            "scale", torch.full((latent_dim,), 0.5**0.5), persistent=False
        )

    def forward(self, *c: Tensor) -> Distribution:
        return dist.Laplace(self.loc, self.scale, validate_args=False).to_event(1)


class Categorical(Prior):
    """`p(z) = prod_v softmax(logits_v)_{c_v}`: independent categorical variables, one-hot side by side.

    z has length `latent_dim`, the number of variables times `levels`, under the guide of the same name. With one
    variable `p(x) = sum_c pi_c p(x|c)` is a mixture.

    Args:
        latent_dim: length of z.
        levels: values of each variable; by default `latent_dim` of them, one variable.
        learned: whether the probabilities are learned, from equal ones; otherwise they stay equal.

    Raises:
        InputError: for fewer than two levels, or a `latent_dim` that is no multiple of them.

    Source: Jang, Gu & Poole 2017, Categorical Reparameterization with Gumbel-Softmax, section 4.

    >>> Categorical(6, levels=3, learned=False)().log_prob(torch.tensor([1.0, 0, 0, 0, 0, 1]))  # -2 log 3
    tensor(-2.1972)
    """

    logits: Tensor

    def __init__(
        self, latent_dim: Count, *, levels: Levels | None = None, learned: bool = True
    ) -> None:
        super().__init__(latent_dim)
        self.levels = levels_of("Categorical", latent_dim, levels)
        logits = torch.zeros(latent_dim // self.levels, self.levels)
        if learned:
            self.logits = nn.Parameter(logits)
        else:
            self.register_buffer("logits", logits, persistent=False)

    @torch.no_grad()
    def meet(self, codes: Tensor) -> None:
        if isinstance(self.logits, nn.Parameter):
            counts = codes.sum(0).view_as(self.logits)
            self.logits.copy_((counts + 1).log())  # none is impossible

    def forward(self, *c: Tensor) -> Distribution:
        return OneHots(self.logits)


class Codes(Prior):
    """`p(z) = prod_g p(c_g | c_1, ..., c_{g-1})`, z the words of the codes c: for the guide `Codebook`.

    All codes are equally likely while the pair is trained, and until `fit_codes` was called, as the training program
    does at its end. Then p(c) is what the training data's codes follow: their frequencies for a single group, else each
    given those before it, by a layer of hidden units.

    Args:
        latent_dim: length of z.
        units: of that layer.

    Raises:
        InputError: from `VAE`, for another guide.

    Source: van den Oord, Vinyals & Kavukcuoglu 2017, Neural Discrete Representation Learning, section 3.3; Larochelle &
    Murray 2011, The Neural Autoregressive Distribution Estimator.

    >>> from pyro_vae import MLP, VAE, Bernoulli
    >>> from pyro_vae.guides import Codebook
    >>> guide = Codebook(MLP((4,)), 2, size=8)
    >>> VAE(Codes(2), MLP((2,), (1, 4)), Bernoulli((4,)), guide).model.prior().log_prob(guide.words[0, 5])  # -log 8
    tensor(-2.0794)
    """

    of_words = True
    _guide: Codebook
    weight: Tensor | None
    bias: Tensor | None
    out: Tensor | None
    offset: Tensor | None

    def __init__(self, latent_dim: Count, *, units: Count = 64) -> None:
        super().__init__(latent_dim)
        self.units = units
        for name in Chain._fields:  # there is nothing before they are fitted
            self.register_buffer(name, None)

    def connect(self, guide: Any) -> None:
        if not isinstance(guide, Codebook):
            raise InputError(
                f"Codes is a prior over the codes of a codebook, and {type(guide).__name__} has none: take the guide "
                "codebook"
            )
        # Looked at, not owned.
        object.__setattr__(self, "_guide", guide)
        self.examples = max(FEWEST, min(MOST, OF_EACH * guide.size))

    @property
    def fitted(self) -> bool:
        """Whether p(c) was fitted."""
        return self.offset is not None

    def take(self, chain: Chain | None) -> None:
        """Have p(c) from now on; with `None` all codes are equally likely again."""
        for name in Chain._fields:
            part = None if chain is None else getattr(chain, name).detach()
            setattr(self, name, part if part is None else self._own(part))

    def _own(self, part: Tensor) -> Tensor:
        """A copy of the type and on the device of the words."""
        return part.to(self._guide.words, copy=True)

    def initialise(self, examples: Tensor, contexts: Tensor | None = None) -> None:
        self._guide.start(examples, contexts)

    def forward(self, *c: Tensor) -> Distribution:
        if "_guide" not in self.__dict__:
            raise InputError(
                "Codes is a prior over the codes of a codebook: put it into a VAE with the guide codebook first"
            )
        chain = None
        if self.fitted and not self.training:
            chain = Chain(*(getattr(self, name) for name in Chain._fields))
        return Words(self._guide.words, self._guide.groups, chain)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        parts = [state_dict.get(f"{prefix}{name}") for name in Chain._fields]
        fitted = not any(part is None for part in parts)
        self.take(Chain(*parts) if fitted else None)
        super()._load_from_state_dict(state_dict, prefix, *args)


FEWEST, MOST, OF_EACH = 1000, 10_000, 10  # data for k-means


class Flow(Prior):
    """`p(z) = N(f(z); 0, I) |det df/dz|`, f a learned normalizing flow.

    As a second prior it first takes z to standard units, those of the codes, which stay.

    Args:
        latent_dim: length of z.
        kind: `'realnvp'`, affine coupling layers; `'nsf'`, coupling layers of rational-quadratic splines; `'maf'`,
            affine autoregressive layers, whose draws take `latent_dim` passes each.
        transforms: number of layers; they start near the identity.
        hidden: widths of the layers' networks.

    Raises:
        InputError: for another `kind`, or a number below 1.

    Source: Dinh, Sohl-Dickstein & Bengio 2017, Density Estimation using Real NVP; Papamakarios, Pavlakou & Murray 2017,
    Masked Autoregressive Flow; Durkan et al. 2019, Neural Spline Flows. The layers are those of zuko.

    >>> Flow(2, kind="nsf", transforms=2, hidden=(16,))().sample((5,)).shape
    torch.Size([5, 2])
    """

    loc: Tensor
    scale: Tensor
    place: Tensor | None
    log_width: Tensor | None

    def __init__(
        self,
        latent_dim: Count,
        *,
        kind: Kind = "realnvp",
        transforms: Layers = 4,
        hidden: tuple[Count, ...] = (100,),
    ) -> None:
        super().__init__(latent_dim)
        self.flow = flow(kind, latent_dim, transforms=transforms, hidden=hidden)
        self.register_buffer("loc", torch.zeros(latent_dim), persistent=False)
        self.register_buffer("scale", torch.ones(latent_dim), persistent=False)
        for name in UNITS:  # only some have them
            self.register_buffer(name, None)

    @torch.no_grad()
    def meet(self, codes: Tensor) -> None:
        self.place, scale = moments_of(codes)
        self.log_width = scale.log()

    def forward(self, *c: Tensor) -> Distribution:
        noise = Standard(
            dist.Normal(self.loc, self.scale, validate_args=False),
            1,
            validate_args=False,
        )
        steps: list[Step] = [Zuko(self.flow)]
        if self.place is not None and self.log_width is not None:
            steps.append(AffineStep(self.place, self.log_width))
        return Pushforward(noise, steps)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        for name in UNITS:
            met = state_dict.get(f"{prefix}{name}")
            if met is not None and getattr(self, name) is None:
                setattr(self, name, met.to(self.loc, copy=True))
        super()._load_from_state_dict(state_dict, prefix, *args)


UNITS = ("place", "log_width")  # of a flow's z, where it met codes
NARROWEST = 1e-3  # the standard deviation of a latent whose codes are all the same


class Conditional(Prior):
    """`p(z|c) = sum_k pi_k(c) N(z; loc_k(c), diag(scale_k(c)^2))`: learned, and another for each condition.

    Weights, places and scales come from a network of c. It starts near the standard normal for every c; of several
    components the places start apart, drawn from it.

    Args:
        latent_dim: length of z.
        hidden: widths of the network's layers; `()` makes a linear map.
        components: number of Gaussians.
        context: length of c; `--condition` says it.

    Raises:
        InputError: without a condition, or for a number below 1.

    Source: Sohn, Lee & Yan 2015, Learning Structured Output Representation using Deep Conditional Generative Models.

    >>> Conditional(2, context=3)(torch.zeros(5, 3)).sample().shape
    torch.Size([5, 2])
    """

    def __init__(
        self,
        latent_dim: Count,
        *,
        hidden: tuple[Count, ...] = (100,),
        components: Count = 1,
        context: Whole = 0,
    ) -> None:
        super().__init__(latent_dim)
        if not context:
            raise InputError(
                "Conditional is p(z|c) and there is no condition (context=0): add --condition"
            )
        self.context, self.components = context, components
        # Of each component its weight, place and scale.
        each = (
            components,
            1 + 2 * latent_dim,
        )
        self.network = MLP((context,), each, hidden=hidden)
        with torch.no_grad():
            last = self.network.output_layer
            assert last is not None
            last.weight *= START
            if components > 1:
                last.bias.view(each)[:, 1 : 1 + latent_dim].normal_()

    @torch.no_grad()
    def meet(self, codes: Tensor) -> None:
        loc, scale = moments_of(codes)
        last: Any = self.network.output_layer
        _, place, log_scale = last.bias.view(self.components, -1).split(
            [1, *[self.latent_dim] * 2], -1
        )
        place.mul_(scale).add_(loc)
        log_scale.add_(scale.log())

    def forward(self, *c: Tensor) -> Distribution:
        logits, loc, log_scale = self.network(*c).split([1, *[self.latent_dim] * 2], -1)
        if self.components == 1:
            return DiagonalNormal(loc.squeeze(-2), log_scale.squeeze(-2))
        return DiagonalMixture(logits.squeeze(-1), loc, log_scale.exp())


START = 0.1  # how far a conditional prior starts from the standard normal, in its standard deviations
LEAST = 1e-6  # the weight of a component that is given none


class VampPrior(Prior):
    """`p(z) = 1/K sum_k q(z|u_k)`: the guide's posteriors at K learned pseudo-inputs `u_k`.

    `VAE` gives it the guide, and `VAE.initialise` sets the pseudo-inputs to data; until then they are random. Under a
    `Standardised` encoder they count in its units. A guide `q(z|x,c)` is asked at learned pairs of input and condition.

    Args:
        latent_dim: length of z.
        pseudo_inputs: K.
        shape: shape of one datum, needed only for an encoder that does not say its `in_shape`.

    Raises:
        InputError: for fewer than one pseudo-input, or (from `VAE`) for a guide without an encoder, without a density,
            or whose density takes a pass for each latent.

    Source: Tomczak & Welling 2018, VAE with a VampPrior.

    >>> from pyro_vae import MLP, VAE, Bernoulli, MeanField
    >>> vae = VAE(VampPrior(2, pseudo_inputs=10), MLP((2,), (1, 4)), Bernoulli((4,)), MeanField(MLP((4,)), 2))
    >>> vae.sample(3).shape
    torch.Size([3, 4])
    """

    _guide: Any

    def __init__(
        self,
        latent_dim: Count,
        *,
        pseudo_inputs: Count = 500,
        shape: Shape | None = None,
    ) -> None:
        super().__init__(latent_dim)
        self.examples, self.shape = pseudo_inputs, shape
        self.pseudo_inputs: nn.Parameter

    def connect(self, guide: Any) -> None:
        name = type(guide).__name__
        if not isinstance(guide, Guide):
            raise InputError(
                f"VampPrior is made of a guide's posteriors, and {name} is no Guide or derived from one"
            )
        if not guide.amortised:
            raise InputError(
                f"VampPrior is made of posteriors at pseudo-inputs, and {name} has none without fitting it"
            )
        if not guide.has_density:
            raise InputError(
                f"VampPrior is a mixture of the guide's posteriors, and those of {name} are points"
            )
        if not guide.quick_density:
            raise InputError(
                f"VampPrior needs log q(z|x) at any latent, which takes {name} one pass for each of its entries; take "
                "MeanField or another guide"
            )
        self.levels = guide.levels
        if isinstance(guide.encoder, FieldEncoder):
            raise InputError(
                "VampPrior learns inputs of the encoder, and of several fields some may be categories or missing: take "
                "another prior, such as GaussianMixture"
            )
        seen = getattr(guide.encoder, "in_shape", None)
        shape = seen if self.shape is None else self.shape
        if seen is not None and shape is not None and tuple(seen) != tuple(shape):
            raise InputError(
                f"shape={shape} of VampPrior is not the shape {tuple(seen)} that the encoder reads"
            )
        if shape is None:
            raise InputError(
                "the encoder does not say its in_shape; give VampPrior shape=<the shape of one datum>"
            )
        # Looked at, not owned: its parameters stay the guide's alone.
        object.__setattr__(self, "_guide", guide)
        self.pseudo_inputs = nn.Parameter(torch.rand(self.examples, *shape))
        if width := context_of(guide.encoder):
            self.pseudo_contexts = nn.Parameter(torch.zeros(self.examples, width))

    @torch.no_grad()
    def initialise(self, examples: Tensor, contexts: Tensor | None = None) -> None:
        if len(examples) < self.examples:
            raise InputError(
                f"VampPrior starts from {self.examples} data and there are {len(examples)}; give it pseudo_inputs="
                f"{len(examples)} or fewer"
            )
        chosen = examples[: self.examples].to(self.pseudo_inputs)
        encoder = self._guide.encoder
        self.pseudo_inputs.copy_(
            encoder.standardise(chosen) if isinstance(encoder, Standardised) else chosen
        )
        if contexts is not None and context_of(encoder):
            width = context_of(encoder)
            known = contexts[: self.examples].nan_to_num(self._of_unknown())
            self.pseudo_contexts.copy_(known[:, :width])
        elif context_of(encoder):  # of a pair with classes whose data have no labels
            self.pseudo_contexts.fill_(self._of_unknown())

    def _of_unknown(self) -> float:
        """What stands for a label that is not known: any class alike, or the mean of a real target."""
        return 1 / self._guide.classes if self._guide.classes else 0.0

    def forward(self, *c: Tensor) -> Distribution:
        if "_guide" not in self.__dict__:
            raise InputError(
                "VampPrior is made of a guide's posteriors: put both into a VAE first"
            )
        encoder = self._guide.encoder
        body = encoder.body if isinstance(encoder, Standardised) else encoder
        contexts = [self.pseudo_contexts] if context_of(self._guide.encoder) else []
        with clean():
            h = body(self.pseudo_inputs, *contexts)
        parts = self._guide.posterior(h)
        logits = self.pseudo_inputs.new_zeros(self.examples)
        base = getattr(parts, "base_dist", None)
        if isinstance(base, dist.Normal):
            return DiagonalMixture(logits, base.loc, base.scale)
        return dist.MixtureSameFamily(
            dist.Categorical(logits=logits, validate_args=False),
            parts,
            validate_args=False,
        )
