"""A pair as papers write it, `p(y) p(z) p(x|z,y); q(y|x) q(z|x)`, read from text."""

import re
from collections.abc import Sequence
from typing import NamedTuple, NoReturn

from pyro_vae.foundation.errors import MarkedError
from pyro_vae.foundation.fieldnames import LAYER, RESERVED

SITES = ("x", "y", "z")
LATENTS = ("y", "z")
EXAMPLE = "p(y) p(z) p(x|z,y); q(y|x) q(z|x,y)"
FACTOR = re.compile(
    r"\s*([pq])\s*\(\s*(\w+)\s*(?:\|\s*(\w+(?:\s*,\s*\w+)*)\s*)?\)\s*\*?"
)
ONE = "a pair has x or fields of other names, one vector z and one class y"
NAME = re.compile(r"\w+")


class Term(NamedTuple):
    """`p(site|given)`, and where its names stand in the text."""

    of: str
    site: str
    given: tuple[str, ...]
    place: int
    places: tuple[int, ...]


class Formula(NamedTuple):
    """What the factors of a pair with one vector z, x or several fields, and perhaps a class y are given.

    Attributes:
        classes: whether there is a class y.
        of: the sites of p that depend on it; x stands for all fields.
        guided: whether q(z|x) depends on it.
        fields: what x consists of, in the order of the text; nothing where it is one.
        layers: how many layers of latents z1, z2, ... there are; 0 where z is one vector.
        skip: whether each factor of p is given all layers above.
        skip_q: whether each factor of q is given all layers before it, and x.
        downward: whether q draws the top first.
        vector: whether there is a vector z; without one the class is all that there is, a finite mixture.
    """

    classes: bool
    of: tuple[str, ...]
    guided: bool
    fields: tuple[str, ...] = ()
    layers: int = 0
    skip: bool = False
    skip_q: bool = False
    downward: bool = False
    vector: bool = True


def read(text: str) -> Formula:
    """A formula from its text.

    Raises:
        InputError: for a text that is none, or a pair that cannot be made, with a mark under the place.

    >>> read("p(y) p(z|y) p(x|z); q(y|x) q(z|x,y)")[:4]
    (True, ('z',), True, ())
    >>> read("p(z) p(image|z) p(text|z); q(z|image,text)").fields
    ('image', 'text')
    """
    text = " ".join(text.split())
    terms = _terms(text)
    p = {term.site: term for term in terms if term.of == "p"}
    q = {term.site: term for term in terms if term.of == "q"}
    data = _data(p)
    if layers := [site for site in p if LAYER.fullmatch(site)]:
        return _read_layers(text, terms, p, data, len(layers))
    for term in terms:
        others = p if term.of == "p" else q
        names = [n for n in data if n in SITES or n not in RESERVED]
        _check(text, term, others, (*LATENTS, *names), data, there=ONE)
    fields = () if data == ("x",) else data
    first = data[0]
    if "y" in p and not any("z" in (t.site, *t.given) for t in terms):
        _check_whole(text, p, q, data, latent="y")
        return Formula(True, ("x",), False, fields, vector=False)
    _check_whole(text, p, q, data)
    pairs = (("z", "z"), ("x", first))
    of = tuple(name for name, site in pairs if "y" in p[site].given)
    if "y" in p and not of:
        dependent = f"give it to p({first}|z,y) or p(z|y)"
        _refuse(text, p["y"].place, f"nothing depends on y: {dependent}")
    return Formula("y" in p, of, "y" in q["z"].given, fields)


def _read_layers(
    text: str,
    terms: list[Term],
    p: dict[str, Term],
    data: tuple[str, ...],
    count: int,
) -> Formula:
    """A formula of layers z1, z2, ..., of which z1 is next to the data."""
    sites = [f"z{i + 1}" for i in range(count)]
    q = {term.site: term for term in terms if term.of == "q"}
    for term in terms:
        others = p if term.of == "p" else q
        there = f"x or fields of other names, and the layers {', '.join(sites)}"
        _check(
            text, term, others, (*sites, *data), data, there=f"this pair has {there}"
        )
    for site in (*sites, *data):
        if site not in p:
            _refuse(text, text.find(";"), f"p has no factor of {site}")
    for site in data:
        if site in q:
            _refuse(text, q[site].place, f"{site} is observed, and q draws what is not")
    for site in sites:
        if site not in q:
            _refuse(text, len(text), f"q has no factor of {site}, which p draws")
    if count < 2:
        _refuse(text, p["z1"].place, "one layer is called z; of several there is a z2")

    # p: each layer is given the next above, or all of them.
    skip = len(p[data[0]].given) > 1
    for i, site in enumerate(sites):
        over = sites[i + 1 :] if skip else sites[i + 1 : i + 2]
        _agree(text, p[site], over)
    for site in data:
        _agree(text, p[site], sites if skip else sites[:1])

    # q: from the data upwards, or from the top down.
    downward = next(iter(q)) != "z1"
    order = sites[::-1] if downward else sites
    _agree(text, q[order[0]], data)
    last = q[order[-1]].given
    skip_q = set(last) == {*data, *order[:-1]} and (not downward or count > 2)
    for i in range(1, count):
        before = order[:i] if skip_q else order[i - 1 : i]
        reads_data = downward or skip_q
        _agree(text, q[order[i]], [*data, *before] if reads_data else before)
    fields = () if data == ("x",) else data
    return Formula(False, (), False, fields, count, skip, skip_q, downward)


def _agree(text: str, term: Term, wanted: Sequence[str]) -> None:
    """Refuse a factor of a layer, or of the data, that is not given exactly what it is to be given."""
    if {*term.given} == {*wanted}:
        return
    given = f"|{','.join(wanted)}" if wanted else ""
    whole = f"{term.of}({term.site}{given})"
    _refuse(
        text,
        term.place,
        f"{whole} is wanted: a layer is given the one before it, or all of them in each factor",
    )


def _data(p: dict[str, Term]) -> tuple[str, ...]:
    """The sites of which there are data: x, or several fields by their own names."""
    names = tuple(
        site for site in p if site not in LATENTS and not LAYER.fullmatch(site)
    )
    return names if len(names) > 1 and "x" not in names else ("x",)


def _terms(text: str) -> list[Term]:
    """The factors of a text, in their order."""
    terms: list[Term] = []
    at, half = 0, text.find(";")
    if half < 0:
        _refuse(text, len(text), f"a semicolon parts p from q, as in {EXAMPLE}")
    while at < len(text):
        if not text[at:].strip():
            break
        if at == half or (at < half and not text[at:half].strip()):
            at = half + 1
            continue
        found = FACTOR.match(text, at)
        if found is None:
            blank = len(text[at:]) - len(text[at:].lstrip())
            _refuse(text, at + blank, f"this is no factor, as in {EXAMPLE}")
        of, site, given = found.group(1, 2, 3)
        wanted = "p" if at < half else "q"
        if of != wanted:
            where = "before" if wanted == "p" else "after"
            _refuse(
                text, found.start(1), f"factors of {wanted} stand {where} the semicolon"
            )
        names = [] if given is None else list(NAME.finditer(given))
        start = found.start(3)
        terms.append(
            Term(
                of,
                site,
                tuple(name.group() for name in names),
                found.start(2),
                tuple(start + name.start() for name in names),
            )
        )
        at = found.end()
    return terms


def _check(
    text: str,
    term: Term,
    others: dict[str, Term],
    known: Sequence[str],
    data: tuple[str, ...],
    *,
    there: str,
) -> None:
    """Refuse what a factor cannot be of or be given: names that are not known, and what has no value yet."""
    places = zip((term.site, *term.given), (term.place, *term.places), strict=True)
    for name, place in places:
        if name not in known:
            hint = "; a condition c is given by --condition" if name == "c" else ""
            _refuse(text, place, f"there is no {name[:30]}: {there}{hint}")
    if others[term.site] is not term:
        _refuse(text, term.place, f"{term.of} has two factors of {term.site}")
    for name, place in zip(term.given, term.places, strict=True):
        if name in data and term.of == "p":
            _refuse(
                text, place, f"{name} is what p makes, and given to no other factor"
            )
        before = name in others and others[name].place < term.place
        if name not in data and not before:
            _refuse(
                text,
                place,
                f"{name} has no value here: {term.of}({name}|...) comes before",
            )


def _check_whole(
    text: str,
    p: dict[str, Term],
    q: dict[str, Term],
    data: tuple[str, ...],
    *,
    latent: str = "z",
) -> None:
    """Refuse a pair that lacks a factor, or a factor that lacks what it has to be given."""
    end = len(text)
    for site in (latent, *data):
        if site not in p:
            _refuse(text, text.find(";"), f"p has no factor of {site}")
    for site in data:
        if site in q:
            _refuse(text, q[site].place, f"{site} is observed, and q draws what is not")
    for site in ("y", "z"):
        if site in p and site not in q:
            _refuse(text, end, f"q has no factor of {site}, which p draws")
        if site in q and site not in p:
            _refuse(text, q[site].place, f"p has no factor of {site}, which q draws")
    if p.get("y") is not None and p["y"].given:
        _refuse(text, p["y"].places[0], "the class y comes first, and is given nothing")
    for site in data:
        if latent not in p[site].given:
            why = f"{site} depends on {latent}, as in p({site}|{latent})"
            _refuse(text, p[site].place, why)
        if {*p[site].given} != {*p[data[0]].given}:
            why = f"all fields depend on the same: {data[0]} does on {', '.join(p[data[0]].given)}"
            _refuse(text, p[site].place, why)
    for term in q.values():
        for site in data:
            if site not in term.given:
                whole = f"q({term.site}|{','.join(data)})"
                what = "x" if data == ("x",) else f"all fields, {site} too"
                _refuse(
                    text,
                    term.place,
                    f"q of {term.site} depends on {what}, as in {whole}",
                )
    if "y" in q and "z" in q["y"].given:
        place = q["y"].places[q["y"].given.index("z")]
        _refuse(
            text, place, "the class is summed over, and comes before z: q(y|x) q(z|x,y)"
        )


def _refuse(text: str, place: int, why: str) -> NoReturn:
    """Raise `InputError` with the text and a mark under the place."""
    raise MarkedError(why, text, place)
