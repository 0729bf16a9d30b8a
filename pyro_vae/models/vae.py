"""The generative model and the pair: plain Pyro."""

import copy
import math
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin as Distribution
from torch import Tensor, nn

import pyro_vae
from pyro_vae.data.fields import evenly
from pyro_vae.data.inputs import (
    SAMPLE,
    DataWarning,
    as_data,
    beside_condition,
    condition_for,
    fields_of,
    left_by_condition,
    moments,
)
from pyro_vae.data.representation import Representation
from pyro_vae.distributions import DiagonalMixture
from pyro_vae.distributions.known import is_known, pinned
from pyro_vae.engine.alike import sparing
from pyro_vae.foundation.abstract import AbstractProgram, context_of, is_own
from pyro_vae.foundation.checks import Number, at_least, checked
from pyro_vae.foundation.errors import InputError
from pyro_vae.foundation.memory import require
from pyro_vae.models.classes import (
    Classes,
    ClassPrior,
    Reads,
    as_vector,
    beside,
    codes,
    reads,
    with_label,
)
from pyro_vae.models.conditionals.base import Guide
from pyro_vae.models.conditionals.exact import Exact
from pyro_vae.models.conditionals.layered import Layers, joint
from pyro_vae.models.finite import OfClass
from pyro_vae.models.layers import above, beside_each_other, places, sites_of
from pyro_vae.models.likelihoods.base import Likelihood, units
from pyro_vae.models.likelihoods.fields import Fields, on_own_scales
from pyro_vae.models.parts import in_html, in_words
from pyro_vae.models.priors import Prior
from pyro_vae.models.program import Batch, Factor, Program, named
from pyro_vae.models.targets import TargetPrior, Targets
from pyro_vae.networks import Network, Standardised
from pyro_vae.networks.fields import FieldDecoder, FieldEncoder
from pyro_vae.networks.views import View

STARTING = 256  # draws by which a start is made
FEWEST = 20  # data that tell whether values repeat
NODES = 20  # of the quadrature over a real target


class Model(Program):
    """The Pyro model `p(z) p(x|z)`: sites `z` and `x` in the plate `data`.

    Where prior or decoder have a `context`, the model is conditional, `p(z|c) p(x|z,c)`, and called with c too.

    Args:
        prior: `p(z)`.
        decoder: any module, `(..., latent_dim) -> (..., channels, *shape)`.
        likelihood: `p(x|z)` from the decoder's output.
        layers: of several layers of latents those below the top, whose prior is `prior`: p(z1|z2), p(z2|z3), ...
        skip: whether layers and x are given all layers above, and not only the next.

    Attributes:
        sites: the names of the latents that are vectors: z, or of several layers z1, z2, ... from the data upwards.
        dims: their lengths.
        context: how many numbers of a condition c it is called with; 0 without one.
        classes: how many values a class y has, whose label c begins with; 0 without one.
        label_width: how many numbers that label takes: K of a class, 1 of a real y; 0 without y.
        fields: what x consists of, where the likelihood is `Fields`; then each field is a site of its own in its place.

    Where x is counted in units of its own (`count_in`), a third site, the factor `units`, makes the density one over
    the numbers as they were stored.
    """

    log_unit: Tensor | None

    def __init__(
        self,
        prior: Prior,
        decoder: nn.Module,
        likelihood: Likelihood,
        *,
        layers: Sequence[nn.Module] = (),
        skip: bool = False,
    ) -> None:
        super().__init__()
        self.prior = prior
        self.layers: Any = nn.ModuleList(layers)  # p(z1|z2), p(z2|z3), ...
        self.skip, self.sites = skip, sites_of(1 + len(layers))
        lengths: Any = (*(layer.latent_dim for layer in self.layers), prior.latent_dim)
        self.dims: tuple[int, ...] = lengths
        self.decoder = decoder
        self.likelihood = likelihood
        self.register_buffer("log_unit", None)
        self.context = max(context_of(prior), context_of(decoder))
        self.class_prior: ClassPrior | TargetPrior | None = None  # p(y)
        self.fields = likelihood.layout if isinstance(likelihood, Fields) else None
        self.of_z = Reads(c=context_of(prior) > 0)
        self.of_x = Reads(c=context_of(decoder) > 0)

    def classify(
        self, prior: ClassPrior | TargetPrior, of_z: Reads, of_x: Reads
    ) -> None:
        """Called once by `VAE` where there is a y: p(y), and which factors are given it."""
        self.class_prior, self.of_z, self.of_x = prior, of_z, of_x

    @property
    def latent_dim(self) -> int:
        """The length of all layers of latents together; 0 where a class is all that there is."""
        return sum(self.dims)

    @property
    def silent(self) -> tuple[str, ...]:
        return () if self.latent_dim else self.sites

    @property
    def classes(self) -> int:
        return self.class_prior.size if isinstance(self.class_prior, ClassPrior) else 0

    @property
    def label_width(self) -> int:
        return 0 if self.class_prior is None else self.class_prior.size

    def standardised(self, labels: Tensor) -> Tensor:
        """Real labels as they are stored in the units of y."""
        assert isinstance(self.class_prior, TargetPrior)
        return self.class_prior.units.standardised(labels)

    @property
    def each(self) -> Tensor:
        """A number for each class, in the type of the parameters; one of a real y."""
        like = next(p for p in self.parameters() if p.is_floating_point())
        return like.new_zeros(self.label_width)

    def factors(self) -> Sequence[Factor]:
        *before, x = self._factors()
        if self.fields is None:
            return [*before, x]
        fields = [
            Factor(name, x.given, partial(self._given_field, i))
            for i, name in enumerate(self.fields.names)
        ]
        return [*before, *fields]

    def _factors(self) -> Sequence[Factor]:
        """The factors with x as one site."""
        of_x = (*self.read_by_x, *self.of_x.names)
        of_x = (*of_x, "total") if self.likelihood.sized else of_x
        if self.class_prior is None:
            top = Factor(self.sites[-1], self.of_z.names, self.prior)
            below = [self._of_layer(i) for i in reversed(range(len(self.layers)))]
            return [top, *below, Factor("x", of_x, self._given_latents)]
        real = isinstance(self.class_prior, TargetPrior)
        return [
            Factor("y", (), self.class_prior, listed=not real, partly=real),
            Factor("z", self.of_z.names, self._prior_given),
            Factor("x", of_x, self._given_class),
        ]

    @property
    def read_by_x(self) -> tuple[str, ...]:
        """The latents that the decoder is given, from the top down: z, or z1, or with `skip` all."""
        return above(self.sites, -1, skip=self.skip)

    def read_of(self, z: Tensor) -> Tensor:
        """What the decoder is given of the vector of all layers, `(..., latent_dim)`."""
        each = self.by_site(z)
        return beside_each_other([each[site] for site in self.read_by_x])[0]

    def by_site(self, z: Tensor) -> dict[str, Tensor]:
        """The vector of all layers, `(..., latent_dim)`, cut into the latents by their names."""
        return {s: z[..., at] for s, at in places(self.sites, self.dims).items()}

    @property
    def prior_reads_c(self) -> bool:
        """Whether some layer of latents depends on a condition."""
        return any(context_of(part) > 0 for part in (self.prior, *self.layers))

    def _of_layer(self, i: int) -> Factor:
        """`p(z_i | layers above)`."""
        layer, over = self.layers[i], above(self.sites, i, skip=self.skip)
        of_c = ("c",) if context_of(layer) else ()

        def given(*values: Tensor) -> Distribution:
            z = beside_each_other(values[: len(over)])
            return layer(*z, *values[len(over) :])  # type: ignore[no-any-return]

        return Factor(self.sites[i], (*over, *of_c), given)

    def _given_latents(self, *values: Tensor) -> Distribution:
        """`p(x|z)` of the latents that the decoder reads, one after the other, and what else it is given."""
        z, others = self._read(values)
        return self.given(z, *others)

    def _read(self, values: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The latents that a decoder reads as one vector, and what else it is given."""
        count = len(self.read_by_x)
        return beside_each_other(values[:count])[0], values[count:]

    def _prior_given(self, *values: Tensor) -> Distribution:
        """`p(z|y)`, of the batch shape of y; p(z) where it does not depend on y."""
        return self.prior(*self.of_z.context(values, self.each))

    def _given_class(self, z: Tensor, *values: Tensor) -> Distribution:
        """`p(x|z,y)`, of the batch shape of y and z."""
        read = len(self.of_x.names)
        context = self.of_x.context(values[:read], self.each)
        return self.given(z, *context, *values[read:])

    def _given_field(self, i: int, *read: Tensor) -> Distribution:
        """`p(x_i|z)` of the field number i, of the batch shape of z, and of y where there is one."""
        z, values = self._read(read)
        context = values[: 1 if context_of(self.decoder) else 0]
        if self.class_prior is not None:
            context = self.of_x.context(values, self.each)
        likelihood: Any = self.likelihood
        if isinstance(self.decoder, FieldDecoder):
            h = self.decoder.of_field(i, z, *context)
        else:
            h = likelihood.outputs_of_field(i, self.decoder(z, *context))
        return likelihood.of_field(i, h)  # type: ignore[no-any-return]

    def at(self, site: str, x: Batch | None = None, **given: Tensor) -> Distribution:
        """As in `Program`; of several fields x is one site too, which all of them make."""
        if site != "x" or self.fields is None:
            return super().at(site, x, **given)
        return self._factors()[-1].at(self.known(named(x, given)))

    def returned(self, values: Mapping[str, Tensor], last: str) -> Tensor:
        if self.fields is None:
            return values[last]
        return self.fields.together([values[name] for name in self.fields.names])

    def given(self, z: Tensor, *given: Tensor) -> Distribution:
        """`p(x|z)`: `(..., latent_dim)` -> a distribution of batch shape `(...)`, event shape `shape`.

        Of a conditional decoder it is `p(x|z,c)`, c `(batch, context)`. A likelihood with a size is given the total
        count of each datum too, `(batch,)`, or else takes its typical one. Where elements of x may be missing, it is
        the density of those that were seen.
        """
        reads = 1 if context_of(self.decoder) else 0
        p = self.likelihood(self.decoder(z, *given[:reads]), *given[reads:])
        return self.likelihood.partly(p) if self.likelihood.missing else p

    def beside(self, site: str, value: Tensor | None) -> Tensor | None:
        unit = self._log_unit_of(site)
        if unit is None:
            return None
        if not unit.dim() or value is None:
            return -unit.sum()
        seen = -unit.where(~value.isnan(), 0.0)
        return seen.flatten(seen.dim() - unit.dim()).sum(-1)

    def _log_unit_of(self, site: str) -> Tensor | None:
        """The logarithms of the units in which the elements of a site are counted; `None` where it has none."""
        if self.log_unit is None or site == "x":
            return self.log_unit
        if self.fields is None or site not in self.fields.names:
            return None
        unit = self.fields.split(self.log_unit)[site]
        return unit if unit.any() else None

    def knowing(self, p: Any, labels: Tensor) -> Distribution:
        if isinstance(self.class_prior, TargetPrior):
            unit = self.class_prior.log_unit.where(is_known(labels), 0.0)
            pyro.factor("label_unit", -unit)
        return super().knowing(p, labels)

    def known(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The data, and for a likelihood with a size the total count of each datum, the typical one for draws."""
        if self.class_prior is not None:
            values = with_label(values, self.class_prior.size)
        if self.fields is not None and "x" in values:
            values = {**values, **self.fields.split(values["x"])}
        if not self.likelihood.sized or "total" in values:
            return dict(values)
        x = values.get("x")
        total = self.likelihood.typical_total if x is None else self.total(x)
        return {**values, "total": total}

    def total(self, x: Tensor) -> Tensor:
        """The sum over the elements of each datum, `(..., *shape) -> (...)`."""
        return x.flatten(x.dim() - len(self.likelihood.shape)).sum(-1)

    def count_in(self, log_unit: float | Tensor) -> None:
        """Say that x is counted in units whose logarithms add up to `log_unit` over its elements, in nats.

        Where elements of x may be missing it is given for each of them, `(*shape,)`.
        """
        log_units = torch.as_tensor(log_unit)
        if log_units.any():
            self.log_unit = log_units.to(next(self.parameters()))

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        if self.log_unit is None:  # a buffer that only some models have
            self.log_unit = state_dict.get(f"{prefix}log_unit")
        super()._load_from_state_dict(state_dict, prefix, *args)


DECODED = 10_000  # latents at a time


class VAE(AbstractProgram):
    """A variational autoencoder: a model `p(z) p(x|z)` and a guide `q(z|x)`, one module with one `state_dict`.

    Args:
        prior: `p(z)`, for example `StandardNormal(16)`.
        decoder: any module, `(..., latent_dim) -> (..., channels, *shape)`.
        likelihood: `p(x|z)`, for example `Bernoulli((28, 28))`.
        guide: `q(z|x)`, for example `MeanField(encoder, 16)`.
        missing: whether elements of x may be missing.
        layers: of several layers of latents those below the top: `p(z1|z2)`, such as `GaussianLayer`, then `p(z2|z3)`.
            The prior is that of the top, the decoder reads z1, and the guide is `Layered` or a `Ladder`.
        skip: whether layers and decoder are given all layers above, side by side from the top down.
        classes: a class y beside z, see `Classes`, or a real one, see `Targets`.

    A pair is conditional, `p(z|c) p(x|z,c)` and `q(z|x,c)`, where prior, decoder or encoder read a `context`, as
    `MLP((16,), (1, 28, 28), context=10)` does. Then each verb takes c beside x, `(N, context)`; where it says a class,
    whole numbers `(N,)` will do.

    With `missing` an element of x may be nan. Densities are then those of what was seen, `p(x_seen|z)`, and the encoder
    sees the element's mean in its place; one made for `with_mask(shape)` sees the mask too.

    Raises:
        InputError: for a prior that cannot be made from the guide (`VampPrior`), or parts that read conditions of
            different lengths.

    Swapping a part is one word; everything else stays:

    >>> from pyro_vae import MLP, Bernoulli, FullRank, StandardNormal
    >>> encoder, decoder = MLP((28, 28)), MLP((16,), (1, 28, 28))
    >>> vae = VAE(StandardNormal(16), decoder, Bernoulli((28, 28)), FullRank(encoder, 16))
    >>> vae.sample(3).shape
    torch.Size([3, 28, 28])
    """

    guide: Guide  # or any module with `encoder`, `posterior` and a Pyro program as its call
    # After how many epochs parts of p(z) are sought among the codes, see `Classes` and `GaussianMixture`.
    seek_after: int | None
    # In how many steps labelled data are learned alone at first, see `Classes`.
    labels_first: int | None
    # Whether labels are spread to data that have none, see `Classes`.
    spread: bool | None

    def __init__(
        self,
        prior: Prior,
        decoder: nn.Module,
        likelihood: Likelihood,
        guide: nn.Module,
        *,
        missing: bool = False,
        classes: Classes | Targets | None = None,
        layers: Sequence[nn.Module] = (),
        skip: bool = False,
    ) -> None:
        super().__init__()
        # A field can always be left out.
        likelihood.missing = missing or isinstance(likelihood, Fields)
        self.model = Model(prior, decoder, likelihood, layers=layers, skip=skip)
        self.guide = guide  # type: ignore[assignment]
        self.seek_after = getattr(prior, "start", 0)
        self.labels_first, self.spread = 0, False
        self._check_layers(classes)
        if classes is None:
            self._agree()
        else:
            self._classify(classes)
        for part, other in ((prior, guide), (guide, self.model)):
            if isinstance(part, Prior | Guide | Layers):
                part.connect(other)  # type: ignore[arg-type]
        self._made = {name: _beginning(p) for name, p in self.named_parameters()}

    def __repr__(self) -> str:
        """Its formula, members and sizes; the tree of modules is `repr(vae.model)` and `repr(vae.guide)`."""
        return in_words(self)

    def _repr_html_(self) -> str:
        return in_html(self)

    def save(self, path: str | Path) -> None:
        """Write the pair to a new folder, or a file that ends in `.safetensors`: `pyro_vae.save(vae, path)`.

        `pyro_vae.load(path)` gives it back. Nothing is pickled.

        Raises:
            InputError: as `pyro_vae.save`.
        """
        pyro_vae.save(self, path)

    def _check_layers(self, classes: Any) -> None:
        """Raise `InputError` where model and guide do not have the same layers of latents."""
        of_model, own = self.model.dims, isinstance(self.guide, Layers)
        if own and classes is not None:
            raise InputError(
                "a pair of several layers of latents has no y: leave classes out"
            )
        if not own and len(of_model) > 1:
            raise InputError(
                f"the model has {len(of_model)} layers of latents and the guide {type(self.guide).__name__} one: take "
                "Layered, Ladder or ExactLayers"
            )
        if own and self.guide.dims != of_model:
            raise InputError(
                f"the layers z1, z2, ... of the guide have the lengths {self.guide.dims} and those of the model "
                f"{of_model}: give VAE layers=[p(z1|z2), ...]"
            )

    def _agree(self) -> None:
        """Let the model know of a condition that some part reads, once all that read one read the same."""
        parts: dict[str, Any] = {
            "the prior": self.model.prior,
            "the decoder": self.model.decoder,
        }
        parts["the guide's encoder"] = getattr(self.guide, "encoder", self.guide)
        parts |= {f"the layer z{i + 1}": p for i, p in enumerate(self.model.layers)}
        read = {
            name: width for name, part in parts.items() if (width := context_of(part))
        }
        if len({*read.values()}) > 1:
            lengths = " and ".join(f"{name} {width}" for name, width in read.items())
            raise InputError(
                f"a condition c has one length, and of it read {lengths} numbers"
            )
        if self.model.likelihood.sized and self.model.likelihood.missing:
            raise InputError(
                "where counts are missing their total is not observed: leave size='observed' out"
            )
        self.model.context = max(read.values(), default=0)

    def _classify(self, classes: Classes | Targets) -> None:
        """Let model and guide know of a y, and of what each part reads."""
        if not isinstance(self.guide, Guide):
            raise InputError(
                f"classes go with a Guide of this package, and {type(self.guide).__name__} is none"
            )
        size, classifier = classes.size, classes.classifier
        prior, decoder = self.model.prior, self.model.decoder
        width = classifier.context
        of_z = reads("the prior", prior, size, width, y="z" in classes.of)
        of_x = reads("the decoder", decoder, size, width, y="x" in classes.of)
        of_guide = Reads(y=True, c=width > 0)
        if not self.guide.asks_model:
            of_guide = reads("the guide's encoder", self.guide, size, width)
        self.model.classify(classes.prior, of_z, of_x)
        self.guide.classify(classifier, of_guide)
        self.model.context = size + width
        if "z" in classes.of:
            self.seek_after = classes.start
        if isinstance(classes, Classes):
            self.labels_first = classes.labels_first
            self.spread = self._may_spread(classes)

    def _may_spread(self, classes: Classes) -> bool | None:
        """Whether labels are spread, as `classes` asks; `InputError` where it asks in vain."""
        several = isinstance(classes.classifier.network, FieldEncoder)
        if not several and not isinstance(self.guide, Exact):
            return classes.spread
        if classes.spread:
            what = "data of several fields" if several else "an exact q(y|x)"
            raise InputError(
                f"spread=True looks for neighbours by what the network of q(y|x) sees of x, and goes not with {what}: "
                "leave spread out"
            )
        return False

    @property
    def context(self) -> int:
        """How many numbers of a condition c the pair reads; 0 where it is not conditional."""
        return self.model.context

    @property
    def classes(self) -> int:
        """How many values a class y has, whose label c begins with; 0 without one."""
        return self.model.classes

    @property
    def label_width(self) -> int:
        """How many numbers of c the label of y takes: K of a class, 1 of a real y; 0 without y."""
        return self.model.label_width

    def _data(self, x: Any, c: Any) -> dict[str, Tensor]:
        """What programs are called with, by name, from data of any kind and their condition."""
        both = beside_condition(self.model, x, c)
        return named(as_data(self.model, both, values=False)[:], {})

    def condition(self, c: Any, n: int) -> tuple[Tensor, ...]:
        """`c` as the pair reads it, `(n, context)`, repeated where it is one for all; nothing without a context.

        Raises:
            InputError: where it is missing, of another length, or for another number of data.
        """
        return condition_for(self.model, c, n)

    def with_prior(self, prior: Prior) -> "VAE":
        """A copy of the pair with another prior `p(z)`, of several layers of the top; all else is as it was.

        `fit(copy, data, only="prior")` trains that prior on the codes of the data and nothing else.

        Args:
            prior: of the same length, and of a class y where that of the pair is.

        Raises:
            InputError: for a prior that does not fit the guide, or what z is given.

        >>> from pyro_vae import MLP, Bernoulli, MeanField, StandardNormal
        >>> from pyro_vae.priors import Flow
        >>> vae = VAE(StandardNormal(2), MLP((2,), (1, 4)), Bernoulli((4,)), MeanField(MLP((4,)), 2))
        >>> vae.with_prior(Flow(2)).sample(3).shape
        torch.Size([3, 4])
        """
        made = copy.deepcopy(self)
        model, guide, old = made.model, made.guide, made.model.prior
        if prior.latent_dim != old.latent_dim:
            raise InputError(
                f"the prior has latent_dim={prior.latent_dim}, and the codes of the pair have the length "
                f"{old.latent_dim}"
            )
        model.prior = prior
        if isinstance(guide, Guide | Layers):
            guide.check_prior(prior)
        if model.class_prior is None:
            made._agree()
        else:
            width, of_y = guide.classifier.context, model.of_z.y  # type: ignore[union-attr]
            model.of_z = reads("the prior", prior, model.label_width, width, y=of_y)
        prior.connect(guide)
        prior.to(self._type).train(self.training)
        made.seek_after = 0
        made._made = {
            name: _beginning(p) if name.startswith("model.prior.") else made._made[name]
            for name, p in made.named_parameters()
        }
        return made

    def fresh(self, part: str) -> bool:
        """Whether the weights of `"model"` or `"guide"` are as they were made: not trained, loaded, or set from data.

        Seen from their first values. A decoder that was trained before has a bias in its last layer. The `"prior"` of
        the model can be asked for alone.
        """
        if part == "prior":
            return self._as_made("model.prior", self.model.prior)
        module: nn.Module = getattr(self, part)
        if not [*module.parameters()]:  # a guide that follows the model
            return self.fresh("model")
        if not all(p.requires_grad for p in module.parameters()):
            return False
        layer = (
            getattr(self.model.decoder, "output_layer", None)
            if part == "model"
            else None
        )
        if layer is not None and layer.bias is not None and bool(layer.bias.any()):
            return False
        return self._as_made(part, module)

    def _as_made(self, place: str, module: nn.Module) -> bool:
        """Whether the parameters of a module of the pair, which has this place in it, begin as they were made."""
        now = {f"{place}.{k}": _beginning(p) for k, p in module.named_parameters()}
        made = {name: p.to(now[name]) for name, p in self._made.items() if name in now}
        return made.keys() == now.keys() and all(
            torch.equal(made[k], p) for k, p in now.items()
        )

    def forward(self, x: Batch, c: Any = None) -> Distribution:
        """`p(x'|z)` at one draw `z ~ q(z|x)`: encode, sample, decode."""
        data = named(x, {} if c is None else {"c": c})
        z, given = self._latents(data)
        return self.decode(z, given, total=self._total(data))

    def _latents(self, data: dict[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """A draw of z from the guide, and the condition with it: a y that was not known is drawn too."""
        if isinstance(self.guide, Layers):
            return self.guide.at_all(data).rsample(), data.get("c")
        if not self.label_width:
            return self.guide(data), data.get("c")
        known, y = self.guide.known(data), self.class_given(data).sample()
        q = self.guide.factors()[1].at({**known, "y": y})
        z = q.rsample() if q.has_rsample else q.sample()
        return z, self._with_rest(y, known)

    def _with_rest(self, y: Tensor, known: Mapping[str, Tensor]) -> Tensor:
        """The condition that begins with y, `(N, context)`."""
        rest = [known["c"]] if "c" in known else []
        return beside(as_vector(y, self._each), *rest)

    def _total(self, data: Mapping[str, Tensor]) -> Tensor | None:
        """The total count of each datum, where the likelihood is given it."""
        return self.model.total(data["x"]) if self.model.likelihood.sized else None

    def encode(self, x: Any, c: Any = None) -> Distribution:
        """`q(z|x)`: `(batch, *shape)` -> a distribution of batch shape `(batch,)`, event shape `(latent_dim,)`.

        Of several layers it is that of all of them side by side, the top first, as `Ancestral`.
        """
        return self.encoded(self._data(x, c))

    def encoded(self, data: Mapping[str, Tensor]) -> Distribution:
        """`encode` of data as the guide takes them, `{"x": ..., "c": ...}`, which are not looked at."""
        guide = self.guide
        if isinstance(guide, Layers):
            return guide.at_all(data)
        if self.label_width:
            return self._mixture(data)
        if isinstance(guide, Guide):
            return guide.at("z", data)
        more = [data["c"]] if context_of(guide.encoder) else []
        return guide.posterior(guide.encoder(data["x"], *more))

    def _mixture(self, data: Mapping[str, Tensor]) -> Distribution:
        """`q(z|x) = sum_y q(y|x) q(z|x,y)`; where the label is known, `q(z|x,y)`.

        Over a real y the sum is an integral, by Gauss and Hermite's rule.
        """
        if not self.guide.reads.y:
            return self.guide.factors()[1].at(self.guide.known(data))
        each = self._each
        every, weights = self._values_of_y(self.class_given(data))
        values = {**self.guide.known(data), "y": every}
        given = tuple(values[name] for name in self.guide.reads.names)
        context = self.guide.reads.context(given, each)
        parameters = self.guide.parameters_given(values["x"], *context)
        parts = self.guide.family(parameters.transpose(0, 1))  # (batch, K)
        base = getattr(parts, "base_dist", None)
        if isinstance(base, dist.Normal):
            return DiagonalMixture(weights.logits, base.loc, base.scale)
        return dist.MixtureSameFamily(weights, parts, validate_args=False)

    def _values_of_y(self, q: Any) -> tuple[Tensor, dist.Categorical]:
        """Values of y that stand for all of q(y|x), `(K, 1 or batch)`, and their probabilities for each datum."""
        if self.classes:
            return torch.arange(self.classes, device=q.logits.device).unsqueeze(-1), q
        nodes, weights = np.polynomial.hermite_e.hermegauss(NODES)
        standard = torch.from_numpy(nodes).to(q.loc).unsqueeze(-1)
        logits = torch.from_numpy(weights).log().to(q.loc)
        logits = logits.expand(q.loc.shape[0], -1)
        parts = dist.Categorical(logits=logits, validate_args=False)
        return q.loc + q.scale * standard, parts

    def class_given(self, data: Mapping[str, Tensor]) -> Any:
        """`q(y|x)` of data as the guide takes them, a point where the label is known."""
        values = self.guide.known(data)
        q = self.guide.factors()[0].at(values)
        if "y" not in values:
            return q
        if self.classes:
            return pinned(q, values["y"])
        known = is_known(values["y"])
        loc = values["y"].where(known, q.loc)
        return dist.Normal(loc, q.scale.where(~known, 0.0), validate_args=False)

    @torch.no_grad()
    def predict(self, x: Any, c: Any = None) -> Tensor:
        """`q(y|x)`: the probability of each class, `(N, K)`; of a real y its mean and standard deviation, `(N, 2)`.

        Where the label is known it is a point. A real y is in the units of the labels that the pair was given.

        Args:
            x: the data.
            c: of a pair that is also given other conditions these, with or without labels.

        Raises:
            InputError: for a pair without classes.
        """
        if not self.label_width:
            raise InputError("this pair has no classes: give VAE classes=Classes(...)")
        q = self.class_given(self._data(x, c))
        if self.classes:
            return q.probs
        assert isinstance(self.model.class_prior, TargetPrior)
        return self.model.class_prior.units.stored(q.loc, q.scale)

    @torch.no_grad()
    def completed(self, x: Any, c: Any = None) -> Tensor:
        """The condition of each datum, `(N, context)`, with the most probable y where the label is not known."""
        data = self._data(x, c)
        q = self.class_given(data)
        y = q.probs.argmax(-1) if self.classes else q.loc
        return self._with_rest(y, self.guide.known(data))

    def decode(
        self, z: Tensor, c: Any = None, *, total: Tensor | None = None
    ) -> Distribution:
        """`p(x|z)`: `(..., latent_dim)` -> a distribution of batch shape `(...)`, event shape `shape`.

        Args:
            z: latents; of several layers all of them side by side, the top first.
            c: of a conditional pair the condition, one for all latents or one for each in their last batch dimension.
            total: for a likelihood with a size the total count of each datum; by default a typical one.

        Raises:
            InputError: for latents of another length, and for a condition that is missing or does not fit.
        """
        z = torch.as_tensor(z, dtype=self._type.dtype, device=self._type.device)
        latent_dim = self.model.latent_dim
        if z.ndim == 0 or z.shape[-1] != latent_dim:
            raise InputError(
                f"z has shape {tuple(z.shape)} and the model takes (..., {latent_dim})"
            )
        given = self.condition(c, z.shape[-2] if z.ndim > 1 else 1)
        totals = () if total is None else (total,)
        read = self.model.read_of(z)
        return self.model.given(read, *self._read_by_decoder(*given), *totals)

    def _read_by_decoder(self, *c: Tensor) -> tuple[Tensor, ...]:
        """What of a condition the decoder reads; `InputError` where it reads a y that is not known."""
        if not c:
            return ()
        reads_y = self.label_width > 0 and self.model.of_x.y
        if reads_y and not is_known(self.model.known({"c": c[0]})["y"]).all():
            if not self.classes:
                raise InputError(
                    "the decoder reads the target of each latent: give c, a number for each"
                )
            raise InputError(
                "the decoder reads the class of each latent: give c, a class from 0 or its label one-hot"
            )
        return self.read_by_decoder(c[0])

    def read_by_decoder(self, c: Tensor) -> tuple[Tensor, ...]:
        """What of a condition, `(N, context)`, the decoder reads: nothing, or one vector."""
        if not self.label_width:
            return (c,) if context_of(self.model.decoder) else ()
        known = self.model.known({"c": c})
        values = tuple(known[name] for name in self.model.of_x.names)
        return self.model.of_x.context(values, self._each)

    @property
    def _each(self) -> Tensor:
        return self.model.each

    @checked
    @torch.no_grad()
    def sample(
        self, n: Annotated[int, at_least(0)], c: Any = None, *, mean: bool = False
    ) -> Tensor:
        """`n` draws from `p(x)`, shape `(n, *shape)`; with `mean=True` the mean of `p(x|z)` at `n` draws of `z`.

        Of a category the most probable stands for the mean, of an ordered scale the median; as in `reconstruct`.

        Args:
            n: how many.
            c: of a conditional pair the condition, one for all draws or one for each: draws from `p(x|c)`.
            mean: whether to return means.

        Raises:
            InputError: for more than memory holds, and for a condition that is missing or does not fit.
        """
        each = math.prod(self.model.likelihood.shape) + self.model.latent_dim
        require(
            2 * self._type.element_size() * n * each,
            f"sample with n={n}",
            "number of draws",
        )
        given, parts = self.condition(c, n), []
        if self.label_width:
            given = (self._with_class(*given),)
        z = self.draw_prior(n, *given)

        def decoded(mean: bool, *some: Tensor) -> tuple[list[Tensor], None]:
            p = self.decode(*some)
            return [self.model.likelihood.typical(p) if mean else p.sample()], None

        # What programs of others change when they are called is not known.
        made = sparing(decoded, self.model) if is_own(self.model) else decoded
        for rows in torch.arange(n).split(DECODED):
            (part,), _ = made(mean, *(some[rows] for some in (z, *given)))
            parts.append(part)
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def draw_prior(self, n: int, *c: Tensor) -> Tensor:
        """`n` draws from `p(z)`, `(n, latent_dim)`; of a conditional prior one for each row of c."""
        if len(self.model.dims) > 1:
            p = self.prior_given(*c)
            rows = len(c[0]) if c and self.model.prior_reads_c else n
            return p.sample() if p.batch_shape else p.sample((rows,))
        if self.label_width and context_of(self.model.prior):
            values = self.model.known({"c": self._with_class(*c)})
            given = (values[name] for name in self.model.of_z.names)
            return self.model._prior_given(*given).sample()
        if context_of(self.model.prior):
            return self.model.prior(*c).sample()
        return self.model.prior().sample((n,))

    def prior_given(self, *c: Tensor) -> Distribution:
        """`p(z)`, of several layers that of all of them side by side, the top first; p(z|c) of a conditional one."""
        model = self.model
        if len(model.dims) > 1:
            values = {"c": c[0]} if c else {}
            return joint(model, values, model.sites, model.dims)
        return model.prior(*c if context_of(model.prior) else ())

    @torch.no_grad()
    def continued(
        self, z: Tensor, top: int, c: Any = None, *, mean: bool = False
    ) -> Tensor:
        """Latents of several layers whose `top` upper ones are kept, and the others made by the model given these.

        Args:
            z: all layers side by side, the top first, `(..., latent_dim)`.
            top: how many layers are kept, from 1 to all.
            c: as in `decode`.
            mean: whether each layer is the mean of `p(z_l|z_{l+1})` in place of a draw.

        Raises:
            InputError: for more layers than there are, or fewer than 1.
        """
        model, count = self.model, len(self.model.dims)
        if not 1 <= top <= count:
            raise InputError(
                f"top={top} keeps so many of {count} layers of latents, from 1 to all"
            )
        where = places(model.sites, model.dims)
        kept = [*where][:top]
        given = self.condition(c, z.shape[-2] if z.ndim > 1 else 1)
        values = {site: z[..., where[site]] for site in kept}
        values |= {"c": given[0]} if given else {}
        for factor in model.factors():
            if factor.site in where and factor.site not in kept:
                p = factor.at(values)
                values[factor.site] = p.mean if mean else p.sample()
        return torch.cat([values[site] for site in where], -1)

    def _with_class(self, c: Tensor) -> Tensor:
        """A condition, `(n, context)`, with a y drawn from p(y) where it has none."""
        assert self.model.class_prior is not None
        p, y = self.model.class_prior(), codes(c[:, : self.label_width])
        real = not self.classes
        y = y.where(is_known(y), p.sample(y.shape)) if real else pinned(p, y).sample()
        return beside(as_vector(y, self._each), c[:, self.label_width :])

    @torch.no_grad()
    def reconstruct(
        self, x: Any, c: Any = None, *, to: Any = None, top: int | None = None
    ) -> Tensor:
        """The mean of `p(x'|z)` at one draw `z ~ q(z|x)`: `(batch, *shape) -> (batch, *shape)`.

        Args:
            x: the data.
            c: of a conditional pair their condition.
            to: another condition to decode with: x as it would be under it (style transfer).
            top: of several layers how many upper ones are kept; those below are drawn from the model again.
        """
        data = self._data(x, c)
        z, given = self._latents(data)
        if top is not None:
            z = self.continued(z, top, given)
        if to is not None and given is not None:
            (other,) = self.condition(to, len(z))
            given = other.where(~other.isnan(), given)
        p = self.decode(z, given, total=self._total(data))
        return self.model.likelihood.typical(p)

    @checked
    @torch.no_grad()
    def posterior_mean(self, x: Any, c: Any = None, *, draws: Number = 100) -> Tensor:
        """`E[z|x]` under the guide, `(batch, latent_dim)`: in closed form, or by `draws` draws where there is none."""
        q = self.encode(x, c)
        try:
            return q.mean
        except NotImplementedError:
            most = max(1, 10 * DECODED // max(1, q.batch_shape.numel()))
            pieces = (min(most, draws - done) for done in range(0, draws, most))
            total = torch.zeros(())
            for count in pieces:
                total = total + q.sample((count,)).mean(0) * (count / draws)
            return total

    def meet_labels(self, labels: Tensor) -> None:
        """Count a real y in the deviation of these labels around their mean, unless its units were set before.

        Args:
            labels: `(N,)`, as they are stored, nan where there is none.
        """
        prior = self.model.class_prior
        if isinstance(prior, TargetPrior):
            prior.units.meet(labels)
            prior.count_in(0.0)

    @property
    def _type(self) -> Tensor:
        return next(p for p in self.parameters() if p.is_floating_point())

    @torch.no_grad()
    def start(self, x: Any) -> None:
        """Set what is still `fresh` from the data `x`, `(N, *shape)`, as the training program does; `fit` calls it.

        Reals beyond [0, 1] count as columns on scales of their own.
        """
        data = as_data(self.model, x)
        x, c = fields_of(data)
        new_model, new_guide = self.fresh("model"), self.fresh("guide")
        if not new_model and not new_guide:
            return
        if new_model:
            self._bound(x)
        mean, std = moments(x)
        n, wanted = len(x), self.model.prior.examples
        real = Representation.of(x[: min(n, SAMPLE)]) is Representation.REAL
        looked_at = self.model.likelihood.looked_at
        some = x[evenly(looked_at, n)] if looked_at else None
        mean, std = self.model.likelihood.middle(mean, std, some)
        if new_guide:
            self._start_guide(mean, std, standardise=real, some=some)
        if new_model:
            examples = data[evenly(wanted, n)] if wanted else None
            given = None if c is None else data[evenly(SAMPLE, n)]
            self._start_model(
                mean, std, standardise=real, examples=examples, given=given, some=some
            )

    def _bound(self, x: Any) -> None:
        """Keep the scale of a density above half a step of rounded columns; warn where it can grow without end."""
        from pyro_vae.data.marginals import ROWS, Columns
        from pyro_vae.data.units import each

        likelihood = self.model.likelihood
        dense = likelihood.dense
        if dense == [] or not isinstance(x, Tensor) or len(x) < FEWEST:
            return
        few = x[evenly(ROWS, len(x))]
        columns = Columns(few.cpu().numpy(), None, dense)
        if any(columns.floors):
            likelihood.keep_above(
                each(columns.floors, x[0], x.dtype).expand(x[0].shape)
            )
        if doubt := columns.doubt():
            warnings.warn(doubt, DataWarning, stacklevel=4)

    @torch.no_grad()
    def initialise(
        self,
        mean: Tensor,
        std: Tensor,
        *,
        standardise: bool = False,
        examples: Batch | None = None,
        given: Mapping[str, Tensor] | None = None,
        some: Tensor | None = None,
    ) -> None:
        """Start from the data's `mean` and standard deviation `std`, each of shape `shape`, instead of from zero.

        Sets the decoder's last layer (where it is a `Network` that has one), the likelihood's scale, and the units of a
        `Standardised` encoder: one for all elements, or with `standardise`, for elements on scales of their own, one
        for each. Then the decoder works in standard deviations too; p(x|z) stays a density over x as it is. A
        `VampPrior` takes `examples`, `(n, *shape)`, as its pseudo-inputs; of a conditional pair they are x and c, which
        also wants to be `given` some of the data with their conditions: its likelihood starts as wide as what a linear
        regression on c leaves of them; without any, c counts as 0. A likelihood that asks for `examples` of its own,
        such as `Columns`, looks at `some` of the training data.
        """
        mean, std = self.model.likelihood.middle(mean, std, some)
        self._start_guide(mean, std, standardise=standardise, some=some)
        self._start_model(
            mean,
            std,
            standardise=standardise,
            examples=examples,
            given=given,
            some=some,
        )

    def _start_guide(
        self, mean: Tensor, std: Tensor, *, standardise: bool, some: Tensor | None
    ) -> None:
        guide: Any = self.guide
        bodies = guide.bodies if hasattr(guide, "bodies") else [guide.encoder]
        for encoder in bodies:
            if isinstance(encoder, FieldEncoder):
                self._start_fields(encoder, mean, std, some, standardise)
            elif isinstance(encoder, Standardised):
                _count_in(encoder, mean, std, some, standardise=standardise)

    def _start_fields(
        self,
        encoder: FieldEncoder,
        mean: Tensor,
        std: Tensor,
        some: Tensor | None,
        standardise: bool,
    ) -> None:
        """Let the network of each field count in the units of its own data."""
        likelihood: Any = self.model.likelihood
        layout = encoder.layout
        few = [None] * len(layout.names) if some is None else layout.parts(some)
        each = zip(
            likelihood.members, layout.parts(mean), layout.parts(std), strict=True
        )
        for body, seen, (member, m, s) in zip(encoder.bodies, few, each, strict=True):
            own = standardise if seen is None else on_own_scales(member, seen)
            _count_in(body, m, s, seen, standardise=own)

    def _start_model(
        self,
        mean: Tensor,
        std: Tensor,
        *,
        standardise: bool,
        examples: Batch | None,
        given: Mapping[str, Tensor] | None,
        some: Tensor | None,
    ) -> None:
        likelihood, decoder = self.model.likelihood, self.model.decoder
        if given is not None and self.model.of_x.c:
            known = given["c"][:, self.label_width :]
            std = left_by_condition(given["x"], known, std)
        if some is not None:
            likelihood.meet(some)
        likelihood.initialise(mean, std, standardise=standardise)
        if examples is not None:
            self.model.prior.initialise(*fields_of(examples))
        h = likelihood.starting_output(mean, std)
        decoders: Any = [(decoder, likelihood, h)]
        if isinstance(decoder, FieldDecoder) and isinstance(likelihood, Fields):
            assert h is not None
            outputs = decoder.layout.parts(h)
            decoders = zip(decoder.networks, likelihood.members, outputs, strict=True)
        for network, member, output in decoders:
            ours = isinstance(network, Network | OfClass)
            if ours and member.output_spread is not None:
                c = self._starting_conditions(given)
                z = self.model.read_of(self.draw_prior(STARTING, *c))
                network.set_output_spread(
                    member.output_spread, z, *self._read_by_decoder(*c)
                )
            if ours and output is not None:
                network.set_output_bias(output)

    def _starting_conditions(
        self, given: Mapping[str, Tensor] | None
    ) -> tuple[Tensor, ...]:
        """Conditions for `STARTING` draws, those of some data or 0, with classes from p(y)."""
        if not self.context:
            return ()
        nothing = self._type.new_zeros(1, self.context)
        contexts = _repeated(nothing if given is None else given["c"]).clone()
        contexts[:, : self.label_width] = math.nan
        (c,) = self.condition(contexts, STARTING)
        return (self._with_class(c),) if self.label_width else (c,)


def _count_in(
    encoder: Any, mean: Tensor, std: Tensor, some: Tensor | None, *, standardise: bool
) -> None:
    """Set the units of an encoder from its data's mean and standard deviation, or from `some` of them."""
    view, of_mean, of_std = encoder.view, mean, std
    if isinstance(view, View):
        if some is None:
            raise InputError(
                "columns of mixed kinds start from data: give initialise some=<some of them>"
            )
        shift, spread, of_mean = view.units(some)
    else:
        if view is not None:
            of_mean, of_std = view.moments(mean, std, some)
        shift, spread = units(of_mean, of_std, standardise=standardise)
    encoder.count_in(shift, spread, of_mean)


def _repeated(c: Tensor) -> Tensor:
    """Conditions for `STARTING` draws, spread evenly over these, or these over and over."""
    return c[evenly(STARTING, len(c))][torch.arange(STARTING) % len(c)]


def _beginning(parameter: Tensor) -> Tensor:
    return parameter.detach().flatten()[:8].clone()
