"""Every argument of every member, optimizer and schedule: usable values are used, all others end in one sentence.

Members are found through `variants` and their signatures: a new one is covered without being registered here.
"""

import contextlib
import inspect
import math
import resource
import signal
from typing import Literal

import pytest
import torch

from example import DRAWN, beside
from pyro_vae import (
    MLP,
    VAE,
    InputError,
    MeanField,
    Spec,
    StandardNormal,
    build,
    fit,
    guides,
    likelihoods,
    networks,
    priors,
    variants,
)
from pyro_vae.data.representation import Representation
from pyro_vae.foundation import sizes as _sizes
from pyro_vae.foundation.checks import Count, NotNegative, Positive, check, shown, words
from pyro_vae.foundation.errors import MarkedError
from pyro_vae.foundation.sizes import Bounded
from pyro_vae.inference.optimizers import ARGUMENTS, OPTIMIZERS
from pyro_vae.inference.schedules import SCHEDULES
from pyro_vae.spec import AXES, parse, parse_optimizer, parse_schedule

SHAPE, D = (4, 4), 2
SMALL = {"hidden": (4,), "channels": (2,), "pseudo_inputs": 3}
NAN, INF = math.nan, math.inf
WRITTEN = [
    *(0, -1, 1e308, 10**20, 2**63, 10**10, 10**5000, -0.0, 0.5, 3, 1e-320, True, None),
    *("text", "", (), (1, 2), ((1,),), (0,), (10**20,), (0.5,), [3], {}, b"x"),
]
FEW = [0, -1, NAN, INF, 1e308, 10**20, True, None, "text", (), (1, 2), ((1,),), 3]
MANY = [  # and these beside
    *(value for value in WRITTEN if shown(value) not in [shown(f) for f in FEW]),
    (NAN,),
    (3,) * 10**6,
    "x" * 10**6,
    object(),
    torch.ones(2),
]

MEMBERS = [(axis, cls) for axis in AXES for cls in variants(AXES[axis][0]).values()]
members = pytest.mark.parametrize(
    ("axis", "cls"), MEMBERS, ids=[f"{axis}-{cls.__name__}" for axis, cls in MEMBERS]
)


@contextlib.contextmanager
def within(seconds, megabytes=700):
    """Fail where what runs inside takes longer, or more memory."""

    def late(number, frame):
        raise AssertionError(f"still at it after {seconds} s")

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    old = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, old)
    assert (
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1024 * megabytes
    )


def is_clear(error, name):
    """One line that names the argument; below it may stand a text with a mark under a place."""
    sentence = error.lines[0] if isinstance(error, MarkedError) else str(error)
    assert len(str(error)) < 600
    assert "\n" not in sentence
    assert len(sentence) < 300, sentence
    assert name in sentence, sentence
    assert "Error" not in sentence, sentence


def arguments(make, fixed):
    """The names of the arguments behind the fixed ones, and of the fixed ones that are plain."""
    parameters = list(inspect.signature(make).parameters.values())
    plain = [p.name for p in parameters[:fixed] if p.name not in ("encoder", "t")]
    return plain + [p.name for p in parameters[fixed:]]


def small(make, **given):
    """The arguments that keep a member small, where it has them."""
    known = inspect.signature(make).parameters
    return {k: v for k, v in SMALL.items() if k in known} | given


def a_pair(axis, cls, given):
    """A VAE with a member made with these arguments, data for it, and an objective."""
    shape, latent_dim = given.pop("shape", SHAPE) if axis == "likelihood" else SHAPE, D
    if axis != "network":
        latent_dim = given.pop("latent_dim", D)
    needed = beside(axis, cls.__name__)
    body = cls if axis == "network" else getattr(networks, needed.get("network", "MLP"))
    of_body = small(body, **(given if axis == "network" else {}))
    images = of_body.pop("in_shape", SHAPE), of_body.pop("out_shape", None)
    encoder = body(*images, **of_body)
    prior = StandardNormal(latent_dim)
    drawn = {"enumerate": False} if needed is DRAWN else {}
    if axis == "prior":
        conditional = (
            {"context": 3} if "context" in inspect.signature(cls).parameters else {}
        )
        prior = cls(latent_dim, **conditional | small(cls, **given))
    likelihood = getattr(likelihoods, needed.get("likelihood", "Bernoulli"))(shape)
    likelihood = cls(shape, **given) if axis == "likelihood" else likelihood
    shape = likelihood.shape
    usual = guides.Delta if needed.get("guide") == "delta" else MeanField
    guide = cls if axis == "guide" else usual
    made = small(cls, **given) if axis == "guide" else {}
    guide = guide(encoder, latent_dim, **made)
    if axis == "guide" and guide.usual_prior == "Codes()":
        prior = priors.Codes(latent_dim)
    elif prior.of_words:
        guide = guides.Codebook(encoder, latent_dim, size=4)
    elif axis == "guide" and guide.levels is not None:
        prior = priors.Categorical(latent_dim, levels=guide.levels)
    elif prior.levels is not None or drawn:
        guide = guides.Categorical(encoder, latent_dim, levels=prior.levels, **drawn)
        prior = prior if prior.levels else priors.Categorical(latent_dim)
    decoder = body.decoder(latent_dim, likelihood.output_shape, **of_body)
    objective = cls(**given) if axis == "objective" else None
    vae, x = VAE(prior, decoder, likelihood, guide), data_for(likelihood)
    return (
        vae,
        {"x": x, "c": torch.rand(len(x), vae.context)} if vae.context else x,
        objective,
    )


def data_for(likelihood):
    u = torch.rand(4, *likelihood.shape)
    kinds = {Representation.BINARY: u.round(), Representation.UNIT: 0.1 + 0.8 * u}
    kinds |= {Representation.LEVELS: u.round(), Representation.COUNTS: (5 * u).floor()}
    return kinds.get(likelihood.support, u)


def is_usable(vae, x, objective, **options):
    """A step leaves everything finite, or says what does not."""
    history = fit(vae, x, objective, epochs=1, batch_size=4, compile=False, **options)
    assert math.isfinite(history[-1].loss)


@members
@pytest.mark.parametrize(
    "values", [FEW, pytest.param(MANY, marks=pytest.mark.slow)], ids=["few", "many"]
)
def test_members(axis, cls, values):
    for name in arguments(cls, AXES[axis][2]):
        for value in values:
            torch.manual_seed(0)
            try:
                with within(20):
                    pair = a_pair(axis, cls, {name: value})
                    if (
                        "shape" not in name
                    ):  # parts of other shapes do not fit into one pair
                        is_usable(*pair)
            except InputError as error:
                known = any(
                    w in str(error)
                    for w in ("finite", "pseudo-inputs", "images of shape")
                )
                is_clear(error, "" if known else name)
            except BaseException as error:
                raise AssertionError(
                    f"{cls.__name__}({name}={shown(value)})"
                ) from error


@pytest.mark.slow
@members
def test_members_as_they_are_written(axis, cls):
    """From text, as the command line has it."""
    for name in arguments(cls, AXES[axis][2])[AXES[axis][2] :]:
        for value in WRITTEN:
            text = f"{cls.__name__}({', '.join(f'{k}={v}' for k, v in small(cls).items() if k != name)}"
            text += f"{',' if small(cls) else ''}{name}={'9' * 5000 if value == 10**5000 else repr(value)})"
            try:
                with within(20):
                    member = parse(axis, text)
                    if axis == "objective":
                        is_usable(
                            build(Spec(SHAPE, D, network="mlp(hidden=4)")),
                            torch.ones(4, *SHAPE),
                            member(),
                        )
                    else:
                        spec = {"network": "mlp(hidden=4)", axis: text}
                        vae = build(Spec(SHAPE, D, **spec))
                        is_usable(vae, data_for(vae.model.likelihood), None)
            except InputError as error:
                is_clear(error, "")


def settings(make, known):
    return [p for p in inspect.signature(make).parameters if p in known]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers(name):
    vae = build(Spec(SHAPE, D, network="mlp(hidden=4)"))
    known = [
        p
        for p in inspect.signature(OPTIMIZERS[name]).parameters
        if p not in ("params", "lr")
    ]
    for argument in known:
        for value in [
            *WRITTEN,
            False,
            (0.9,),
            (0.9, 0.999),
            (0.9, 1.0),
            (-0.1, 0.9),
            (0.5, 0.5, 0.5),
        ]:
            text = (
                f"{name}({argument}={'9' * 5000 if value == 10**5000 else repr(value)})"
            )
            try:
                with within(20):
                    optimizer = parse_optimizer(text)
                    is_usable(vae, torch.ones(4, *SHAPE), None, optimizer=optimizer)
            except InputError as error:
                is_clear(error, "" if "finite" in str(error) else argument[:5])


@pytest.mark.parametrize("flag", ["maximize", "capturable", "differentiable"])
def test_what_would_turn_the_optimizer_round_is_no_choice(flag):
    assert flag not in ARGUMENTS
    with pytest.raises(InputError, match=f"has no argument {flag}: it takes betas"):
        parse_optimizer(f"adam({flag}=True)")


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules(name):
    for argument in list(inspect.signature(SCHEDULES[name]).parameters)[1:]:
        for value in [
            *WRITTEN,
            (0.9, 0.5),
            (0.5, 0.5),
            (0.5, 1.0),
            (-1,),
            (-1, 1),
            (1e308, 1),
            1,
        ]:
            text = (
                f"{name}({argument}={'9' * 5000 if value == 10**5000 else repr(value)})"
            )
            try:
                with within(20):
                    schedule = parse_schedule(text)
            except InputError as error:
                is_clear(error, argument)
            else:
                assert all(0 <= schedule(i / 100) < INF for i in range(101))


@pytest.mark.parametrize(
    "text",
    [
        "step(factors=(-1, 1))",
        "step(at=(0.9, 0.5))",
        "step(at=(0.5, 0.5))",
        "step(at=(0.5,))",
        "step(at=(0, 0.5))",
        "step(at=(0.5, 1))",
        "step(factors=(0.1, 0))",
        "cosine(floor=1.5)",
        "cosine(floor=-0.1)",
    ],
)
def test_senseless_schedules(text):
    with pytest.raises(InputError, match="cannot be used"):
        parse_schedule(text)


@pytest.mark.parametrize(
    ("schedule", "word"),
    [
        (
            lambda t: 1.0 if t < 0.5 else 1 / 0,
            "fails at 0.5 of the run .ZeroDivisionError",
        ),
        (lambda t: 1.0 - 2 * t, "it must be a finite number of at least 0"),
        (lambda t: "fast", "fails at 0 of the run .ValueError"),
        (lambda t: NAN, "is nan at 0 of the run"),
    ],
)
def test_a_schedule_is_tried_out_before_the_first_step(schedule, word):
    vae = build(Spec(SHAPE, D, network="mlp(hidden=4)"))
    before = [p.clone() for p in vae.parameters()]
    with pytest.raises(InputError, match=word):
        fit(vae, torch.ones(4, *SHAPE), epochs=4, schedule=schedule)
    assert all(torch.equal(a, b) for a, b in zip(before, vae.parameters(), strict=True))


@pytest.mark.parametrize(
    ("value", "hint", "found"),
    [
        ([3, 4], tuple[Count, ...], (3, 4)),
        (3, tuple[Count, ...], (3,)),
        (torch.Size([3, 4]), tuple[Count, ...], (3, 4)),
        (torch.ones(3).numpy().size, Count, 3),
        (torch.ones(1).numpy()[0], Positive, 1.0),
        (-0.0, NotNegative, 0.0),
        (None, Count | None, None),
        ("a", Positive | Literal["a", "b"], "a"),
        (2, Positive | Literal["a", "b"], 2),
    ],
)
def test_values_that_are_taken(value, hint, found):
    assert check("x", value, hint) == found
    assert type(check("x", value, hint)) is type(found)


@pytest.mark.parametrize(
    ("value", "hint", "sentence"),
    [
        (0, Count, "x=0 must be a whole number of at least 1"),
        (True, Count, "x=True must be a whole number of at least 1"),
        (2.0, Count, "x=2.0 must be a whole number of at least 1"),
        (
            NAN,
            Positive,
            "x=nan must be a positive number, and finite in float32, which ends at 3.4e[+]38",
        ),
        (1, bool, "x=1 must be True or False"),
        (
            (1, 0),
            tuple[Count, ...],
            r"x=\(1, 0\) must be a tuple of whole numbers of at least 1",
        ),
        ("b", Literal["a", "abc"], "x='b' must be 'a' or 'abc'"),
        ("abd", Literal["a", "abc"], "; did you mean 'abc'"),
        (
            10**20,
            Count,
            "x=100000000000000000000 would take over a million TiB of memory",
        ),
        (3, MeanField, "x=3 must be a MeanField"),
    ],
)
def test_values_that_are_refused(value, hint, sentence):
    with pytest.raises(InputError, match=sentence):
        check("x", value, hint)


def test_annotations_in_words():
    assert words(Count | None) == "a whole number of at least 1 or None"
    assert words(tuple[Positive, Positive]) == "a tuple of 2 positive numbers"


def test_sizes_are_held_against_the_memory_before_they_are_taken():
    with within(20, megabytes=100):
        for call in (
            lambda: MLP((4,), hidden=(10**6, 10**6)),
            lambda: MLP((10**6, 10**6), None),
            lambda: MeanField(MLP((4,)), 10**10),
            lambda: torch.nn.Linear(10**6, 10**6),
        ):
            with pytest.raises(InputError, match=r"[GT]iB"), Bounded("it"):
                call()


def test_numbers_of_parts_are_bounded(monkeypatch):
    monkeypatch.setattr(_sizes, "MOST", 1000)
    with pytest.raises(InputError, match="more than 1,000 tensors"), Bounded("it"):
        [torch.zeros(1) for _ in range(2000)]


def test_members_of_ones_own_are_checked_too():
    from pyro_vae import Prior

    class Mine(Prior):
        """A prior of one's own."""

        def __init__(
            self, latent_dim: Count, *, width: Positive = 1.0, other="anything"
        ) -> None:
            super().__init__(latent_dim)

        def forward(self):
            raise NotImplementedError

    assert Mine(2, width=3, other=[]).latent_dim == 2
    with pytest.raises(InputError, match="width=0 of Mine must be a positive number"):
        Mine(2, width=0)
    with pytest.raises(TypeError, match="widht"):
        Mine(2, widht=3)
