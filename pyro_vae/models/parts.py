"""The parts of a VAE by name, and the VAE in words: its formula, its members and its sizes."""

from typing import Any

from torch import nn

from pyro_vae.foundation.html import card, code, facts
from pyro_vae.foundation.sizes import written
from pyro_vae.models.conditionals.exact_layers import ExactLayers
from pyro_vae.models.conditionals.layered import Ladder, Layered
from pyro_vae.models.finite import NoVector, OfClass
from pyro_vae.models.layers import Below
from pyro_vae.models.program import formula
from pyro_vae.networks import Standardised
from pyro_vae.networks.fields import FieldDecoder, FieldEncoder

LONGEST = 200  # characters of a member


def parts_of(vae: Any) -> dict[str, Any]:
    """What a VAE is made of, by name."""
    parts = {
        "prior": vae.model.prior,
        "likelihood": vae.model.likelihood,
        **_parts_of_guide(vae.guide),
        **_bodies("decoder", vae.model.decoder),
    }
    for site, layer in zip(vae.model.sites, vae.model.layers, strict=False):
        own = layer.prior if isinstance(layer, Below) else layer.network
        parts[f"layer {site}"] = own
    if vae.label_width:
        parts |= _bodies("classifier", vae.guide.classifier.network)
    return parts


def _parts_of_guide(guide: Any) -> dict[str, Any]:
    """The guide and its encoder, of several layers those of each."""
    if isinstance(guide, Ladder):
        each = zip(guide.sites, guide.trunk, strict=True)
        found = [_bodies(of_site("encoder", site), body) for site, body in each]
    elif isinstance(guide, Layered):
        found = [
            {
                of_site("guide", site): own,
                **_bodies(of_site("encoder", site), own.encoder),
            }
            for site, own in zip(guide.sites, guide.guides, strict=True)
        ]
    elif isinstance(guide, ExactLayers):
        found = [{"guide": guide}]
    else:
        found = [
            {"guide": guide, **_bodies("encoder", getattr(guide, "encoder", None))}
        ]
    return {name: part for some in found for name, part in some.items()}


def of_site(what: str, site: str) -> str:
    """What a part of a layer is called; that next to the data is the usual one."""
    return what if site == "z1" else f"{what} of {site}"


def _bodies(what: str, network: Any) -> dict[str, Any]:
    """A network by what it is; those of several fields each by its field."""
    if isinstance(network, FieldEncoder):
        each = zip(network.layout.names, network.bodies, strict=True)
    elif isinstance(network, FieldDecoder):
        each = zip(network.layout.names, network.networks, strict=True)
    else:
        return {} if network is None else {what: _body(network)}
    return {f"{what} of {name}": _body(body) for name, body in each}


def _body(encoder: Any) -> Any:
    return encoder.body if isinstance(encoder, Standardised) else encoder


def members_of(vae: Any) -> dict[str, str]:
    """The parts in the grammar of the command line, without those that stand for nothing."""
    nothing = (NoVector, nn.Identity)
    parts = parts_of(vae).items()
    return {name: _member(p) for name, p in parts if not isinstance(p, nothing)}


def _member(part: Any) -> str:
    if isinstance(part, OfClass):
        return f"{_member(part.network)} of z and y"
    text = written(part)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def sizes_of(vae: Any) -> dict[str, str]:
    """The lengths of what its factors are about, and of its parameters, in words."""
    model, first = vae.model, next(vae.parameters(), None)
    lengths = zip(model.sites, model.dims, strict=True)
    latents = ", ".join(f"{site} {size}" for site, size in lengths if size)
    numbers = f"{sum(parameter.numel() for parameter in vae.parameters()):,}"
    if first is not None:
        numbers += f", {str(first.dtype).removeprefix('torch.')} on {first.device}"
    return {
        "x": str(tuple(model.likelihood.shape)),
        "latents": latents,
        "classes": str(vae.classes or ""),
        "condition": str(vae.context - vae.label_width or ""),
        "parameters": numbers,
    }


def in_words(vae: Any) -> str:
    """The formula, the members one below the other, and the sizes."""
    members = members_of(vae)
    width = max(map(len, members))
    below = [f"  {name:{width}}  {member}" for name, member in members.items()]
    sizes = [f"{name} {told}" for name, told in sizes_of(vae).items() if told]
    head = f"{type(vae).__name__}: {formula(vae.model, vae.guide)}"
    return "\n".join([head, *below, f"  {'; '.join(sizes)}"])


def as_told(vae: Any) -> dict[str, Any]:
    """Members and sizes for a notebook."""
    members = {name: code(member) for name, member in members_of(vae).items()}
    return {**members, **sizes_of(vae)}


def in_html(vae: Any) -> str:
    """The formula, the members and the sizes as a table."""
    about = formula(vae.model, vae.guide)
    return card(type(vae).__name__, about, facts(as_told(vae)))
