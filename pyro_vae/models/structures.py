"""Structures: which sites a model and its guide have, and how both are made of parts."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from torch import nn

from pyro_vae.foundation.abstract import context_of
from pyro_vae.foundation.checks import Count, NotNegative, Whole
from pyro_vae.foundation.errors import InputError
from pyro_vae.foundation.sizes import Declared
from pyro_vae.models import formulas
from pyro_vae.models.classes import Classes
from pyro_vae.models.conditionals.base import Guide
from pyro_vae.models.conditionals.exact import Exact
from pyro_vae.models.conditionals.exact_layers import ExactLayers, is_exact
from pyro_vae.models.conditionals.gaussian import MeanField
from pyro_vae.models.conditionals.layered import Ladder as LadderGuide
from pyro_vae.models.conditionals.layered import Layered, Layers
from pyro_vae.models.finite import NoVector, OfClass
from pyro_vae.models.layers import (
    WARM_UP,
    Below,
    GaussianLayer,
    above,
    check_dims,
    sites_of,
)
from pyro_vae.models.likelihoods.base import Likelihood
from pyro_vae.models.likelihoods.fields import Fields
from pyro_vae.models.priors import Prior
from pyro_vae.models.targets import WEIGHT as WEIGHT_OF_REAL
from pyro_vae.models.targets import Targets
from pyro_vae.models.vae import VAE
from pyro_vae.networks import features
from pyro_vae.networks.base import Shape, with_mask
from pyro_vae.networks.fields import FieldDecoder, FieldEncoder

TOP = 10  # latents of the top of several layers, unless said otherwise


class Bodies(NamedTuple):
    """How the networks of a field are made, where they are others than those of the rest.

    Attributes:
        encoder: `shape, context=0 -> network`.
        decoder: `latent_dim, output_shape, context=0 -> network`.
    """

    encoder: Callable[..., nn.Module]
    decoder: Callable[..., nn.Module]


class Parts(NamedTuple):
    """What a structure is filled with: functions that make each part in the size that a factor needs.

    Attributes:
        prior: `latent_dim, context=0 -> p(z)`.
        encoder: `shape, context=0 -> network`.
        decoder: `latent_dim, output_shape, context=0 -> network`.
        likelihood: `shape -> p(x|.)`.
        guide: `encoder, latent_dim -> q(z|.)`.
        context: the length of the condition, which prior and decoder are given.
        of_encoder: how much of it the encoder is given, all or nothing.
        missing: whether elements of the data may be missing; then the encoder reads a mask beside them.
        of_fields: by the name of a field how its networks are made; all others as `encoder` and `decoder`. Of several
            layers z2, z3, ... name those between a layer of latents and the one below.
        between: how networks between layers are made that are not named.
        guides: by the name of a layer its guide, where it is another than `guide`.
        priors: by the name of a layer its prior given the layer above, `latent_dim, context -> p(z|.)`.
    """

    prior: Callable[..., Prior]
    encoder: Callable[..., nn.Module]
    decoder: Callable[..., nn.Module]
    likelihood: Callable[[Shape], Likelihood]
    guide: Callable[[nn.Module, Count], Guide]
    context: int = 0
    of_encoder: int = 0
    missing: bool = False
    of_fields: Mapping[str, Bodies] = MappingProxyType({})
    between: Bodies | None = None
    guides: Mapping[str, Callable[..., Guide]] = MappingProxyType({})
    priors: Mapping[str, Callable[..., Prior]] = MappingProxyType({})

    def network(self, likelihood: Likelihood, context: int) -> nn.Module:
        """The body of an encoder: one network, or of several fields one for each."""
        if not isinstance(likelihood, Fields):
            return self.encoder(self._seen(likelihood), context=context)
        layout, networks = likelihood.layout, {}
        for name, member in zip(layout.names, likelihood.members, strict=True):
            make, _ = self.of_fields.get(name, (self.encoder, self.decoder))
            networks[name] = make(self._seen(member), context=context)
        shapes = dict(zip(layout.names, layout.shapes, strict=True))
        return FieldEncoder(networks, shapes, shape=likelihood.shape)

    def output(
        self, likelihood: Likelihood, latent_dim: Count, context: int
    ) -> nn.Module:
        """The decoder: one network, or of several fields one for each."""
        if not isinstance(likelihood, Fields):
            return self.decoder(latent_dim, likelihood.output_shape, context=context)
        networks = {}
        for name, member in zip(likelihood.names, likelihood.members, strict=True):
            _, make = self.of_fields.get(name, (self.encoder, self.decoder))
            networks[name] = make(latent_dim, member.output_shape, context=context)
        return FieldDecoder(networks)

    def below(self, site: str) -> Bodies:
        """How the networks between a layer of latents and the one below are made."""
        usual = self.between or Bodies(self.encoder, self.decoder)
        return self.of_fields.get(site, usual)

    def _seen(self, likelihood: Any) -> Shape:
        """What a network is given of a datum, or of a field."""
        seen: Shape = likelihood.seen_shape
        return with_mask(likelihood.shape, seen) if self.missing else seen


class Structure(Declared, ABC):
    """The formula of a pair, such as `p(z) p(x|z); q(z|x)`: a class for each, its docstring begins with it.

    To write one: take what it needs as keyword arguments, and make the pair from `Parts`.

    Attributes:
        prior: the prior that is taken where none is asked for.
        classes: how many values a class y has; 0 where there is none. Its label then stands first in a condition.
        real: whether y is a real number, whose label stands there.
        reads_labels: whether labels are taken for classes without being asked for.
        fields: the names that the formula gives to several fields; empty where it says x, which any data are.
        dims: of several layers of latents their lengths, that next to the data first; empty where z is one vector.
        vector: whether there is a vector z, or layers.
    """

    prior = "StandardNormal()"
    classes: int = 0
    real = False
    reads_labels = False
    fields: tuple[str, ...] = ()
    dims: tuple[int, ...] = ()
    vector = True

    @property
    def label_width(self) -> int:
        """How many numbers of a condition the label of y takes."""
        return 1 if self.real else self.classes

    def usual_objective(self, guide: Any, epochs: int) -> str:
        """The objective that is taken where none is asked for, in a run of so many epochs with a class of guides."""
        warm = self.dims and not is_exact(guide)
        return f"Annealed(epochs={WARM_UP * epochs:g})" if warm else "ELBO()"

    @abstractmethod
    def build(self, parts: Parts, shape: Shape, latent_dim: Count) -> VAE:
        """The pair for data of `shape`, with fresh weights; random numbers are drawn part by part, in one order."""


class Vae(Structure):
    """`p(z) p(x|z); q(z|x)`: one vector of latents, one tensor of data.

    Source: Kingma & Welling 2013, Auto-Encoding Variational Bayes.
    """

    def build(self, parts: Parts, shape: Shape, latent_dim: Count) -> VAE:
        return _built(parts, shape, latent_dim)


class _Classed(Structure):
    """What the structures with a class y share.

    Attributes:
        of: the sites of p that depend on y.
        guided: whether q(z|x) depends on it.
        weight, uniform, start, labels_first, spread: as in `Classes`.
    """

    of: tuple[str, ...] = ()
    guided = True
    weight: float | None
    uniform: bool
    start: int | None = 0
    labels_first: int | None = None
    spread: bool | None = None

    def build(self, parts: Parts, shape: Shape, latent_dim: Count) -> VAE:
        return _built(parts, shape, latent_dim, self)


class Labelled(_Classed):
    """`p(y) p(z) p(x|z,y); q(y|x) q(z|x,y)`: a class that labels name, where there are some (M2), or a real target.

    What is no label's stays for z: under one z, another y is another class in the same style.

    Args:
        classes: how many; the training program counts the labels.
        weight: alpha, by which `log q(y|x)` of a labelled datum is added to what is maximised; by default 50, under the
            guide `Exact` 0, for a real target 1.
        uniform: whether all classes are equally likely, or p(y) is learned.
        labels_first: in how many steps the labelled data are learned alone at first; 0: none, by default 200 where
            fewer than one in twenty of the data has a label.
        spread: whether labels are given to data that have none, by their nearest neighbours, and count as known in
            training; by default where fewer than one in ten of the data has one, if four in five of those come out
            right where they are held back.
        target: what y is, `'class'` or `'real'`: a number with p(y) = N(0, 1) in units of the labels' deviation. Then
            there are no classes.

    Source: Kingma, Rezende, Mohamed & Welling 2014, Semi-Supervised Learning with Deep Generative Models.
    """

    reads_labels = True
    of = ("x",)

    def __init__(
        self,
        *,
        classes: Count = 10,
        weight: NotNegative | None = None,
        uniform: bool = True,
        labels_first: Whole | None = None,
        spread: bool | None = None,
        target: Literal["class", "real"] = "class",
    ) -> None:
        self.real = target == "real"
        if self.real and not uniform:
            raise InputError(
                "uniform=False learns p(y) of classes, and of target='real' it is N(0, 1): leave uniform out"
            )
        if self.real and spread:
            raise InputError(
                "spread=True gives classes to data that have none, and target='real' has no classes: leave spread out"
            )
        self.classes = 0 if self.real else classes
        self.weight = WEIGHT_OF_REAL if self.real and weight is None else weight
        self.uniform, self.labels_first, self.spread = uniform, labels_first, spread


class Clusters(_Classed):
    """`p(y) p(z|y) p(x|z); q(y|x) q(z|x,y)`: a class that names a cluster of latents (GMVAE).

    Labels are not looked at, unless some are asked for; then these clusters are called by them.

    Args:
        classes: how many clusters.
        weight: alpha, as in `Labelled`, for data with labels.
        uniform: whether all clusters are equally likely, or p(y) is learned.
        start: after how many epochs clusters are sought among the codes, by a mixture of Gaussians; 0: never. By
            default after 2,000 steps, at most half of the run.

    Source: Dilokthanakul et al. 2016, Deep Unsupervised Clustering with Gaussian Mixture Variational Autoencoders; in
    the form of Shu 2016, Gaussian Mixture VAE: Lessons in Variational Inference, Generative Models, and Deep Nets.
    """

    prior = "Conditional(hidden=())"
    of = ("z",)

    def __init__(
        self,
        *,
        classes: Count = 10,
        weight: NotNegative | None = None,
        uniform: bool = True,
        start: Whole | None = None,
    ) -> None:
        self.classes, self.weight, self.uniform = classes, weight, uniform
        self.start = start


class _Layered(Structure):
    """What the structures of several layers of latents share.

    Attributes:
        skip: whether each factor of p is given all layers above.
        skip_q: whether each of q is given all layers that were drawn before it, and x.
        downward: whether the guide draws the top first.
        merged: whether the guide is a ladder.
        scale: of each layer below the top, as in `GaussianLayer`.
    """

    skip = False
    skip_q = False
    downward = False
    merged = False
    scale: Literal["network", "element"] = "network"

    def build(self, parts: Parts, shape: Shape, latent_dim: Count) -> VAE:
        return _built_of_layers(parts, shape, self)


class Chain(_Layered):
    """`p(z2) p(z1|z2) p(x|z1); q(z1|x) q(z2|z1)`: layers of latents, each made from the one above (a deep VAE).

    Args:
        dims: the lengths of z1, z2, ...: the first is next to the data, the last is the top, whose prior is `--prior`.
        skip: whether each factor is given all layers above, `p(x|z2,z1)`, and in q the data too, `q(z2|x,z1)`.
        scale: of each layer below the top, `'network'`: made from the layers above as its mean is, or `'element'`: one
            for each latent, the same for all data. With linear networks the guide `Exact` then is the posterior.

    Raises:
        InputError: for fewer than two layers.

    Source: Rezende, Mohamed & Wierstra 2014, Stochastic Backpropagation; Burda, Grosse & Salakhutdinov 2015, Importance
    Weighted Autoencoders (two stochastic layers); Dieng et al. 2019, Avoiding Latent Variable Collapse with Generative
    Skip Models (skip).
    """

    def __init__(
        self,
        *,
        dims: tuple[Count, ...] = (20, 10),
        skip: bool = False,
        scale: Literal["network", "element"] = "network",
    ) -> None:
        check_dims(dims)
        self.dims, self.scale = tuple(dims), scale
        self.skip = self.skip_q = skip


class Ladder(_Layered):
    """`p(z2) p(z1|z2) p(x|z1); q(z2|x) q(z1|x,z2)`: layers of latents, whose guide comes down the model's own path.

    The guide multiplies what the data say of a layer with what the model expects there, see `guides.Ladder`. So upper
    layers stay in use that a `Chain` leaves idle.

    Args:
        dims: as in `Chain`.
        skip: whether the factors of p are given all layers above.
        scale: as in `Chain`.

    Raises:
        InputError: for fewer than two layers.

    Source: Sonderby, Raiko, Maaloe, Sonderby & Winther 2016, Ladder Variational Autoencoders.
    """

    downward = True
    merged = True

    def __init__(
        self,
        *,
        dims: tuple[Count, ...] = (20, 10),
        skip: bool = False,
        scale: Literal["network", "element"] = "network",
    ) -> None:
        check_dims(dims)
        self.dims, self.skip, self.scale = tuple(dims), skip, scale


class Formula(_Classed):
    """`p(z) p(x|z); q(z|x)`, or another formula as text, of x, one vector z or layers, perhaps a class y.

    Where x is several fields they stand in its place by their names, `p(z) p(image|z) p(text|z); q(z|image,text)`, or x
    stands for all of them.

    On the command line it stands by itself, `--structure "p(y) p(z) p(x|z,y); q(y|x) q(z|x)"`. A condition is given to
    all factors by `--condition`, and does not stand in the text.

    Without a z, `p(y) p(x|y); q(y|x)` is a finite mixture, whose q(y|x) is the exact `p(y|x)`.

    Args:
        text: the factors of p, a semicolon, and those of q, each after what it is given.
        classes: how many classes, where there is a y.
        weight: as in `Labelled`.
        uniform: as in `Labelled`.
        start: as in `Clusters`, where z depends on y.
        dims: of layers z1, z2, ... their lengths, as in `Chain`; by default 10 of the top, and twice as many of each
            below.

    Raises:
        InputError: for a text that is no such formula, with a mark under the place.
    """

    def __init__(
        self,
        *,
        text: str = "p(z) p(x|z); q(z|x)",
        classes: Count = 10,
        weight: NotNegative | None = None,
        uniform: bool = True,
        start: Whole | None = None,
        dims: tuple[Count, ...] = (),
    ) -> None:
        found = formulas.read(text)
        self.dims = _dims_of(found.layers, dims)
        self.skip, self.skip_q = found.skip, found.skip_q
        self.downward, self.merged, self.scale = found.downward, False, "network"
        self.classes = classes if found.classes else 0
        self.of, self.guided, self.vector = found.of, found.guided, found.vector
        self.weight, self.uniform = weight, uniform
        self.start = start if "z" in found.of else 0
        self.reads_labels = "x" in found.of
        self.fields = found.fields
        if "z" in found.of:
            self.prior = Clusters.prior

    def build(self, parts: Parts, shape: Shape, latent_dim: Count) -> VAE:
        if self.dims:
            return _built_of_layers(parts, shape, self)
        if not self.vector:
            return _built_of_classes(parts, shape, self)
        return super().build(parts, shape, latent_dim)


def _dims_of(layers: int, dims: tuple[int, ...]) -> tuple[int, ...]:
    """The lengths of so many layers, as they were given or by default; nothing where z is one vector."""
    if not layers:
        if dims:
            raise InputError(
                f"dims={dims} are the lengths of layers z1, z2, ..., and the formula has one z: leave dims out"
            )
        return ()
    if dims and len(dims) != layers:
        raise InputError(
            f"dims={dims} are the lengths of {len(dims)} layers, and the formula has {layers}"
        )
    return dims or tuple(TOP * 2**i for i in reversed(range(layers)))


def _built_of_layers(parts: Parts, shape: Shape, structure: Any) -> VAE:
    """A pair of several layers of latents and x or several fields."""
    dims, skip = structure.dims, structure.skip
    sites, c = sites_of(len(dims)), parts.context
    _check_sites(parts, sites)
    between = {site: parts.below(site) for site in sites[1:]}

    # The parts, in the order in which they draw random numbers.
    likelihood = parts.likelihood(shape)
    _check_fields(structure.fields, likelihood, parts.of_fields, sites[1:])
    guide = _guide_of_layers(parts, likelihood, structure, between)
    read = sum(dims) if skip else dims[0]
    decoder = parts.output(likelihood, read, c)
    layers: list[nn.Module] = []
    for i, size in enumerate(dims[:-1]):
        over = sum(dims[i + 1 :]) if skip else dims[i + 1]
        if sites[i] in parts.priors:
            layers.append(_layer_of(parts, sites[i], size, over))
        else:
            _, make = between[sites[i + 1]]
            outputs = 2 if structure.scale == "network" else 1
            network = make(over, (outputs, size), context=c)
            layers.append(GaussianLayer(network, size, scale=structure.scale))
    prior = parts.prior(dims[-1], context=c)
    return VAE(
        prior,
        decoder,
        likelihood,
        guide,
        missing=parts.missing,
        layers=layers,
        skip=skip,
    )


def _guide_of_layers(
    parts: Parts,
    likelihood: Likelihood,
    structure: Any,
    between: Mapping[str, Bodies],
) -> Layers:
    """`q(z1|x) q(z2|z1)`, or from the top down."""
    dims, c = structure.dims, parts.of_encoder
    sites = sites_of(len(dims))
    if is_exact(getattr(parts.guide, "make", parts.guide)) and not structure.merged:
        if parts.guides:
            raise InputError(
                f"exact is the posterior of all layers: leave the guide of {min(parts.guides)} out"
            )
        return ExactLayers(dims)
    if structure.merged:
        _check_merged(parts)
        bodies, width = [parts.network(likelihood, c)], 0
        for site in sites[1:]:
            width = features(bodies[-1], None)
            make, _ = between[site]
            bodies.append(make((width,), context=0))
        return LadderGuide(bodies, dims, skip=structure.skip)
    guides = []
    for i, site in enumerate(sites):
        make_guide = parts.guides.get(site, parts.guide)
        if structure.downward:
            over = above(sites, i, skip=structure.skip_q)
            more = sum(dims[sites.index(name)] for name in over)
            encoder = parts.network(likelihood, c + more)
        elif i == 0 or structure.skip_q:
            encoder = parts.network(likelihood, c + sum(dims[:i]))
        else:
            make, _ = between[site]
            encoder = make((dims[i - 1],), context=c)
        guides.append(make_guide(encoder, dims[i]))
    return Layered(guides, downward=structure.downward, skip=structure.skip_q)


def _check_merged(parts: Parts) -> None:
    """Refuse guides of other families where Gaussians are merged."""
    made = [getattr(g, "make", g) for g in (parts.guide, *parts.guides.values())]
    others = [cls for cls in made if cls is not MeanField]
    if others:
        name = getattr(others[0], "__name__", "another")
        raise InputError(
            f"a ladder multiplies Gaussians, so its guide is MeanField, and {name} is asked for: leave the guide out, "
            "or take the structure chain"
        )


def _check_sites(parts: Parts, sites: tuple[str, ...]) -> None:
    """Refuse guides or priors of latents that there are not."""
    named = [("guide", name, sites) for name in parts.guides]
    named += [("prior", name, sites[:-1]) for name in parts.priors]
    for what, name, there in named:
        if name == sites[-1] and what == "prior":
            raise InputError(
                f"a prior is given to {name}, whose prior is the one that stands first, without a name"
            )
        if name not in there:
            latents = ", ".join(sites)
            raise InputError(
                f"a {what} is given to {name}, and the latents are {latents}"
            )


def _layer_of(parts: Parts, site: str, size: int, over: int) -> Below:
    """`p(z_l|z_{l+1})` that is named."""
    prior = parts.priors[site](size, context=over + parts.context)
    if not context_of(prior):
        raise InputError(
            f"{site} is given the layers above, and {type(prior).__name__} depends on nothing: take conditional, or "
            "leave it out"
        )
    return Below(prior, context=parts.context)


def _built(
    parts: Parts, shape: Shape, latent_dim: Count, structure: _Classed | None = None
) -> VAE:
    """A pair of one vector z and x or several fields, with a y where a structure has one."""
    size = 0 if structure is None else structure.label_width
    of = () if structure is None else structure.of
    guided = structure is not None and structure.guided
    of_z = parts.context + (size if "z" in of else 0)
    of_x = parts.context + (size if "x" in of else 0)
    of_encoder = parts.of_encoder + (size if guided else 0)

    # The parts, in the order in which they draw random numbers.
    _check_sites(parts, sites_of(1))
    likelihood = parts.likelihood(shape)
    named = () if structure is None else structure.fields
    _check_fields(named, likelihood, parts.of_fields)
    encoder = parts.network(likelihood, of_encoder)
    decoder = parts.output(likelihood, latent_dim, of_x)
    guide = parts.guides.get("z", parts.guide)(encoder, latent_dim)
    prior = parts.prior(latent_dim, context=of_z)
    if "z" in of and not context_of(prior):
        raise InputError(
            f"z depends on the class, and the prior {type(prior).__name__} does not: take conditional, which is the "
            "default of such a structure"
        )
    if structure is None or not size:
        return VAE(prior, decoder, likelihood, guide, missing=parts.missing)
    body = parts.network(likelihood, parts.context)
    classes: Classes | Targets
    classes = (
        Targets(body, weight=structure.weight or 0.0)
        if structure.real
        else _classes_of(structure, body)
    )
    return VAE(
        prior, decoder, likelihood, guide, missing=parts.missing, classes=classes
    )


def _built_of_classes(parts: Parts, shape: Shape, structure: Any) -> VAE:
    """A finite mixture, `p(y) p(x|y)`."""
    size, likelihood = structure.classes, parts.likelihood(shape)
    _check_fields(structure.fields, likelihood, parts.of_fields)
    network = parts.output(likelihood, size, parts.context)
    encoder = parts.network(likelihood, parts.context)
    prior: Any = NoVector()
    return VAE(
        prior,
        OfClass(network, size),
        likelihood,
        Exact(encoder, 0),
        missing=parts.missing,
        classes=_classes_of(structure, encoder),
    )


def _classes_of(structure: Any, network: nn.Module) -> Classes:
    """The class of a structure that has one, with the body of its q(y|x)."""
    return Classes(
        structure.classes,
        network,
        of=structure.of,
        weight=structure.weight,
        uniform=structure.uniform,
        start=structure.start,
        labels_first=structure.labels_first,
        spread=structure.spread,
    )


def _check_fields(
    named: tuple[str, ...],
    likelihood: Likelihood,
    networks: Mapping[str, Bodies],
    layers: tuple[str, ...] = (),
) -> None:
    """Refuse a formula, or networks, with fields that the data do not have."""
    there = likelihood.names if isinstance(likelihood, Fields) else ("x",)
    if named and named != there:
        raise InputError(
            f"the formula has the fields {', '.join(named)} and the data {', '.join(there)}, in this order"
        )
    for name in networks:
        if name not in (*there, *layers):
            below = f" and layers {', '.join(layers)}" if layers else ""
            raise InputError(
                f"a network is given to {name}, and there are the fields {', '.join(there)}{below}"
            )
