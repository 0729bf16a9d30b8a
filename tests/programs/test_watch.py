"""Training watches itself: which epoch is the best, when it stops, and what it says; weight decay and clipping."""

import html
import math
import warnings

import pytest
import torch

from example import beside
from pyro_vae import (
    ELBO,
    IWAE,
    SVI,
    InputError,
    Objective,
    Spec,
    TrainingWarning,
    build,
    fit,
    log_marginal,
    variants,
)
from pyro_vae.inference.epochs import Epoch, History, Progress
from pyro_vae.inference.fit import run_epochs
from pyro_vae.inference.objectives import (
    CIWAE,
    MIWAE,
    PIWAE,
    Annealed,
    DReG,
    FreeBits,
    Renyi,
    ReweightedWakeSleep,
)
from pyro_vae.inference.remedies import remedy
from pyro_vae.inference.watch import remarks
from pyro_vae.report.facts import Facts, warnings_of
from pyro_vae.spec import parse

pytestmark = pytest.mark.usefixtures("blank_figures")


def bits(n, seed=0):
    return (
        torch.rand(n, 4, generator=torch.Generator().manual_seed(seed)).round().double()
    )


def make(seed=0, **parts):
    torch.manual_seed(seed)
    return build(Spec((4,), 2, **{"network": "mlp(hidden=(5,))", **parts})).double()


def sgd(vae, loss, rate=0.0, **options):
    return SVI(
        vae.model,
        vae.guide,
        lambda p: torch.optim.SGD(p, lr=rate),
        loss,
        reduction="mean",
        **options,
    )


def epoch(number, score, *, elbo=-5.0, validation=None, kl=3.0):
    """An epoch of which only this matters."""
    held_out = score if validation is None else validation
    return Epoch(number, elbo, 0.0, kl, 0.0, held_out, 0.0, 0.0, score, 0.1, 1.0, 1.0)


def judged(epochs, patience=None):
    progress = Progress()
    for e in epochs:
        progress.close(e)
        if progress.finished(10**6, patience):
            break
    return progress


# The best epoch


def test_the_best_epoch_lies_after_the_warm_up():
    epochs = [
        epoch(1, math.nan, validation=-1.0),
        epoch(2, -4.0),
        epoch(3, -3.0),
        epoch(4, -6.0),
    ]
    assert judged(epochs).best_epoch == History(epochs).best.epoch == 3
    assert judged(epochs[:1]).best_epoch == History(epochs[:1]).best.epoch == 1


def test_patience_counts_epochs_that_could_have_been_the_best():
    inside = [epoch(i, math.nan, validation=-9.0) for i in range(1, 6)]
    after = [epoch(6, -5.0), *(epoch(i, -6.0) for i in range(7, 20))]
    progress = judged(inside + after, patience=3)
    assert (progress.epoch, progress.best_epoch, progress.waited) == (9, 6, 3)


@pytest.mark.parametrize(
    ("shape", "inside"),
    [("linear", [1, 2]), ("cyclical", [1, 4, 7])],
    ids=["linear", "cyclical"],
)
def test_which_epochs_lie_inside_a_warm_up(shape, inside):
    """Three epochs long: the factor is 1 at the end of the third, or over the second half of each cycle."""
    objective = Annealed(epochs=3, shape=shape)
    (*epochs,) = run_epochs(
        sgd(make(), objective), bits(20), epochs=8, learning_rate=0.0
    )
    assert [e.epoch for e in epochs if math.isnan(e.score)] == inside


OWN = [
    IWAE(),
    DReG(),
    PIWAE(groups=2, num_particles=4),
    ReweightedWakeSleep(num_particles=3),
]


@pytest.mark.parametrize("objective", OWN, ids=lambda o: type(o).__name__)
def test_where_an_importance_weighted_bound_is_optimised_it_chooses(objective):
    """Truth: the same bound by `log_marginal`, up to the Monte-Carlo error of its draws."""
    vae, x = make(), bits(400)
    for loss in (objective, Annealed(objective=objective, epochs=1)):
        (e,) = run_epochs(
            sgd(vae, loss), x[:20], epochs=1, learning_rate=0.0, validation=x
        )
        k = objective.num_particles
        assert loss.judged_by == f"IWAE-{k} bound"
        many = [
            log_marginal(vae.model, vae.guide, x, num_particles=k).mean
            for _ in range(20)
        ]
        many = torch.tensor(many)
        assert abs(e.score - many.mean()) < 5 * many.std()
        assert e.score != e.validation_elbo


@pytest.mark.parametrize(
    ("objective", "name"),
    [
        (ELBO(beta=4.0), "ELBO"),
        (IWAE(num_particles=1), "ELBO"),
        (FreeBits(num_particles=3), "ELBO"),
        (Renyi(alpha=2.0), "ELBO"),
        (Renyi(), "Rényi-5 bound"),
        (CIWAE(), "CIWAE-5 bound"),
        (MIWAE(), "MIWAE-64 bound"),
    ],
    ids=lambda o: o if isinstance(o, str) else type(o).__name__,
)
def test_which_bound_chooses(objective, name):
    assert objective.judged_by == name
    (e,) = run_epochs(
        sgd(make(), objective),
        bits(20),
        epochs=1,
        learning_rate=0.0,
        validation=bits(9),
    )
    assert (e.score == e.validation_elbo) is (name == "ELBO")
    (e,) = run_epochs(sgd(make(), objective), bits(20), epochs=1, learning_rate=0.0)
    assert e.score == pytest.approx(e.elbo if name == "ELBO" else -e.loss)


@pytest.mark.parametrize("cls", variants(Objective).values(), ids=lambda c: c.__name__)
def test_a_bound_of_its_own_is_no_less_than_the_elbo(cls):
    objective = cls()
    if objective.tightens:
        x, vae = bits(2000), make(**beside("objective", cls.__name__))
        (e,) = run_epochs(
            sgd(vae, objective), bits(20), epochs=1, learning_rate=0.0, validation=x
        )
        assert e.score > e.validation_elbo - 0.05


# Stopping


def test_fit_stops_after_its_patience():
    vae = make()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TrainingWarning)
        history = fit(
            vae,
            bits(40),
            epochs=500,
            learning_rate=0.05,
            validation=bits(9),
            patience=4,
        )
    assert len(history) < 500
    assert len(history) - history.best.epoch == 4


@pytest.mark.parametrize("patience", [0, -1, 2.5, True, "3"])
def test_a_patience_is_a_whole_number(patience):
    with pytest.raises(InputError, match=r"patience=.* must be a whole number"):
        fit(make(), bits(8), epochs=1, patience=patience)


def test_patience_on_the_command_line_goes_on_exactly(call, tmp_path):
    """Broken off at an epoch and resumed, it stops where the unbroken run stopped, with the same numbers."""
    tiny = (
        "--network",
        "mlp(hidden=(30,))",
        "--latent-dim",
        2,
        "--learning-rate",
        0.03,
    )
    tiny = (*tiny, "--likelihood", "bernoulli", "--binarize", "static", "--seed", 3)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    said = call("train", *tiny, "--epochs", 60, "--patience", 2, "--output", whole)
    assert said.code == 0
    assert "2 epochs without a better ELBO than in epoch" in said.out
    assert (
        call("train", *tiny, "--epochs", 3, "--patience", 2, "--output", parts).code
        == 0
    )
    assert call("train", "--resume", parts, "--epochs", 60).code == 0
    rows = [(run / "metrics.csv").read_text().splitlines() for run in (whole, parts)]
    rows = [[line.split(",")[:9] for line in lines] for lines in rows]
    assert rows[0] == rows[1]
    assert len(rows[0]) < 61
    again = call("train", "--resume", parts)
    assert again.code == 0
    assert "ask for more with --epochs or --patience" in again.out
    assert call("train", "--resume", parts, "--patience", 3).code == 0


# Remarks


def noticed(epochs, steps=10**4):
    progress, found = Progress(), []
    for i, e in enumerate(epochs):
        progress.close(e)
        found += remarks(e, progress, steps=steps, over=i == len(epochs) - 1)
    return found


def test_collapse_is_said_once_after_three_epochs():
    (remark,) = noticed([epoch(i, -5.0, kl=0.02) for i in range(1, 9)])
    assert str(remark).startswith("collapsed: KL 0.02 nats after 3 epochs")
    assert not noticed([epoch(i, -5.0, kl=0.02) for i in range(1, 9)], steps=50)
    assert not noticed([epoch(i, -5.0, kl=0.02 if i % 3 else 0.5) for i in range(1, 9)])
    assert not noticed(
        [epoch(i, -5.0, kl=0.0) for i in range(1, 9)]
    )  # no latents at all


def test_drifting_apart_is_said_once():
    best = epoch(1, -5.0, elbo=-5.0)
    apart = [epoch(i, -5.0 - 0.15 * i, elbo=-5.0 + 0.15 * i) for i in range(2, 20)]
    (remark,) = noticed([best, *apart])
    assert remark.kind == "overfits"
    assert (
        "from -5.00 to -4.10 and the validation ELBO fell from -5.00 to -5.90"
        in remark.text
    )
    assert not noticed(
        [best, *(epoch(i, -5.19, elbo=-4.0) for i in range(2, 20))]
    )  # noise
    far = [
        epoch(i, -5.0 - i % 4, elbo=-4.0) for i in range(2, 20)
    ]  # back again and again
    assert not noticed([best, *far])
    assert not noticed(
        [best, *(epoch(i, -6.0, elbo=-5.5) for i in range(2, 20))]
    )  # both fell


def test_a_best_epoch_inside_the_warm_up_is_said_at_the_end():
    warm = [epoch(1, math.nan, validation=-2.0), epoch(2, math.nan, validation=-3.0)]
    (remark,) = noticed([*warm, epoch(3, -4.0), epoch(4, -5.0)])
    assert remark.text.startswith("epoch 1, inside the warm-up, had an ELBO of -2.00")
    assert not noticed([*warm, epoch(3, -1.0), epoch(4, -5.0)])


# Of an evaluation that gives no reason to doubt it.
SOUND = {
    "data": 9,
    "data_in_split": 9,
    "split": "test",
    "num_particles": 9,
    "log_marginal": {"mean": -4.0},
    "pareto_k": {"above_limit": 0},
}


def test_the_page_tells_of_drift_and_not_of_a_run_that_its_patience_ended(tmp_path):
    def row(number, elbo, validation):
        scores = {
            "validation_elbo": validation,
            "score": validation,
            "learning_rate": 0.1,
        }
        return {"epoch": number, "elbo": elbo, **scores}

    history = [row(1, -5.0, -5.0), *(row(i, -4.0, -6.0) for i in range(2, 8))]
    for patience, expected in (
        (None, ["drifted apart", "stopped after 7 of 50"]),
        (6, ["drifted"]),
    ):
        config = {"epochs": 50, "patience": patience, "objective": "ELBO()"}
        facts = Facts(tmp_path, SOUND, {}, config, history, {})
        found = warnings_of(facts)
        assert len(found) == len(expected)
        assert all(
            text in warned.sentence
            for text, warned in zip(expected, found, strict=True)
        )
    assert "--weight-decay 1" in found[0].sentence
    assert found[0].remedy.endswith("--weight-decay 1")


def test_fit_warns_of_a_collapse():
    """With so heavy a KL nothing else can happen."""
    with pytest.warns(
        TrainingWarning, match=r"collapsed: KL .* wrap the objective in Annealed"
    ):
        fit(
            make(),
            bits(200),
            ELBO(beta=1e4),
            epochs=80,
            batch_size=20,
            learning_rate=0.02,
        )


def test_the_program_says_it_with_an_option_that_works(call, tmp_path):
    tiny = (
        "--network",
        "mlp(hidden=(20,))",
        "--latent-dim",
        2,
        "--likelihood",
        "bernoulli",
    )
    tiny = (*tiny, "--binarize", "dynamic", "--learning-rate", 0.02, "--epochs", 20)
    run = tmp_path / "run"
    said = call("train", *tiny, "--objective", "elbo(beta=1000.0)", "--output", run)
    lines = [
        line for line in said.out.splitlines() if line.startswith("collapsed  KL 0.0")
    ]
    assert len(lines) == 1
    option = lines[0].partition("; try ")[2]
    assert option == '--objective "ELBO(beta=1.0)"'
    name, _, value = option.partition(" ")
    found = call("evaluate", run, "--num-particles", 10, "--limit", 50, "--report").out
    assert f"Train again with {option}" in found
    box = html.unescape(
        next(run.glob("report*.html")).read_text().partition("<aside")[2]
    )
    assert box.index(f"Train again with {option}") < box.index("Only 50 of the")
    again = call("train", *tiny, name, value.strip('"'), "--output", tmp_path / "again")
    assert again.code == 0
    assert "collapsed" not in again.out


CONFIGS = [
    {"objective": "ELBO()", "epochs": 1},
    {"objective": "IWAE(num_particles=5)", "epochs": 100},
    {"objective": "BetaTC(alpha=1.0, beta=6.0)", "epochs": 100},
    {"objective": "Annealed(objective=ELBO(beta=1.0), epochs=10)", "epochs": 100},
    {"objective": "Annealed(epochs=10, shape='cyclical')", "epochs": 100},
    {"objective": "Annealed()", "epochs": 100},
    {"objective": "ELBO()", "epochs": 50, "patience": 10, "weight_decay": 0.3},
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c["objective"])
@pytest.mark.parametrize("kind", ["collapsed", "overfits", "warm-up"])
def test_every_remedy_can_be_pasted(kind, config):
    if kind == "warm-up" and "Annealed" not in config["objective"]:
        return
    name, _, value = remedy(kind, config).partition(" ")
    if name == "--objective":
        objective = parse("objective", value.strip('"'))()
        objective.prepare(100, config["epochs"])
        assert str(parse("objective", config["objective"])) != str(
            parse("objective", value[1:-1])
        )
    else:
        assert name in ("--patience", "--weight-decay", "--learning-rate")
        assert float(value.partition(",")[0]) > 0


# Weight decay and clipping


def moved(vae, optimizer, **options):
    torch.manual_seed(1)
    svi = SVI(vae.model, vae.guide, optimizer, ELBO(), reduction="mean", **options)
    for _ in range(3):
        svi.step(bits(20))
    return dict(vae.named_parameters())


def test_weight_decay_is_that_of_adamw_on_the_weights_of_layers():
    """Truth: PyTorch's AdamW with two groups of parameters."""

    def grouped(parameters):
        weights = [p for p in parameters if p.dim() > 1]
        rest = [p for p in parameters if p.dim() < 2]
        decayed = {"params": weights, "weight_decay": 0.3}
        return torch.optim.AdamW([decayed, {"params": rest}], lr=0.05, weight_decay=0.0)

    theirs = moved(make(), grouped)
    for fused in (False, True):
        ours = moved(
            make(),
            lambda p, f=fused: torch.optim.Adam(p, lr=0.05, fused=f),
            weight_decay=0.3,
        )
        for name, p in ours.items():
            torch.testing.assert_close(p, theirs[name])


@pytest.mark.parametrize(
    "prior", ["vampprior(pseudo_inputs=3)", "flow", "gaussianmixture"]
)
def test_the_prior_and_the_scales_do_not_decay(prior):
    parts = {"prior": prior, "likelihood": "gaussian"}
    before = dict(make(**parts).named_parameters())
    after = moved(
        make(**parts), lambda p: torch.optim.SGD(p, lr=1e-9), weight_decay=1e8
    )
    shrunk = {
        n for n, p in after.items() if not torch.allclose(p, before[n], atol=1e-3)
    }
    assert shrunk == {n for n in before if n.endswith("weight") and "prior" not in n}


def test_a_long_gradient_is_shortened_and_a_short_one_is_not():
    """A step of plain SGD at rate 1 is the gradient."""

    def step(**options):
        before, vae = make(), make()
        torch.manual_seed(1)
        sgd(vae, ELBO(), rate=1.0, **options).step(bits(20))
        pairs = zip(vae.parameters(), before.parameters(), strict=True)
        return torch.cat([(p - q).detach().flatten() for p, q in pairs])

    free = step()
    length = free.norm().item()
    torch.testing.assert_close(step(clip_norm=2 * length), free)
    torch.testing.assert_close(step(clip_norm=length / 4), free / 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"weight_decay": -1.0},
            "weight_decay=-1.0 must be a finite number of at least 0",
        ),
        (
            {"weight_decay": math.nan},
            "weight_decay=nan of fit must be a number, and finite",
        ),
        ({"weight_decay": "x"}, "weight_decay='x' of fit must be a number"),
        (
            {"clip_norm": math.inf},
            "clip_norm=inf of fit must be a number or None, and finite",
        ),
        ({"clip_norm": 0}, "clip_norm=0 would let nothing move"),
    ],
)
def test_senseless_weight_decay_and_clipping(options, message):
    with pytest.raises(InputError) as error:
        fit(make(), bits(8), epochs=1, **options)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--patience", 0, "--patience 0 must be at least 1"),
        ("--weight-decay", -1, "--weight-decay -1.0 must be finite and at least 0"),
        ("--weight-decay", "nan", "--weight-decay nan must be finite and at least 0"),
        ("--clip-norm", 0, "--clip-norm 0.0 must be positive and finite"),
        ("--clip-norm", "inf", "--clip-norm inf must be positive and finite"),
    ],
)
def test_senseless_options_name_the_option(call, option, value, message):
    said = call("train", option, value)
    assert said.code == 2
    assert said.err == f"pyro_vae.train: {message}\n"
