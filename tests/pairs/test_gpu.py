"""The same on a GPU as on a CPU."""

import contextlib
import copy
import csv
import json
import math
import warnings

import pyro
import pytest
import torch
from pyro import poutine
from pyro.poutine.util import prune_subsample_sites

from benchmarks.zoo import PAIRS
from example import SHAPE, SHORTER, D, beside, example
from levels import Levels
from ppca import PPCA
from pyro_vae import (
    ELBO,
    SVI,
    Guide,
    Network,
    Spec,
    annealed_importance_sampling,
    bidirectional_monte_carlo,
    build,
    compare_posterior,
    fit,
    inference_gaps,
    latent_health,
    log_marginal,
    log_marginal_adaptive,
    log_marginal_refined,
    open_run,
    variants,
)
from pyro_vae.engine.compiled import Compiled
from pyro_vae.spec import AXES, parse
from reading import contents, newest

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"),
]

MEMBERS = [
    (axis, name)
    for axis, (family, *_) in AXES.items()
    for name in variants(family)
    if name != "Conditional"  # needs a condition; it is in the structures with classes
]


def vae_of(axis, member):
    """A VAE with one member of an axis, on the CPU and started from data, and data that it takes."""
    torch.manual_seed(0)
    choice = {} if axis == "objective" else {axis: SHORTER.get(member, member)}
    vae = build(Spec(SHAPE, D, **choice, **beside(axis, member))).double()
    x = example(vae.model.likelihood.support, 8, *SHAPE)
    many = x.repeat(100, 1, 1)
    vae.initialise(
        x.mean(0), x.std(0), examples=many if member == "VampPrior" else None
    )
    return vae, x


@contextlib.contextmanager
def nothing_read():
    """Waiting for the GPU is an error inside."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch calls its own check a prototype
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


# ---------------------------------------------------------------------------------------------------------------------
# Densities and steps, for every member


def scores(program, x, values):
    """log p of each site of a program whose latents are given."""
    given = {name: value.to(x.device) for name, value in values.items()}
    trace = poutine.trace(poutine.condition(program, data=given)).get_trace(x)
    trace.compute_log_prob()
    sites = [
        (n, s)
        for n, s in trace.nodes.items()
        if s["type"] == "sample" and "log_prob" in s
    ]
    return {name: site["log_prob"].detach().cpu() for name, site in sites}


@pytest.mark.parametrize(
    ("axis", "member"), [m for m in MEMBERS if m[0] != "objective"]
)
def test_densities_are_those_of_the_cpu(axis, member):
    vae, x = vae_of(axis, member)
    vae.eval()  # in training the words of a codebook move with each call
    trace = prune_subsample_sites(poutine.trace(vae.guide).get_trace(x))
    values = {n: trace.nodes[n]["value"].detach() for n in trace.stochastic_nodes}
    programs = [vae.model]
    if (
        vae.guide.has_density and vae.guide.amortised and member != "SemiAmortized"
    ):  # no draws
        programs.append(vae.guide)
    try:
        expected = [scores(program, x, values) for program in programs]
    except (
        NotImplementedError
    ):  # a flow without an inverse has a density at its own draws alone
        programs = [vae.model]
        expected = [scores(vae.model, x, values)]
    vae.cuda()
    found = [scores(program, x.cuda(), values) for program in programs]
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)


def three_steps(axis, member, *, compile):
    """Losses and gradients of three steps on the GPU."""
    vae, x = vae_of(axis, member)
    vae.cuda()
    x = x.cuda()
    objective = parse("objective", member if axis == "objective" else "ELBO")()
    sgd = torch.optim.SGD(vae.parameters(), lr=1e-3, fused=True)
    svi = SVI(vae.model, vae.guide, sgd, objective, reduction="mean", compile=compile)
    objective.prepare(8, 20)
    found = []
    for epoch in (5, 6, 7):
        objective.advance(epoch)
        _, record = svi.differentiate(x)
        found += [record.values.clone()]
        found += [p.grad.clone() for p in vae.parameters() if p.grad is not None]
        svi.optimizer.step()
        svi.optimizer.zero_grad()
    assert svi.compiled == compile
    return [*found, torch.cuda.get_rng_state()]


@pytest.mark.parametrize(("axis", "member"), MEMBERS)
def test_every_member_compiles_on_the_gpu(axis, member):
    compiled = three_steps(axis, member, compile=True)
    eager = three_steps(axis, member, compile=False)
    torch.testing.assert_close(compiled, eager, rtol=1e-8, atol=1e-8)


def test_training_on_the_gpu_reads_nothing_back():
    vae = build(Spec((6,), 2, guide="fullrank")).cuda()
    x = torch.rand(50, 6).round().cuda()
    svi = SVI(
        vae.model, vae.guide, lambda p: torch.optim.Adam(p, lr=0.01, fused=True), ELBO()
    )
    svi.step(x)  # the first step validates its arguments, which reads them
    with nothing_read():
        loss = svi.step(x)
    assert loss.device.type == "cuda"
    history = fit(vae, x, epochs=30, learning_rate=0.01, validation=x)
    assert history[-1].elbo > history[0].elbo
    assert math.isfinite(history[-1].validation_elbo)


@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
def test_a_compiled_step_is_the_eager_one_and_reads_nothing_back(autocast):
    x = torch.rand(50, 6).round().cuda()
    found = []
    for asked in (True, False):
        torch.manual_seed(0)
        vae = build(Spec((6,), 2)).cuda()
        vae = vae.double() if autocast is None else vae
        x = x.to(next(vae.parameters()).dtype)
        adam = torch.optim.Adam(vae.parameters(), lr=0.01, fused=True)
        svi = SVI(vae.model, vae.guide, adam, ELBO(), compile=asked, autocast=autocast)
        losses = [svi.step(x) for _ in range(3)]
        with nothing_read():
            losses += [svi.step(x) for _ in range(3)]
        assert svi.compiled == asked
        found.append(torch.stack(losses))
    tolerance = 1e-8 if autocast is None else 2e-2
    torch.testing.assert_close(found[0], found[1], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("network", variants(Network))
def test_a_compiled_run_on_the_gpu_learns(network):
    """With a smaller last batch and another evaluation batch, each of which needs a recording of its own."""
    vae = build(Spec((8, 8), 2, network=network)).cuda()
    x = torch.rand(220, 8, 1).round().expand(220, 8, 8).contiguous().cuda()
    history = fit(
        vae, x, epochs=30, batch_size=50, learning_rate=0.01, validation=x, compile=True
    )
    assert history[-1].elbo > history[0].elbo
    result = log_marginal(vae.model, vae.guide, x, num_particles=1000, compile=True)
    assert result.mean > history[-1].validation_elbo - 0.1


def waits(x):
    """A draw before which PyTorch looks whether all probabilities are numbers, and one after it."""
    drawn = torch.multinomial(x.softmax(-1), 1)
    return [x.gather(1, drawn) + torch.randn_like(x[:, :1])], None


def test_what_waits_for_the_gpu_is_compiled_too():
    x = torch.randn(500, 6, device="cuda")
    compiled = Compiled(waits, state=lambda: ([], None), warn=pytest.fail)
    found = []
    for function in (waits, compiled):
        torch.manual_seed(0)
        found.append(torch.stack([function(x)[0][0].clone() for _ in range(3)]))
    torch.testing.assert_close(found[1], found[0])
    assert not compiled.failed


def test_data_on_the_host_are_taken_along():
    torch.manual_seed(0)
    vae = build(Spec((6,), 2)).cuda()
    x = torch.rand(220, 6).round()
    on_gpu = fit(copy.deepcopy(vae), x.cuda(), epochs=3, batch_size=50)
    on_cpu = fit(vae, x, epochs=3, batch_size=50)
    assert on_cpu[-1].elbo == pytest.approx(on_gpu[-1].elbo, abs=0.5)
    result = log_marginal(vae.model, vae.guide, x, num_particles=100)
    assert result.values.device.type == "cpu"


# ---------------------------------------------------------------------------------------------------------------------
# Every number, against closed forms


def within(result, truth):
    error = result.monte_carlo_standard_error
    assert abs(result.mean - truth.mean().item()) < 4.5 * error + abs(
        getattr(result, "bias", 0.0)
    )


@pytest.fixture
def ppca():
    model = PPCA(2, 5, widen=1.2, shift=0.2)
    x = model.sample(60)
    truth = model.marginal.log_prob(x)
    model.vae.cuda()
    return model, x.cuda(), truth


def test_log_marginal_on_the_gpu_is_within_its_errors():
    model = PPCA(2, 5, widen=1.2, shift=0.2)
    x = model.sample(500)
    model.vae.cuda()
    for compiled in (False, True):
        result = log_marginal(
            *model.pair, x.cuda(), num_particles=1000, compile=compiled
        )
        assert result.values.device.type == "cpu"
        within(result, model.marginal.log_prob(x))


def test_annealing_on_the_gpu(ppca):
    model, x, truth = ppca
    p, q = model.pair
    for guide in (None, q):
        result = annealed_importance_sampling(
            p, x, num_chains=32, num_temperatures=50, guide=guide
        )
        within(result, truth)
    low, high = bidirectional_monte_carlo(
        p, 10, x, num_chains=16, num_temperatures=60
    ).bounds
    assert low - 0.1 < high < low + 0.5


def test_refinement_and_gaps_on_the_gpu(ppca):
    model, x, truth = ppca
    refined = log_marginal_refined(model.pair, x, steps=200, num_particles=200)
    torch.testing.assert_close(refined.values, truth, rtol=0, atol=0.02)
    gaps = inference_gaps(
        model.pair, x, steps=200, num_particles=200, elbo_particles=500
    )
    assert gaps.approximation.abs().max() < 0.05
    for compiled in (False, True):
        result, _ = log_marginal_adaptive(
            model.pair,
            x,
            num_particles=200,
            num_chains=25,
            num_temperatures=20,
            compile=compiled,
        )
        assert (result.values - truth).abs().max() < 0.3


def test_latents_on_the_gpu(ppca):
    model, x, _ = ppca
    health = latent_health(*model.pair, x, draws=2)
    assert health.kl.mean > 0
    found = compare_posterior(
        *model.pair, x[:2], num_samples=500, num_chains=2
    ).draws.mean((1, 2))
    truth = (x[:2].cpu() - model.b) @ model.gain.T
    torch.testing.assert_close(found.cpu(), truth, rtol=0, atol=0.2, check_dtype=False)


def test_several_latents_on_the_gpu():
    levels = Levels((2, 3), widen=1.4, shift=0.1)
    x = levels.sample(12)
    truth = levels.marginal.log_prob(x)
    levels.maps = [w.cuda() for w in levels.maps]
    levels.covariance = levels.covariance.cuda()
    pair, x = (levels.model, levels.guide), x.cuda()
    within(log_marginal(*pair, x, num_particles=20_000), truth)
    refined = log_marginal_refined(pair, x, steps=300, num_particles=200)
    torch.testing.assert_close(refined.values, truth, rtol=0, atol=0.02)
    within(
        annealed_importance_sampling(pair[0], x, num_chains=32, num_temperatures=40),
        truth,
    )


# ---------------------------------------------------------------------------------------------------------------------
# Pairs that are written with Pyro alone


@pytest.fixture
def on_cuda_by_default():
    torch.set_default_device("cuda")
    yield
    torch.set_default_device(None)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("on_cuda_by_default")
@pytest.mark.parametrize("name", list(PAIRS))
def test_losses_on_the_gpu_are_those_of_pyro(name):
    found = []
    for engine in (pyro.infer.SVI, SVI, SVI):
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        pair = PAIRS[name]()
        pyro.set_rng_seed(0)
        svi = engine(pair.model, pair.guide, pyro.optim.Adam({"lr": 0.01}), pair.loss)
        if len(found) == 2:
            svi.compile(warn=pytest.fail)
        losses = [svi.step(*pair.args) for _ in range(12)]
        flat = [
            part
            for loss in losses
            for part in (loss if isinstance(loss, tuple) else [loss])
        ]
        found.append(torch.tensor([float(part) for part in flat]))
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(found[2], found[0], rtol=1e-4, atol=1e-3)


# ---------------------------------------------------------------------------------------------------------------------
# The programs

SMALL = ("--network", "mlp(hidden=(16,))", "--latent-dim", 3, "--batch-size", 100)


def losses_of(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return [row["elbo"] for row in csv.DictReader(file)]


@pytest.mark.parametrize("compile", ["yes", "no"])
def test_a_run_on_the_gpu_is_resumed_to_the_bit(train, call, compile):
    options = (*SMALL, "--device", "cuda", "--compile", compile)
    whole = train("whole", *options, "--epochs", 4)
    again = train("again", *options, "--epochs", 4)
    assert losses_of(again) == losses_of(whole)
    broken = train("broken", *options, "--epochs", 2)
    assert (
        call("train", "--resume", broken, "--epochs", 4, "--device", "cuda").code == 0
    )
    assert losses_of(broken) == losses_of(whole)


def test_a_run_on_the_gpu_answers_every_question_there_and_on_the_cpu(train, call):
    run = train("run", *SMALL, "--device", "cuda", "--epochs", 20)
    asked = ["latents", "gaps(steps=20)", "ais(chains=8, temperatures=30)"]
    asked += ["bdmc(chains=4, temperatures=20)"]
    words = [word for text in asked for word in ("--ask", text)]
    found = {}
    for device in ("cuda", "cpu"):
        options = ("--device", device, "--limit", 50, "--num-particles", 500)
        said = call("evaluate", run, *options, *words, "--report")
        assert (said.code, said.err) == (0, "")
        found[device] = json.loads(newest(run).read_text())
    on_gpu, on_cpu = (found[device]["log_marginal"] for device in ("cuda", "cpu"))
    error = on_gpu["monte_carlo_standard_error"] + on_cpu["monte_carlo_standard_error"]
    assert on_gpu["mean"] == pytest.approx(on_cpu["mean"], abs=5 * error)


@pytest.mark.parametrize(
    "options",
    [
        ("--corrupt", "noise(0.3)"),
        ("--structure", "ladder", "--dims", "3,2"),
        ("--structure", "labelled"),
        ("--structure", "clusters"),
        ("--condition", "label"),
        ("--guide", "codebook(size=16)"),
    ],
)
def test_what_a_run_on_the_gpu_makes(train, call, options):
    own = SMALL[:2] + SMALL[4:] if "--dims" in options else SMALL
    run = train("run", *own, *options, "--device", "cuda", "--epochs", 2)
    for program in ("evaluate", "sample"):
        said = call(program, run, "--device", "cuda")
        assert (said.code, said.err) == (0, "")
    said = call("encode", run, "--device", "cuda")
    assert (said.code, said.err) == (0, "")
    made = {path.suffix for path in contents(run)}
    assert {".png", ".npz"} <= made
    opened = open_run(run, device="cuda")
    assert next(opened.vae.parameters()).device.type == "cuda"


@pytest.mark.parametrize("guide", variants(Guide))
def test_each_guide_is_saved_on_the_gpu_and_read_on_the_cpu(train, guide):
    options = (
        "--guide",
        SHORTER.get(guide, guide.lower()),
        *(f"--{axis}={other}" for axis, other in beside("guide", guide).items()),
        "--epochs",
        1,
        "--device",
        "cuda",
    )
    run = train("run", *SMALL, *options)
    assert next(open_run(run, device="cpu").vae.parameters()).device.type == "cpu"
