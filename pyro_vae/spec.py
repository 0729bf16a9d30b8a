"""From names to objects: the only place where strings become classes."""

import ast
import difflib
import importlib
import inspect
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, NamedTuple

import pyro.infer
import torch

from pyro_vae.evaluation.families import Question
from pyro_vae.foundation.abstract import variants
from pyro_vae.foundation.checks import Count, Whole, annotations, check, shown
from pyro_vae.foundation.errors import InputError, one_line
from pyro_vae.foundation.trust import check_trusted
from pyro_vae.inference import schedules
from pyro_vae.inference.objectives import Objective
from pyro_vae.inference.optimizers import ARGUMENTS, OPTIMIZERS, try_out
from pyro_vae.inference.svi import SVI
from pyro_vae.models.conditionals import Guide
from pyro_vae.models.likelihoods import Likelihood
from pyro_vae.models.priors import Prior
from pyro_vae.models.structures import Bodies, Parts, Structure
from pyro_vae.models.vae import VAE
from pyro_vae.networks import Corruption, Network

# Each axis: the family, the class a user's own member must have, and how many arguments the contract fixes.
AXES: dict[str, tuple[type, type, int]] = {
    "structure": (Structure, Structure, 0),
    "prior": (Prior, Prior, 1),
    "network": (Network, Network, 2),
    "likelihood": (Likelihood, Likelihood, 1),
    "guide": (Guide, Guide, 2),
    "objective": (Objective, pyro.infer.ELBO, 0),
}


# All families whose members are written in the grammar. What data are corrupted by belongs to a training and not to a
# pair; a question is asked of a run and is no part of it.
FAMILIES: dict[str, tuple[type, type, int]] = {
    **AXES,
    "corrupt": (Corruption, Corruption, 0),
    "ask": (Question, Question, 0),
}

# Families of whose members the first argument need not be named, as in noise(0.3).
FIRST_UNNAMED = ("corrupt",)

FORMULA = re.compile(r"\s*[pq]\s*\(")  # how a structure begins that is written out

LONGEST = 100_000  # characters of a member with its arguments


@dataclass(frozen=True, repr=False)
class Member:
    """A member of an axis with its arguments, as written: `FullRank()`, `Gaussian(scale='learned')`.

    `str(member)` is the canonical spelling, which `parse` reads back; calling it makes the object. An argument can be a
    member itself, as in `SemiAmortized(guide=FullRank())`.
    """

    name: str
    make: Callable[..., Any]
    arguments: dict[str, Any]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return self.make(*args, **self.arguments, **kwargs)
        except (TypeError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{self} cannot be made: {error}") from error

    def __str__(self) -> str:
        return (
            f"{self.name}({', '.join(f'{k}={v!r}' for k, v in self.arguments.items())})"
        )

    def __repr__(self) -> str:
        return repr(str(self)) if ":" in self.name else str(self)


def parse(axis: str, text: str) -> Member:
    """Read one member of an axis in the grammar of the command line: a name, or a call with literal keyword arguments.

    A word without quotes is a text, where the argument takes one: `gaussian(scale=network)`.

    Args:
        axis: `'prior'`, `'network'`, `'likelihood'`, `'guide'`, `'objective'`, `'corrupt'` or `'ask'`, for a question.
        text: `bernoulli`, `gaussian(scale='learned')`, or `my_package.guides:MyGuide(width=3)` for a class of one's
            own; the names of this package's members do not mind case, hyphens and underscores. An argument named after
            an axis is a member of it: `annealed(objective=iwae(num_particles=5))`.

    Raises:
        InputError: for an unknown name or argument, naming the choices and the nearest one.

    >>> str(parse("likelihood", "gaussian(scale=0.5)"))
    'Gaussian(scale=0.5)'
    >>> str(parse("likelihood", "gaussian(scale=network)"))
    "Gaussian(scale='network')"
    """
    family, base, fixed = FAMILIES[axis]
    if axis == "structure" and FORMULA.match(text):
        text = f"formula(text={text!r})"
    module, name, arguments, bare = _read(axis, text)
    if module is None:
        name, cls = _lookup(axis, name, variants(family))
    else:
        cls = _import(axis, module, name, base)
        name = f"{module}:{name}"
    arguments = _with_first(axis, name, cls, arguments, fixed)
    arguments = _checked(axis, name, cls, arguments, fixed)
    _check_words(name, cls, arguments, bare)
    return Member(name, cls, arguments)


def parse_columns(text: str) -> dict[str, str] | None:
    """The likelihoods that a text gives to columns of a table, by their names; `None` where it is one for all of x.

    Args:
        text: `age=poisson, income=gaussian`; or `columns`, which leaves the choice to what they hold, alone or before
            some that are chosen, `columns, income=laplace`. A name with a comma or an equals sign stands in quotes.

    Raises:
        InputError: for a column that is named twice or is given nothing.

    >>> parse_columns("columns, income=studentt(df=3), 'a, b'=poisson")
    {'income': 'studentt(df=3)', 'a, b': 'poisson'}
    """
    pieces = _pieces(text)
    named = [(left.strip(), sign, right.strip()) for left, sign, right in pieces]
    first, sign, _ = named[0]
    chosen = first.lower() == "columns" and not sign
    if not chosen and not any(sign for _, sign, _ in named):
        return None
    found: dict[str, str] = {}
    for spelled, sign, member in named[1:] if chosen else named:
        quoted = len(spelled) > 1 and spelled[0] in "'\"" and spelled[-1] == spelled[0]
        name = spelled[1:-1] if quoted else spelled
        if not (name and sign and member):
            raise InputError(
                f"--likelihood {shown(text)}: {shown(name or member)} must be of the form column=likelihood, as in "
                "age=poisson, income=gaussian"
            )
        if name in found:
            raise InputError(
                f"--likelihood {shown(text)} names the column {name!r} twice"
            )
        found[name] = member
    return found


def _pieces(text: str) -> list[tuple[str, str, str]]:
    """A text cut at its commas, and each piece at its first equals sign; not inside brackets or quoted names."""
    pieces, depth, quote, start, equals = [], 0, "", 0, -1
    begins = True  # nothing but spaces stands in the piece yet
    for i, sign in enumerate([*text, ","]):
        if quote:
            quote = "" if sign == quote else quote
        elif sign in "'\"" and (depth or begins):
            quote = sign
        elif sign in "([{":
            depth += 1
        elif sign in ")]}":
            depth -= 1
        elif sign == "=" and depth == 0 and equals < 0:
            equals = i
        if i == len(text) or (sign == "," and depth == 0 and not quote):
            cut = i if equals < 0 else equals
            pieces.append(
                (text[start:cut], "" if equals < 0 else "=", text[cut + 1 : i])
            )
            start, equals, begins = i + 1, -1, True
        else:
            begins = begins and sign.isspace()
    return pieces


class Members(NamedTuple):
    """The members of an axis that a pair has: the usual one, and those of fields or layers that are given others.

    `str(members)` is the canonical spelling, which `parse_members` reads back.
    """

    usual: Member
    others: dict[str, Member]

    def __str__(self) -> str:
        others = [f"{name}={member}" for name, member in self.others.items()]
        return ", ".join([str(self.usual), *others])


# The axes of which a field or a layer may have a member of its own, and the usual one where none is named.
BY_NAME = {"network": "mlp", "guide": "meanfield", "prior": "standardnormal"}


EXAMPLES = {
    "network": "image=convnet, label=mlp",
    "guide": "meanfield, z2=fullrank",
    "prior": "standardnormal, z1=conditional(components=5)",
}


def parse_members(axis: str, text: str) -> Members:
    """Read a network, a guide or a prior, and perhaps those of some fields or layers, `mlp, image=convnet`.

    Args:
        axis: one of `BY_NAME`.
        text: a member, and others by name behind it or alone.

    Raises:
        InputError: as `parse`, and for a name that stands twice or is given nothing.

    >>> str(parse_members("network", "image=convnet, label=mlp(hidden=(50,))"))
    'MLP(), image=ConvNet(), label=MLP(hidden=(50,))'
    >>> str(parse_members("guide", "z2=fullrank"))
    'MeanField(), z2=FullRank()'
    """
    usual, named = BY_NAME[axis], {}
    for i, (left, sign, right) in enumerate(_pieces(text)):
        name, member = left.strip(), right.strip()
        if not sign and i == 0:
            usual = name
        elif not sign or not name.isidentifier() or not member or name in named:
            raise InputError(
                f"--{axis} {shown(text)}: {shown(name or member)} must be of the form name={axis}, each name once, as "
                f"in {EXAMPLES[axis]}"
            )
        else:
            named[name] = member
    others = {name: parse(axis, member) for name, member in named.items()}
    return Members(parse(axis, usual), others)


def parse_part(axis: str, text: str) -> Member | Members:
    """What the option of an axis says: a member, or several where fields or layers may have their own."""
    return parse_members(axis, text) if axis in BY_NAME else parse(axis, text)


def parse_optimizer(text: str, device: str = "cpu") -> Member:
    """An optimizer of `torch.optim` by name, `adam` or `sgd(momentum=0.9)`; call it with parameters and `lr`."""
    _, name, arguments, _ = _read("optimizer", text)
    name, cls = _lookup("optimizer", name, OPTIMIZERS)
    parameters = inspect.signature(cls).parameters
    arguments = _named(
        "optimizer", name, arguments, [key for key in parameters if key in ARGUMENTS]
    )
    for key, value in arguments.items():
        default = parameters[key].default
        arguments[key] = check(key, value, ARGUMENTS[key], owner=name, example=default)
    quick = device in ("cpu", "cuda") and "fused" in parameters
    if quick and not {"fused", "foreach"} & set(arguments):
        cls = partial(cls, fused=True)
    member = Member(name, cls, arguments)
    try_out(member, text)
    return member


def parse_schedule(text: str) -> schedules.Schedule:
    """A learning-rate schedule by name, `constant`, `cosine(floor=0.01)` or `step(at=(0.5,), factors=(0.1,))`."""
    _, name, arguments, bare = _read("schedule", text)
    name, function = _lookup("schedule", name, schedules.SCHEDULES)
    arguments = _checked("schedule", name, function, arguments, 1)
    _check_words(name, function, arguments, bare)
    schedule = partial(function, **arguments)
    schedules.try_out(schedule, f"--schedule {shown(text)}")
    return schedule


UNNAMED = ""  # stands for the name of an argument that has none


class _Read(NamedTuple):
    """A member as it was written; `bare` are the arguments with words that have no quotes."""

    module: str | None
    name: str
    arguments: dict[str, Any]
    bare: set[str]


def _read(axis: str, text: str) -> _Read:
    """`[module:]Name[(key=literal, ...)]` in its parts."""
    if len(text) > LONGEST:
        raise InputError(
            f"--{axis} {shown(text)} is longer than {LONGEST:,} characters"
        )
    head, colon, tail = text.partition(":")
    module = head.strip() if colon and "(" not in head else None
    name, bracket, rest = (text if module is None else tail).strip().partition("(")
    try:
        node = ast.parse(name.replace("-", "") + bracket + rest, mode="eval").body
        call = node if isinstance(node, ast.Call) else None
        function = call.func if call else node
        if not isinstance(function, ast.Name):
            raise ValueError("no name")
        unnamed = axis in FIRST_UNNAMED
        if call and (call.args[unnamed:] or any(k.arg is None for k in call.keywords)):
            raise InputError(
                f"--{axis} {shown(text)}: give every argument by name, "
                f"as in {function.id}(key=value)"
            )
        arguments: dict[str, Any] = {}
        bare: set[str] = set()
        if call:
            bare = {str(k.arg) for k in call.keywords if _has_words(k)}
            first = [(UNNAMED, ast.literal_eval(value)) for value in call.args]
            named = {str(k.arg): _value(str(k.arg), k.value) for k in call.keywords}
            arguments = {**dict(first), **named}
    except InputError:
        raise
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError) as error:
        raise InputError(
            f"--{axis} {shown(text)} is not of the form name or name(key=value, ...) with plain values"
        ) from error
    return _Read(module, function.id, arguments, bare)


def _has_words(keyword: ast.keyword) -> bool:
    """Whether an argument that is no member has words without quotes."""
    members = keyword.arg in AXES or keyword.arg in ("columns", "fields")
    return not members and any(isinstance(n, ast.Name) for n in ast.walk(keyword.value))


class _Quoted(ast.NodeTransformer):
    """Puts words into quotes; what is called stays as it is, and no literal."""

    def visit_Name(self, node: ast.Name) -> ast.expr:  # as ast calls it
        return ast.Constant(node.id)

    def visit_Call(self, node: ast.Call) -> ast.expr:
        return node


def _literal(node: ast.expr) -> Any:
    return ast.literal_eval(_Quoted().visit(node))


def _check_words(
    name: str, make: Callable[..., Any], arguments: dict[str, Any], bare: set[str]
) -> None:
    """Raise `InputError` for words without quotes where an argument takes no text."""
    hints = annotations(make.__init__ if isinstance(make, type) else make)  # type: ignore[misc]
    parameters = inspect.signature(make).parameters
    for key in bare & arguments.keys():
        value = arguments[key]
        if hints.get(key, Any) is not Any:
            check(key, value, hints[key], owner=name, example=parameters[key].default)
        elif key not in parameters or not isinstance(parameters[key].default, str):
            raise InputError(
                f"{key}={value} of {name} is a word, and nothing says that {key} takes one: if it does, put the word "
                "in quotes"
            )


def _value(name: str, node: ast.expr) -> Any:
    """A literal; or a member, where the argument has the name of an axis and is not None (a text holds an import path).

    The arguments `columns` and `fields` are dicts of likelihoods.
    """
    if name in ("columns", "fields") and isinstance(node, ast.Dict):
        keys: list[Any] = node.keys
        names = [_literal(key) for key in keys]
        members = [_value("likelihood", value) for value in node.values]
        return dict(zip(names, members, strict=True))
    if name not in AXES or (isinstance(node, ast.Constant) and node.value is None):
        return _literal(node)
    text = (
        node.value
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        else ast.unparse(node)
    )
    return parse(name, text)


def _lookup(axis: str, name: str, choices: dict[str, Any]) -> tuple[str, Any]:
    by_lower = {choice.lower(): choice for choice in choices}
    wanted = name.lower().replace("_", "")
    if wanted not in by_lower:
        near = difflib.get_close_matches(wanted, by_lower, 1)
        hint = f"; did you mean {by_lower[near[0]].lower()}?" if near else ""
        raise InputError(
            f"--{axis} {name} is unknown: choose one of {', '.join(by_lower)}{hint}"
        )
    found = by_lower[wanted]
    return found, choices[found]


def _import(axis: str, module: str, name: str, base: type) -> type:
    check_trusted(axis, module, name)
    try:
        cls = getattr(importlib.import_module(module), name)
    except Exception as error:  # the module's own code may fail in any way
        what = "question" if axis == "ask" else axis
        raise InputError(
            f"the {what} {module}:{name} cannot be imported ({one_line(error)}); start from a folder "
            f"where Python finds {module}"
        ) from error
    if not (isinstance(cls, type) and issubclass(cls, base)) or inspect.isabstract(cls):
        raise InputError(
            f"--{axis} {module}:{name} is not a finished subclass of {base.__name__}"
        )
    return cls


# Arguments that follow from the others, and that nobody sets.
FITTED = {"guide": ("features",), "network": ("context",), "prior": ("context",)}


def _arguments(
    axis: str, make: Callable[..., Any], fixed: int
) -> list[inspect.Parameter]:
    """The parameters that a member's arguments can set: those after the `fixed` ones of its family's contract."""
    parameters = list(inspect.signature(make).parameters.values())[fixed:]
    return [p for p in parameters if p.name not in FITTED.get(axis, ())]


def _with_first(
    axis: str,
    name: str,
    make: Callable[..., Any],
    arguments: dict[str, Any],
    fixed: int,
) -> dict[str, Any]:
    """The arguments, one that was given without its name under that of the first."""
    if UNNAMED not in arguments:
        return arguments
    known = [p.name for p in _arguments(axis, make, fixed)]
    value = arguments.pop(UNNAMED)
    if not known or known[0] in arguments:
        why = f"{known[0]} is given twice" if known else "it takes no arguments"
        raise InputError(f"--{axis} {name.lower()} is given {shown(value)}: {why}")
    return {known[0]: value, **arguments}


def _checked(
    axis: str,
    name: str,
    make: Callable[..., Any],
    arguments: dict[str, Any],
    fixed: int,
) -> dict[str, Any]:
    """The arguments, once each is one that `make` takes after its `fixed` first ones."""
    parameters = _arguments(axis, make, fixed)
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return arguments
    return _named(axis, name, arguments, [p.name for p in parameters])


def _named(
    axis: str, name: str, arguments: dict[str, Any], known: list[str]
) -> dict[str, Any]:
    """The arguments, once all have names that are known."""
    for key in arguments:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            takes = f"it takes {', '.join(known)}" if known else "it takes none"
            raise InputError(
                f"--{axis} {name if ':' in name else name.lower()} has no argument {key}: {takes}{hint}"
            )
    return arguments


HINTS = {
    "shape": tuple[Count, ...],
    "latent_dim": Whole,
    "context": Whole,
    "encoder_context": bool,
}
HINTS |= {"missing": bool}
HINTS |= dict.fromkeys(("prior", "network", "likelihood", "guide", "structure"), str)


@dataclass(frozen=True)
class Spec:
    """A VAE in words: what `build` needs and a checkpoint stores.

    Attributes:
        shape: shape of one datum.
        latent_dim: length of z; of several layers that of all together, which the structure says.
        prior, network, likelihood, guide, structure: members in the grammar of `parse`; `None` for the prior is the
            usual one of the guide or the structure. The first three may be several, see `parse_members`.
        context: length of the condition c that each factor is given; 0 without one. Of a structure with classes it
            begins with the label.
        encoder_context: whether the encoder is given it too.
        missing: whether elements of the data may be missing.
    """

    shape: tuple[int, ...]
    latent_dim: int = 10
    prior: str | None = None
    network: str = "MLP()"
    likelihood: str = "Bernoulli()"
    guide: str = "MeanField()"
    structure: str = "Vae()"
    context: int = 0
    encoder_context: bool = True
    missing: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(self.shape))
        structure: Structure = parse("structure", self.structure)()
        if structure.dims:
            object.__setattr__(self, "latent_dim", sum(structure.dims))
        if not structure.vector:
            object.__setattr__(self, "latent_dim", 0)
            object.__setattr__(self, "guide", guide_of_classes(self.guide))
        if self.prior is None:
            usual = usual_prior(self.guide, self.structure)
            object.__setattr__(self, "prior", usual)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON or TOML."""
        return {**asdict(self), "shape": list(self.shape)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Spec":
        try:
            return cls(**{k: check(k, v, HINTS.get(k, Any)) for k, v in values.items()})
        except (TypeError, AttributeError, InputError) as error:
            raise InputError(
                f"this is not the description of a VAE: {one_line(error)}"
            ) from error


def guide_of_classes(guide: str) -> str:
    """The guide of a finite mixture, where none of a vector z is asked for."""
    member = parse_members("guide", guide)
    if str(member) not in ("MeanField()", "Exact()"):
        raise InputError(
            f"--guide {shown(guide)} is that of a vector z, and the formula has none: its q(y|x) is exact, so leave "
            "the guide out"
        )
    return "Exact()"


def usual_prior(guide: str, structure: str) -> str:
    """The prior where none is named: that of the guide, where it goes with one alone, or else of the structure."""
    usual_guide = parse_members("guide", guide).usual
    own: str | None = getattr(usual_guide.make, "usual_prior", None)
    usual: str = parse("structure", structure)().prior
    return usual if own is None else own


def build(spec: Spec) -> VAE:
    """The VAE that a `Spec` describes, with fresh weights.

    Raises:
        InputError: when a name or an argument in the spec is wrong.

    >>> vae = build(Spec(shape=(28, 28), latent_dim=2, guide="fullrank", network="mlp(hidden=(64,))"))
    >>> type(vae.guide).__name__
    'FullRank'
    """
    structure: Structure = parse("structure", spec.structure)()
    check("--latent-dim", spec.latent_dim, Count if structure.vector else Whole)
    check("context", spec.context, Whole)
    networks = parse_members("network", spec.network)
    priors = parse_members("prior", spec.prior or "")
    guides = parse_members("guide", spec.guide)
    if not structure.vector and str(priors) != Structure.prior:
        raise InputError(
            f"--prior {shown(spec.prior or '')} is that of a vector z, and the formula has none: leave it out"
        )
    bodies = {name: _bodies(member) for name, member in networks.others.items()}
    encoder, decoder = _bodies(networks.usual)
    usual: Any = networks.usual.make
    of_vectors = parse("network", "mlp") if usual.of_images else networks.usual
    context = max(spec.context - structure.label_width, 0)
    parts = Parts(
        prior=_of_context(priors.usual),
        encoder=encoder,
        decoder=decoder,
        likelihood=parse("likelihood", spec.likelihood),
        guide=guides.usual,
        context=context,
        of_encoder=context if spec.encoder_context else 0,
        missing=spec.missing,
        of_fields=bodies,
        between=_bodies(of_vectors),
        guides=guides.others,
        priors={name: _of_context(member) for name, member in priors.others.items()},
    )
    return structure.build(parts, spec.shape, spec.latent_dim)


def _bodies(network: Member) -> Bodies:
    """How encoders and decoders of a network are made."""
    make: Any = network.make
    both = (make.encoder, make.decoder)
    return Bodies(
        *(_of_context(Member(network.name, m, network.arguments)) for m in both)
    )


def _of_context(member: Member) -> Callable[..., Any]:
    """A member that is told the length of its context where there is one; a prior need not read it."""

    def make(*args: Any, context: int = 0) -> Any:
        ignores = issubclass(cls, Prior) and "context" not in signature
        return (
            member(*args) if ignores or not context else member(*args, context=context)
        )

    signature = inspect.signature(member.make).parameters
    cls = member.make if isinstance(member.make, type) else object
    return make


def problem(spec: Spec, objective: str = "ELBO()") -> str | None:
    """Why the parts of a spec and an objective do not fit together, in one sentence; `None` where they do.

    >>> print(problem(Spec((4,), 2, guide="delta"), "iwae"))
    IWAE weighs draws by the guide's density, and at site 'z' it is a point
    """
    try:
        vae = build(spec)
        x: Any = torch.zeros(2, *spec.shape)
        if vae.context > vae.label_width:
            x = {"x": x, "c": torch.zeros(2, vae.context - vae.label_width)}
        SVI(
            vae.model, vae.guide, torch.optim.SGD, parse("objective", objective)()
        ).check(x)
    except InputError as error:
        return str(error)
    return None
