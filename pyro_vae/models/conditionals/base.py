"""What a guide is."""

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin as Distribution
from torch import Tensor, nn

from pyro_vae.data.representation import Representation
from pyro_vae.distributions.known import log_prob_of_known, pinned, set_aside
from pyro_vae.foundation.abstract import MOST_LISTED, aim, context_of, movable
from pyro_vae.foundation.checks import Count, Whole
from pyro_vae.foundation.errors import InputError
from pyro_vae.foundation.layout import Layout
from pyro_vae.foundation.sizes import Declared
from pyro_vae.models.classes import Classifier, Reads, with_label
from pyro_vae.models.program import Factor, Program
from pyro_vae.models.targets import Regressor
from pyro_vae.models.variances import Bounds, start_within
from pyro_vae.networks import Standardised
from pyro_vae.networks import features as encoder_features
from pyro_vae.networks.fields import FieldEncoder
from pyro_vae.networks.views import View

# Data that come on any scale.
UNSCALED = (
    Representation.REAL,
    Representation.POSITIVE,
    Representation.COUNTS,
    Representation.LEVELS,
    Representation.MIXED,
)

# Where the logarithm of each scale of q(z|x) starts. Drawn as wide as the prior, the first latents are noise: the
# decoder learns to do without them before the encoder has anything to say, and the KL then closes them for good.
NARROW = -1.0


class Guide(Declared, Program):
    """An amortised guide `q(z|x)`: the encoder's features, and a distribution over `z` made from them.

    `given(x)` is the distribution; called as a Pyro program it draws the one site `z`.

    To write one: call `super().__init__(encoder, latent_dim)`, make the layers that turn `self.features` features into
    the parameters of a distribution, and return it from `posterior`. `MeanField` is the simplest example.

    Args:
        encoder: any module, `(..., *shape) -> (..., features)`; one with an attribute `context`, the length of a
            condition, is called with `(x, c)`.
        latent_dim: the length of `z`.
        features: the encoder's output width, needed only for an encoder that has no `out_shape`.
    """

    site = "z"  # what it draws
    amortised: bool = True  # False: q(z|x) is not made by the encoder, so that inputs that are no data have none
    has_density: bool = True  # False: a point
    quick_density: bool = True  # False: log q(z|x) costs one pass for each latent, except at the guide's own draws
    smooth: bool = True  # False: gradients of draws cannot be differentiated once more
    # Values of each variable of a z of one-hot codes; None where z is made of reals.
    levels: int | None = None
    listed: bool = False  # True: all values of z are enumerated
    discrete: bool = False  # True: z takes values that can be counted
    usual_prior: str | None = None  # the prior that goes with it where none is named
    # True: q(z|x) depends on the model, and on all that it is given.
    asks_model: bool = False
    classifier: Classifier | Regressor | None  # q(y|x), where there is a y
    fields: Layout | None = None  # what x consists of, where it is several fields
    reads = Reads()  # what the encoder is given beside x, where there are

    def __init__(
        self, encoder: nn.Module, latent_dim: Whole, *, features: Whole | None = None
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.classifier = None
        self.latent_dim = latent_dim
        self.features = encoder_features(encoder, features)

    @property
    def silent(self) -> tuple[str, ...]:
        return () if self.latent_dim else (self.site,)

    @property
    def bodies(self) -> list[nn.Module]:
        """The networks that read data."""
        more = [] if self.classifier is None else [self.classifier.network]
        return [self.encoder, *more]

    @abstractmethod
    def posterior(self, h: Tensor) -> Distribution:
        """`(..., features)` -> `q(z|x)` of batch shape `(...)`, event shape `(latent_dim,)`."""

    @property
    def context(self) -> int:
        """How many numbers of a condition c the encoder reads beside x; 0 for `q(z|x)`."""
        if self.classifier is not None:
            return self.classifier.size + self.classifier.context
        return context_of(self.encoder)

    @property
    def classes(self) -> int:
        """How many values a class y has; 0 without one."""
        return self.classifier.size if isinstance(self.classifier, Classifier) else 0

    @property
    def label_width(self) -> int:
        """How many numbers of a condition the label of y takes: K of a class, 1 of a real; 0 without y."""
        return 0 if self.classifier is None else self.classifier.size

    def standardised(self, labels: Tensor) -> Tensor:
        """Real labels as they are stored in the units of y."""
        assert isinstance(self.classifier, Regressor)
        return self.classifier.units.standardised(labels)

    def given(self, x: Tensor, *c: Tensor) -> Distribution:
        """`q(z|x)`: `(batch, *shape)` -> a distribution of batch shape `(batch,)`, event shape `(latent_dim,)`.

        With a `context` it is `q(z|x,c)`, c `(batch, context)`.
        """
        return self.family(movable(self.site, lambda: self.parameters_given(x, *c)))

    def factors(self) -> Sequence[Factor]:
        if self.classifier is None:
            of_c: tuple[str, ...] = ("c",) if self.context else ()
            return [self._factor(self.site, of_c, self.given, listed=self.listed)]
        of_y = ("c",) if self.classifier.context else ()
        of_z = self.reads.names
        return [
            self._of_y(of_y),
            self._factor(self.site, of_z, self.given_class, listed=self.listed),
        ]

    def _of_y(self, given: tuple[str, ...]) -> Factor:
        """`q(y|x)`: of a class all values are listed, of a real target one is drawn."""
        assert self.classifier is not None
        real = isinstance(self.classifier, Regressor)
        return self._factor("y", given, self.classifier, listed=not real, partly=real)

    def _factor(
        self,
        site: str,
        given: tuple[str, ...],
        conditional: Callable[..., Distribution],
        **kinds: bool,
    ) -> Factor:
        """`q(site|x,given)`."""
        return factor_of_data(self.fields, site, given, conditional, **kinds)

    def classify(self, classifier: Classifier | Regressor, reads: Reads) -> None:
        """Called once by `VAE` where there is a y: q(y|x), and whether the encoder is given y."""
        self.classifier, self.reads = classifier, reads
        if (
            isinstance(classifier, Classifier)
            and self.listed
            and self.levels is not None
        ):
            codes = self.levels ** (self.latent_dim // self.levels)
            # Together too many: the class is summed over, and codes are drawn.
            self.listed = classifier.size * codes <= MOST_LISTED

    def given_class(self, x: Tensor, *values: Tensor) -> Distribution:
        """`q(z|x,y)`: of y `(..., batch)` a distribution of that batch shape."""
        assert self.classifier is not None
        return self.given(x, *self.reads.context(values, self.classifier.each))

    def known(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if self.fields is not None:
            values = with_fields(values, self.fields)
        if self.classifier is None:
            return dict(values)
        return with_label(values, self.classifier.size)

    def knowing(self, p: Any, labels: Tensor) -> Distribution:
        """A point where there is a label, or set aside; what q(y|x) says of it goes into the objective alone."""
        assert self.classifier is not None
        if self.classifier.weight:
            log_q = log_prob_of_known(p, labels)
            aim("classifier", self.classifier.weight * log_q)
        return set_aside(p, labels) if labels.is_floating_point() else pinned(p, labels)

    def observe(self, factor: Factor, values: Mapping[str, Tensor]) -> None:
        """What q(y|x) says of labels goes into the objective alone, and there is nothing to draw."""
        assert self.classifier is not None
        if self.classifier.weight:
            log_q = factor.at(values).log_prob(values[factor.site])
            aim("classifier", self.classifier.weight * log_q)

    def connect(self, model: nn.Module) -> None:
        """Called once by `VAE` with the model: the encoder of data on scales of their own counts in standard units.

        So does that of data with missing values, which are filled there. A subclass that looks at the model calls this
        too.
        """
        self.check_prior(getattr(model, "prior", None))
        self.fields = getattr(model, "fields", None)
        likelihood: Any = getattr(model, "likelihood", None)
        self._connect_classifier(likelihood)
        if self.amortised:
            self.encoder = standardised(self.encoder, likelihood, self.features)

    def _connect_classifier(self, likelihood: Any) -> None:
        """Let the network of q(y|x) count in standard units too, where there are classes."""
        if self.classifier is not None:
            network, width = self.classifier.network, self.classifier.features
            self.classifier.network = standardised(network, likelihood, width)

    def check_prior(self, prior: Any) -> None:
        """Raise `InputError` for codes under a prior over reals, the other way round, or codes of other levels."""
        theirs = getattr(prior, "levels", None)
        if prior is None or theirs == self.levels:
            return
        name, other = type(self).__name__, type(prior).__name__
        if self.levels is None:
            raise InputError(
                f"z of the prior {other} takes {theirs} values a variable and the guide {name} draws reals: take the "
                f"guide categorical(levels={theirs})"
            )
        if theirs is None:
            raise InputError(
                f"z of the guide {name} takes {self.levels} values a variable and the prior {other} is a density of "
                f"reals: take the prior categorical(levels={self.levels})"
            )
        raise InputError(
            f"z takes {theirs} values a variable under the prior {other} and {self.levels} under the guide {name}: "
            "give both the same levels"
        )

    def variational_parameters(self, h: Tensor) -> Tensor:
        """`(..., features) -> (..., P)`: the numbers that fix `q(z|x)` within its family, free to be refined."""
        return h

    def parameters_given(self, x: Tensor, *c: Tensor) -> Tensor:
        """`(batch, *shape) -> (batch, P)`: the variational parameters of `q(z|x)`, or of `q(z|x,c)`."""
        return self.variational_parameters(self.encoder(x, *c))

    def family(self, parameters: Tensor) -> Distribution:
        """`(..., P)` -> the member of the family with these `variational_parameters`."""
        return self.posterior(parameters)


def factor_of_data(
    layout: Layout | None,
    site: str,
    given: tuple[str, ...],
    conditional: Callable[..., Distribution],
    **kinds: bool,
) -> Factor:
    """`q(site|x,given)`, `conditional(x, *given)`; where x is several fields, each of them is given."""
    if layout is None:
        return Factor(site, ("x", *given), conditional, **kinds)

    def of_fields(*values: Tensor) -> Distribution:
        x = layout.together(values[: len(layout.names)])
        return conditional(x, *values[len(layout.names) :])

    return Factor(site, (*layout.names, *given), of_fields, **kinds)


def standardised(encoder: nn.Module, likelihood: Any, features: int) -> nn.Module:
    """The body of an encoder as it is, or counting in standard units."""
    if isinstance(encoder, Standardised):
        return encoder
    if isinstance(encoder, FieldEncoder):
        _standardise_fields(encoder, likelihood)
        return encoder
    missing = getattr(likelihood, "missing", False)
    if missing or getattr(likelihood, "support", None) in UNSCALED:
        view = likelihood.view
        read = tuple(getattr(encoder, "in_shape", likelihood.seen_shape))
        if isinstance(view, View) and not missing and read != view.out_shape:
            raise InputError(
                f"the encoder reads data of shape {read}, and of these columns it is given "
                f"{view.out_shape}, categories one-hot: make it for likelihood.seen_shape"
            )
        return Standardised(encoder, likelihood.shape, features, view, missing=missing)
    return encoder


def with_fields(values: Mapping[str, Tensor], layout: Layout) -> dict[str, Tensor]:
    """The data of a guide with x and its fields: both, whichever of them was given; a field that was not is nan."""
    x = values.get("x")
    if x is None:
        x = layout.join({name: values[name] for name in layout.names if name in values})
    return {**values, "x": x, **layout.split(x)}


def _standardise_fields(encoder: FieldEncoder, likelihood: Any) -> None:
    """Let the network of each field count in standard units, and see what is missing as the mean."""
    theirs = getattr(likelihood, "layout", None)
    if theirs is None or encoder.layout[:2] != theirs[:2]:
        raise InputError(
            f"the encoder reads the fields {', '.join(encoder.layout.names)} of shapes "
            f"{', '.join(map(str, encoder.layout.shapes))}, and they are not those of the likelihood"
        )
    for i, (member, width) in enumerate(
        zip(likelihood.members, encoder.widths, strict=True)
    ):
        encoder.bodies[i] = Standardised(
            encoder.bodies[i], member.shape, width, member.view, missing=True
        )


class HeadGuide(Guide):
    """A guide whose linear `head` turns features into `variational_parameters`; a subclass gives their `family`.

    Args:
        encoder: as in `Guide`.
        latent_dim: the length of `z`.
        outputs: how many numbers the head returns.
        features: as in `Guide`.
        log_variance: bounds `(low, high)` between which the head's log-variances `log sigma^2` are kept, those of the
            outputs that `narrow` was told of: what lies beyond a bound is set to it, with a gradient of 0. `None`: no
            bounds. A refined q(z|x) may leave them.
    """

    lowest: Tensor | None
    highest: Tensor | None

    def __init__(
        self,
        encoder: nn.Module,
        latent_dim: Count,
        outputs: Count,
        *,
        features: Count | None = None,
        log_variance: Bounds | None = None,
    ) -> None:
        super().__init__(encoder, latent_dim, features=features)
        self.head = nn.Linear(self.features, outputs)
        self.log_variance = log_variance
        every = None if log_variance is None else torch.full((outputs,), math.inf)
        self.register_buffer(
            "lowest", None if every is None else -every, persistent=False
        )
        self.register_buffer("highest", every, persistent=False)

    def posterior(self, h: Tensor) -> Distribution:
        return self.family(self.variational_parameters(h))

    def variational_parameters(self, h: Tensor) -> Tensor:
        outputs = self.head(h)
        if self.log_variance is None:
            return outputs
        return outputs.clamp(self.lowest, self.highest)

    @abstractmethod
    def family(self, parameters: Tensor) -> Distribution:
        """`(..., P)` -> a distribution of batch shape `(...)`, event shape `(latent_dim,)`."""

    @torch.no_grad()
    def narrow(self, rows: slice) -> None:
        """Start with these outputs of the head, logarithms of scales, at `NARROW` for every datum; bound them."""
        self.head.weight[rows] = 0.0
        self.head.bias[rows] = start_within(NARROW, self.log_variance)
        if self.log_variance is not None:
            low, high = (bound / 2 for bound in self.log_variance)
            self.lowest[rows] = low  # type: ignore[index]
            self.highest[rows] = high  # type: ignore[index]

    @torch.no_grad()
    def shrink(self, rows: slice, factor: float) -> None:
        """Start with these outputs of the head scaled by `factor`: random ones only add noise to the first steps."""
        self.head.weight[rows] *= factor
        assert self.head.bias is not None
        self.head.bias[rows] *= factor
