"""The description of a VAE that was made in code: its `Spec`, read from how its parts were made."""

import inspect
from typing import Any

import torch
from torch import nn

from pyro_vae.foundation.abstract import context_of, variants
from pyro_vae.foundation.errors import InputError
from pyro_vae.foundation.sizes import given, spelled, written
from pyro_vae.models.conditionals import ExactLayers, Guide, Ladder
from pyro_vae.models.conditionals.exact_layers import is_exact
from pyro_vae.models.conditionals.layered import Layers
from pyro_vae.models.finite import OfClass
from pyro_vae.models.parts import of_site, parts_of
from pyro_vae.models.priors import Prior
from pyro_vae.models.program import formula
from pyro_vae.models.vae import VAE
from pyro_vae.networks.fields import FieldEncoder
from pyro_vae.spec import AXES, FITTED, Spec, build

REMEDY = (
    "give the Spec that build would make it from, save(vae, path, spec=Spec(...)), or keep the weights alone with "
    "torch.save(vae.state_dict(), path)"
)


def described(vae: VAE, spec: Spec | None = None) -> tuple[Spec, VAE]:
    """The `Spec` of a VAE, and a VAE built from it with the same weights.

    Args:
        vae: made by `build`, or put together from members of this package.
        spec: what it is, where that cannot be read from its parts.

    Raises:
        InputError: when no `Spec` describes the VAE, saying which part is in the way.
    """
    chosen = _read(vae) if spec is None else spec
    with torch.random.fork_rng():
        copy = build(chosen)
    parts, others = parts_of(vae), parts_of(copy)
    for name, part in parts.items():
        if _kind(part) != _kind(others[name]):
            raise InputError(
                f"no Spec describes this VAE: its {name} is {_words(part)}, and {chosen} makes {_words(others[name])}; "
                f"{REMEDY}"
            )
    copy.to(dtype=next(vae.parameters()).dtype)
    try:
        copy.load_state_dict(vae.state_dict())
    except RuntimeError as error:
        line = str(error).splitlines()[-1].strip()
        raise InputError(
            f"the weights of this VAE are not those of {chosen}: {line}; {REMEDY}"
        ) from error
    return chosen, copy


def _kind(part: Any) -> tuple[type, dict[str, str]]:
    """What a part is and what it was made from, other parts left out."""
    return type(part), {
        name: spelled(value)
        for name, value in given(part).items()
        if not isinstance(value, nn.Module)
    }


def _words(part: Any) -> str:
    _, arguments = _kind(part)
    return (
        f"{type(part).__name__}({', '.join(f'{k}={v}' for k, v in arguments.items())})"
    )


def _read(vae: VAE) -> Spec:
    """The description that the parts of a VAE give of themselves."""
    parts = parts_of(vae)
    shape, latent_dim = parts["likelihood"].shape, parts["prior"].latent_dim
    axes: dict[str, Any] = {"likelihood": _member("likelihood", parts["likelihood"])}
    if latent_dim:
        axes |= {a: _members(a, parts, vae) for a in ("prior", "guide")}
    if vae.context:
        axes |= {
            "context": vae.context,
            "encoder_context": vae.guide.reads.c
            if vae.label_width
            else context_of(_first(vae)) > 0,
        }
    if len(vae.model.dims) > 1:
        axes["structure"] = _layers(vae)
    if vae.label_width:
        axes["structure"] = _structure(vae)
    axes |= {"missing": True} if _reads_holes(vae) else {}
    return Spec(tuple(shape), latent_dim, network=_network(vae, parts), **axes)


def _first(vae: VAE) -> Any:
    """The encoder that reads the data, or the first of them; of a guide without any the decoder stands for it."""
    if _reads_nothing(vae):
        decoder = vae.model.decoder
        return decoder.network if isinstance(decoder, OfClass) else decoder
    guide: Any = vae.guide
    return guide.bodies[0] if isinstance(guide, Layers) else guide.encoder


def _reads_nothing(vae: VAE) -> bool:
    """Whether the guide has no encoder: it asks the model."""
    guide: Any = vae.guide
    if isinstance(guide, Layers):
        return not guide.bodies
    return isinstance(guide.encoder, nn.Identity)


def _members(axis: str, parts: dict[str, Any], vae: VAE) -> str:
    """The prior or the guide in the grammar of the command line, and those of layers that have others."""
    if axis == "guide" and isinstance(vae.guide, Ladder):
        return "MeanField()"
    if axis == "guide" and isinstance(vae.guide, ExactLayers):
        return "Exact()"
    usual, others = _member(axis, parts[axis]), {}
    for site in vae.model.sites:
        part = parts.get(f"layer {site}" if axis == "prior" else f"guide of {site}")
        if isinstance(part, Prior | Guide):
            others[site] = _member(axis, part)
    told = {s: m for s, m in others.items() if axis == "prior" or m != usual}
    return ", ".join([usual, *(f"{site}={member}" for site, member in told.items())])


def _layers(vae: VAE) -> str:
    """The structure of a pair with several layers, in the grammar of the command line."""
    guide: Any = vae.guide
    dims, skip = vae.model.dims, vae.model.skip
    own = any(getattr(layer, "scale", None) == "element" for layer in vae.model.layers)
    scale = ", scale='element'" if own else ""
    if isinstance(guide, Ladder):
        return f"Ladder(dims={dims}, skip={skip}{scale})"
    if is_exact(guide) or (not guide.downward and guide.skip == skip):
        return f"Chain(dims={dims}, skip={skip}{scale})"
    text = formula(vae.model, guide).replace(",c)", ")").replace("|c)", ")")
    return f"Formula(text={text!r}, dims={dims})"


def _reads_holes(vae: VAE) -> bool:
    """Whether its networks were made for data of which single elements may be missing."""
    encoder = _first(vae)
    if isinstance(encoder, FieldEncoder):
        return any(getattr(body, "masked", False) for body in encoder.bodies)
    return vae.model.likelihood.missing


def _network(vae: VAE, parts: dict[str, Any]) -> str:
    """The network in the grammar of the command line, of several fields one for each."""
    encoder = _first(vae)
    if _reads_nothing(vae):
        return _member("network", encoder)
    if len(vae.model.dims) > 1 and not isinstance(encoder, FieldEncoder):
        usual = _member("network", parts["encoder"])
        each = {s: parts[of_site("encoder", s)] for s in vae.model.sites[1:]}
        others = {s: _member("network", body) for s, body in each.items()}
        told = [f"{s}={member}" for s, member in others.items() if member != usual]
        return ", ".join([usual, *told])
    if not isinstance(encoder, FieldEncoder):
        return _member("network", parts["encoder"])
    return ", ".join(
        f"{name}={_member('network', parts[f'encoder of {name}'])}"
        for name in encoder.layout.names
    )


def _structure(vae: VAE) -> str:
    """The structure of a pair with a y, in the grammar of the command line."""
    of_z, of_x = vae.model.of_z.y, vae.model.of_x.y
    classifier: Any = vae.guide.classifier
    if not vae.classes:
        return f"Labelled(target='real', weight={classifier.weight!r})"
    name, text = "Labelled" if of_x else "Clusters", {}
    if not vae.model.latent_dim:
        name, text = "Formula", {"text": formula(vae.model, vae.guide)}
    elif (of_z and of_x) or not vae.guide.reads.y:
        p_z, p_x = "p(z|y)" if of_z else "p(z)", "p(x|z,y)" if of_x else "p(x|z)"
        q_z = "q(z|x,y)" if vae.guide.reads.y else "q(z|x)"
        name, text = "Formula", {"text": f"p(y) {p_z} {p_x}; q(y|x) {q_z}"}
    arguments = {
        **text,
        "classes": vae.classes,
        "weight": classifier.weight,
        "uniform": not isinstance(vae.model.class_prior.logits, nn.Parameter),  # type: ignore[union-attr]
        **(
            {"labels_first": vae.labels_first, "spread": vae.spread}
            if name == "Labelled"
            else {"start": vae.seek_after}
        ),
    }
    return f"{name}({', '.join(f'{k}={v!r}' for k, v in arguments.items())})"


def _member(axis: str, part: Any) -> str:
    """A part in the grammar of the command line."""
    family, base, fixed = AXES[axis]
    cls = type(part)
    if not isinstance(part, base):
        raise InputError(
            f"no Spec describes this VAE: {cls.__name__} is no {base.__name__} of this package or derived from one; "
            f"{REMEDY}"
        )
    own = list(inspect.signature(cls).parameters)[fixed:]
    told = written(part, [k for k in own if k not in FITTED.get(axis, ())])
    return told if cls in variants(family).values() else f"{cls.__module__}:{told}"
