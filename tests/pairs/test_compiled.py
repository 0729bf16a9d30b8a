"""Compiled steps: the same numbers as eager ones, whatever the pair; and what happens where there is no graph."""

import contextlib
import copy
import re
import warnings
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO

from example import SHAPE, SHORTER, D, beside, example
from pyro_vae import (
    ELBO,
    MLP,
    SVI,
    VAE,
    Bernoulli,
    CompileWarning,
    InputError,
    MeanField,
    Spec,
    StandardNormal,
    annealed_importance_sampling,
    build,
    fit,
    log_marginal,
    variants,
)
from pyro_vae.data import Bridge, Split, uniform
from pyro_vae.engine import building, compiled
from pyro_vae.evaluation import weighting as estimators
from pyro_vae.inference import worth
from pyro_vae.inference.epochs import Progress
from pyro_vae.inference.fit import run_epochs
from pyro_vae.inference.objectives import Annealed
from pyro_vae.spec import AXES, parse
from reading import rows

MEMBERS = [
    (axis, name) for axis, (family, *_) in AXES.items() for name in variants(family)
]
PLAIN = {
    "prior": "StandardNormal",
    "network": "MLP",
    "likelihood": "Bernoulli",
    "guide": "MeanField",
}


def interpreted(graph):
    """The graph without a compiler: every operation of it by PyTorch."""
    return graph.module


@pytest.fixture
def no_compiler(monkeypatch):
    monkeypatch.setattr(compiled, "compile_graph", interpreted)


def three_steps(*, missing=False, compile=False, **members):
    """Loss, sites and gradients of three steps, and the state of the random numbers after them.

    With `missing`, half of the values of all but one element are.
    """
    torch.manual_seed(0)
    choice = {**PLAIN, "objective": "ELBO"}
    for axis, member in members.items():
        choice |= {axis: SHORTER.get(member, member), **beside(axis, member)}
    objective = parse("objective", choice.pop("objective"))()
    context = 2 if choice["prior"] == "Conditional" else 0
    vae = build(Spec(SHAPE, D, missing=missing, context=context, **choice)).double()
    x = example(vae.model.likelihood.support, 8, *SHAPE)
    mean, std = x.mean(0), x.std(0)
    if missing:
        hidden = torch.rand(x.shape) < 0.5
        hidden[:, 0, 0] = False
        x[hidden] = torch.nan
    vae.initialise(
        mean,
        std,
        examples=x.repeat(100, 1, 1) if choice["prior"] == "VampPrior" else None,
    )
    svi = SVI(
        vae.model,
        vae.guide,
        lambda p: torch.optim.SGD(p, lr=1e-3),
        objective,
        reduction="mean",
        compile=compile,
    )
    objective.prepare(8, 20)
    found = []
    for epoch in (5, 6, 7):
        objective.advance(epoch)
        _, record = svi.differentiate(
            x if not context else {"x": x, "c": x[:, 0, :context]}
        )
        found += [
            record.values,
            *(p.grad for p in vae.parameters() if p.grad is not None),
        ]
        svi.optimizer.step()
        svi.optimizer.zero_grad()
    assert svi.compiled == compile
    return [*found, torch.get_rng_state()]


def are_the_same_steps(**options):
    compiled, eager = three_steps(**options, compile=True), three_steps(**options)
    for mine, other in zip(compiled, eager, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(("axis", "member"), MEMBERS)
def test_every_member_becomes_a_graph(axis, member, no_compiler):
    are_the_same_steps(**{axis: member})


@pytest.mark.parametrize("member", variants(AXES["likelihood"][0]))
def test_every_likelihood_becomes_a_graph_where_values_are_missing(member, no_compiler):
    are_the_same_steps(likelihood=member, missing=True)


# These objectives need entries that are independent in guide and prior.
CHOOSY = ("BetaTC", "FreeBits", "MeanFieldELBO")


def covering():
    """Pairs that have each member in one of them: guides, structures and choosy members alone, whose graphs are long.

    The other axes go round together, the shorter ones a place further each time, so that they meet others.
    """
    families = {axis: list(variants(family)) for axis, (family, *_) in AXES.items()}
    for axis, names in families.items():
        alone = axis in ("guide", "structure")
        chosen = [n for n in names if alone or n in CHOOSY or beside(axis, n)]
        yield from ({axis: name} for name in chosen)
        families[axis] = [name for name in names if name not in chosen]
    families = {axis: names for axis, names in families.items() if names}
    for i in range(max(map(len, families.values()))):
        yield {
            axis: names[(i + i // len(names)) % len(names)]
            for axis, names in families.items()
        }


COVERING = list(covering())


def test_the_pairs_that_are_compiled_have_every_member():
    assert {member for pair in COVERING for member in pair.items()} == {*MEMBERS}


@pytest.mark.slow
@pytest.mark.parametrize("members", COVERING, ids=lambda m: "-".join(m.values()))
def test_every_member_compiles(members, monkeypatch):
    made = []

    def compile_graph(graph, compile=compiled.compile_graph):
        made.append(graph)
        return compile(graph)

    monkeypatch.setattr(compiled, "compile_graph", compile_graph)
    monkeypatch.setattr(compiled, "LARGE", compiled.HUGE)  # none is interpreted first
    are_the_same_steps(**members)
    assert made


class Noisy(torch.nn.Module):
    """A network with random numbers and with statistics that change."""

    def __init__(self, *sizes):
        super().__init__()
        self.sizes = sizes
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(sizes[0], 6),
            torch.nn.BatchNorm1d(6),
            torch.nn.Dropout(0.4),
            torch.nn.Linear(6, sizes[1]),
        )

    def forward(self, x):
        return self.layers(x.flatten(0, -2)).unflatten(0, x.shape[:-1])


def noisy_pair():
    torch.manual_seed(0)
    encoder = Noisy(4, 8)
    encoder.out_shape = (8,)
    decoder = torch.nn.Sequential(Noisy(2, 4), torch.nn.Unflatten(-1, (1, 4)))
    return VAE(
        StandardNormal(2), decoder, Bernoulli((4,)), MeanField(encoder, 2)
    ).double()


def noisy_steps(training, **options):
    vae = noisy_pair().train(training)
    svi = SVI(
        vae.model, vae.guide, lambda p: torch.optim.SGD(p, lr=0.01), ELBO(), **options
    )
    x = torch.rand(8, 4).round().double()
    losses = [svi.step(x) for _ in range(4)]
    assert svi.compiled == options.get("compile", False)
    return [*losses, *vae.state_dict().values()]


@pytest.mark.parametrize("training", [True, False])
def test_batch_normalisation_and_dropout(training):
    for mine, eager in zip(
        noisy_steps(training, compile=True), noisy_steps(training), strict=True
    ):
        torch.testing.assert_close(mine, eager, rtol=1e-8, atol=1e-8)


def test_training_mode_asks_for_another_graph(no_compiler, monkeypatch):
    monkeypatch.setattr(compiled, "PATIENCE", 1)
    vae, twin = noisy_pair(), noisy_pair()
    x = torch.rand(8, 4).round().double()
    losses = []
    for pair, asked in ((vae, True), (twin, False)):
        svi = SVI(
            pair.model,
            pair.guide,
            lambda p: torch.optim.SGD(p, lr=0.01),
            ELBO(),
            compile=asked,
        )
        torch.manual_seed(1)
        for training in (True, True, False, False, True):
            pair.train(training)
            losses.append(svi.step(x).item())
    assert losses[:5] == pytest.approx(losses[5:], rel=1e-12)


def regression(x, y):
    """Weights and noise outside the data plate, a local intercept inside: not a VAE."""
    weights = pyro.sample("weights", dist.Normal(x.new_zeros(5), 1.0).to_event(1))
    noise = pyro.sample("noise", dist.LogNormal(x.new_zeros(()), 1.0))
    with pyro.plate("data", len(x)):
        shift = pyro.sample("shift", dist.Normal(x.new_zeros(()), 1.0))
        pyro.sample("y", dist.Normal(x @ weights + shift, noise), obs=y)


class Amortised:
    def __init__(self):
        torch.manual_seed(0)
        self.network = torch.nn.Sequential(
            torch.nn.Linear(5, 20), torch.nn.Tanh(), torch.nn.Linear(20, 2)
        ).double()

    def __call__(self, x, y):
        pyro.module("network", self.network)
        loc = pyro.param("loc", lambda: x.new_zeros(5))
        scale = pyro.param(
            "scale", lambda: x.new_full((5,), 0.1), constraint=constraints.positive
        )
        pyro.sample("weights", dist.Normal(loc, scale).to_event(1))
        pyro.sample(
            "noise",
            dist.LogNormal(pyro.param("log_noise", lambda: x.new_zeros(())), 0.1),
        )
        with pyro.plate("data", len(x)):
            h = self.network(x)
            pyro.sample("shift", dist.Normal(h[:, 0], h[:, 1].exp()))


@pytest.mark.parametrize("loss", [Trace_ELBO, TraceMeanField_ELBO])
def test_functions_with_the_parameter_store_step_as_under_pyro(loss):
    torch.manual_seed(1)
    x = torch.randn(50, 5).double()
    y = x.sum(1) + torch.randn(50).double()
    losses = []
    for make in (lambda *a: SVI(*a, compile=True), pyro.infer.SVI):
        with pyro.get_param_store().scope():
            torch.manual_seed(2)
            svi = make(regression, Amortised(), pyro.optim.Adam({"lr": 0.01}), loss())
            losses.append([float(svi.step(x, y)) for _ in range(6)])
            assert getattr(svi, "compiled", True)
    assert losses[0] == pytest.approx(losses[1], rel=1e-10)


def small(likelihood="Bernoulli", dtype=torch.float64, **options):
    torch.manual_seed(0)
    vae = build(Spec((4,), 2, likelihood=likelihood)).to(dtype)
    objective = options.pop("objective", None) or ELBO()
    return SVI(
        vae.model,
        vae.guide,
        lambda p: torch.optim.SGD(p, lr=1e-3),
        objective,
        **options,
    )


def bits(n):
    return torch.rand(n, 4, generator=torch.Generator().manual_seed(3)).round().double()


def test_a_weight_that_changes_is_an_input(no_compiler):
    losses = []
    for asked in (True, False):
        objective = Annealed(epochs=10)
        svi = small(objective=objective, compile=asked)
        torch.manual_seed(1)
        for epoch in range(10):
            objective.advance(epoch)
            losses.append(svi.step(bits(8)).item())
        if asked:
            assert len(svi._compiled._graphs) == 1
    assert losses[:10] == pytest.approx(losses[10:], rel=1e-12)


def test_a_number_that_changes_makes_a_graph_of_which_the_oldest_are_dropped(
    no_compiler, monkeypatch
):
    monkeypatch.setattr(compiled, "PATIENCE", 1)
    losses = []
    for asked in (True, False):
        objective = ELBO()
        svi = small(objective=objective, compile=asked)
        torch.manual_seed(1)
        for i in range(12):
            objective.beta = 1 + i / 10
            losses.append(svi.step(bits(8)).item())
        assert svi.compiled == asked
    assert losses[:12] == pytest.approx(losses[12:], rel=1e-12)


def test_values_that_always_change_are_told_of(no_compiler, monkeypatch):
    monkeypatch.setattr(compiled, "MOST_WAYS", 10)
    objective = ELBO()
    svi, told = small(objective=objective), []
    svi.compile(warn=told.append)
    for i in range(30):
        objective.beta = 1 + i / 10
        svi.step(bits(8))
    assert len(told) == 1
    assert "let values that change be tensors" in told[0]


@pytest.mark.parametrize("kind", ["dynamic", "dequantize"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_batches_made_inside_the_graph_are_the_same(kind, dtype, monkeypatch):
    monkeypatch.setattr(uniform, "FEW", 0)
    stored = torch.arange(160, dtype=torch.uint8).view(40, 4)
    data, likelihood = (
        Split(stored, Bridge.kinds()[kind](255.0), dtype),
        "Bernoulli" if kind == "dynamic" else "Gaussian",
    )
    found = []
    for asked in (False, True):
        svi = small(likelihood, dtype, compile=asked, reduction="mean")
        epochs = run_epochs(svi, data, epochs=3, batch_size=10, compile=asked)
        found.append(
            [value for epoch in epochs for value in (epoch.loss, epoch.elbo, epoch.kl)]
        )
        found[-1] += torch.rand(2).tolist()  # both have drawn as many numbers
        assert svi.compiled == asked
        if asked:
            assert len(svi._compiled._graphs) == 1
    assert found[1] == pytest.approx(
        found[0], rel=1e-8 if dtype == torch.float64 else 1e-4
    )


def test_batches_of_another_bridge_make_another_graph(no_compiler, monkeypatch):
    monkeypatch.setattr(compiled, "PATIENCE", 1)
    svi = small(compile=True)
    stored = torch.full((8, 4), 100, dtype=torch.uint8)
    losses = []
    for kind in ("threshold", "scale", "threshold"):
        torch.manual_seed(1)
        (batch,) = Split(stored, Bridge.kinds()[kind](255.0), torch.float64).later(
            torch.arange(8), 8
        )
        losses.append(svi.differentiate(batch)[0].item())
    assert losses[0] == losses[2] != losses[1]
    assert len(svi._compiled._graphs) == 2


def test_a_further_batch_shape_waits(no_compiler, monkeypatch):
    monkeypatch.setattr(compiled, "PATIENCE", 3)
    svi = small(compile=True)
    graphs = []
    for n in (8, 8, 5, 8, 5, 5, 8):
        svi.step(bits(n))
        graphs.append(len(svi._compiled._graphs))
    assert graphs == [1, 1, 1, 1, 1, 2, 2]


def test_a_further_layout_is_not_taken_for_the_first():
    """A graph compiled for rows one after the other would read past the end of a row that is repeated."""
    doubled = compiled.Compiled(lambda x: ([2 * x + 1], None), state=lambda: ([], None))
    doubled(torch.randn(64, 32))
    row = torch.randn(32)
    (found,), _ = doubled(row.expand(64, 32))
    torch.testing.assert_close(found, (2 * row + 1).expand(64, 32))


def test_normals_are_those_of_python():
    """They are drawn without the look at their scales for which a GPU would wait."""
    loc, scale = torch.randn(7, 30), 0.1 + torch.rand(30).expand(7, 30)

    def draw(loc, scale):
        return [torch.normal(loc, scale), torch.normal(0.5, scale)], None

    run = compiled.Compiled(draw, state=lambda: ([], None), warn=pytest.fail)
    for seed in range(2):
        torch.manual_seed(seed)
        expected, _ = draw(loc, scale)
        torch.manual_seed(seed)
        torch.testing.assert_close(run(loc, scale)[0], expected)


def test_what_the_cpp_wrapper_does_not_know_is_compiled_without_it(monkeypatch, caplog):
    caplog.set_level("INFO")
    asked = []

    def program(module, inputs, options, make=compiled.kept_program):
        asked.append("cpp_wrapper" in options)
        if asked[-1]:
            raise NotImplementedError("no such operation in C++")
        return make(module, inputs, options)

    monkeypatch.setattr(compiled, "kept_program", program)
    monkeypatch.setattr(building._Vectors, "seen", True)
    svi = small(compile=True)
    svi.step(bits(8))
    assert svi.compiled
    assert asked == [True, False]
    assert "no such operation in C++" in caplog.text


def test_a_recording_reads_where_it_was_made_and_writes_to_nobodys_data(monkeypatch):
    """The bookkeeping of CUDA graphs, with a graph whose replay calls the function on the recorded memory."""

    class Graph:
        def __init__(self, recorded):
            self.inputs, self.outputs = recorded._inputs, recorded._outputs

        def replay(self):
            for output, value in zip(self.outputs, add(*self.inputs), strict=True):
                output.copy_(value)

    def record(self):
        recordings.append(1)
        self._outputs = add(*self._inputs)
        self._graph = Graph(self)

    def add(weight, x):
        return [weight + x]

    recordings = []
    monkeypatch.setattr(compiled._Recorded, "_record", record)
    data, weight = torch.arange(6.0), torch.tensor(10.0)
    run = compiled._Recorded(add, [weight, data[:2]])
    for start in (0, 2, 4, 2, 0):
        batch = data[start : start + 2]
        assert run(weight, batch)[0].tolist() == [start + 10, start + 11]
    weight += 1  # in place, as an optimizer does
    assert run(weight, data[4:])[0].tolist() == [15, 16]
    assert data.tolist() == [0, 1, 2, 3, 4, 5]
    assert len(recordings) == 2


def test_what_python_decides_is_assumed_until_it_changes_too_often(no_compiler):
    class Deciding(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, z):
            return self.inner(z if z.mean() > 0 else -z)

    losses = []
    for asked in (True, False):
        svi = small(compile=asked)
        svi.model.decoder = Deciding(svi.model.decoder)
        torch.manual_seed(1)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            losses.append([svi.step(bits(8)).item() for _ in range(40)])
        assert [str(w.message) for w in said] == asked * [
            "the step runs uncompiled: a value that decides what Python does (a branch, a length, an index of truths) "
            "changes from call to call"
        ]
        assert not svi.compiled
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)


def wrong(graph):
    return lambda *inputs: [1.01 * o for o in graph.module(*inputs)]


def none(graph):
    return 1 / 0


@pytest.mark.parametrize("interpreted", [True, False])
@pytest.mark.parametrize(
    ("broken", "words"), [(wrong, "other numbers"), (none, "ZeroDivision")]
)
def test_a_compiler_that_fails_changes_nothing(monkeypatch, broken, words, interpreted):
    monkeypatch.setattr(compiled, "compile_graph", broken)
    if not interpreted:
        monkeypatch.setattr(compiled, "interpret_graph", broken)
    losses = []
    for asked in (False, True):
        svi = small(compile=asked)
        torch.manual_seed(1)
        with (
            pytest.warns(CompileWarning, match=words)
            if asked
            else contextlib.nullcontext()
        ):
            losses.append(svi.step(bits(8)).item())
        losses.append(svi.step(bits(8)).item())
        assert svi.compiled == (asked and interpreted)
    assert losses[:2] == pytest.approx(losses[2:], rel=1e-12)


def test_a_graph_in_lower_precision(no_compiler):
    torch.manual_seed(0)
    losses = []
    for asked in (True, False):
        torch.manual_seed(0)
        vae = build(Spec((4,), 2))
        svi = SVI(
            vae.model,
            vae.guide,
            torch.optim.SGD,
            ELBO(),
            autocast=torch.bfloat16,
            compile=asked,
        )
        losses.append([svi.step(bits(8).float()).item() for _ in range(3)])
        assert svi.compiled == asked
    assert losses[0] == losses[1]


@pytest.mark.slow
def test_machine_code_in_lower_precision():
    """It rounds less often than Python does: losses agree, single gradients lie some hundredths apart."""
    losses = []
    for asked in (True, False):
        torch.manual_seed(0)
        vae = build(Spec((6,), 2))
        adam = torch.optim.Adam(vae.parameters(), lr=1e-3)
        svi = SVI(
            vae.model, vae.guide, adam, ELBO(), autocast=torch.bfloat16, compile=asked
        )
        x = torch.rand(50, 6).round()
        losses.append(
            [svi.step(x).item() for _ in range(6)]
        )  # a CompileWarning would be an error
        assert svi.compiled == asked
    assert losses[0] == pytest.approx(losses[1], rel=5e-3)


def test_latents_that_cannot_be_reparameterised(no_compiler):
    decoder = torch.nn.Linear(2, 4).double()
    encoder = torch.nn.Linear(4, 2).double()
    start = copy.deepcopy((decoder.state_dict(), encoder.state_dict()))

    class Pair(pyro.nn.PyroModule):
        def __init__(self, run, network):
            super().__init__()
            self.network, self.run = network, run

        def forward(self, x):
            with pyro.plate("data", len(x), dim=-1):
                self.run(self.network, x)

    def generate(network, x):
        z = pyro.sample("z", dist.Bernoulli(0.3 * x.new_ones(2)).to_event(1))
        pyro.sample("x", dist.Bernoulli(logits=network(z)).to_event(1), obs=x)

    losses = []
    for asked in (True, False):
        for network, values in zip((decoder, encoder), start, strict=True):
            network.load_state_dict(values)
        guide = Pair(
            lambda network, x: pyro.sample(
                "z", dist.Bernoulli(logits=network(x)).to_event(1)
            ),
            encoder,
        )
        svi = SVI(
            Pair(generate, decoder),
            guide,
            lambda p: torch.optim.SGD(p, lr=0.01),
            ELBO(),
            compile=asked,
        )
        torch.manual_seed(1)
        losses.append([svi.step(bits(8)).item() for _ in range(4)])
        assert svi.compiled == asked
    assert losses[0] == losses[1]


@pytest.fixture
def _costs(monkeypatch):
    """Compiling takes 7 s, and each operation saves a hundredth of a second in each step."""
    monkeypatch.setitem(worth.RATES, "cpu", worth.Rates(1, 7.0, 0.0, 0.01, 0.0))


@pytest.mark.usefixtures("no_compiler", "_costs")
def test_auto_compiles_by_the_seconds_that_it_saves():
    """A step has more than 150 operations and fewer than 300: 2 steps save 3 to 6 s, 6 of them 9 to 18."""
    for epochs, expected in ((1, False), (3, True)):
        svi, said, progress = small(reduction="mean"), [], Progress()
        options = {
            "epochs": epochs,
            "batch_size": 4,
            "progress": progress,
            "say": said.append,
        }
        list(run_epochs(svi, bits(8), **options))
        assert svi.compiled is expected
        assert progress.compiled is expected
        assert len(said) == int(expected)
    assert re.fullmatch(
        r"6 steps repay it, saving about \d+ s for 7 s in the first epoch", said[0]
    )


@pytest.mark.usefixtures("no_compiler", "_costs")
@pytest.mark.parametrize("decided", [True, False])
def test_what_auto_decided_stays_decided(decided):
    """Resumed with more epochs or fewer, a run keeps to its way, so that it gives the bits it would have given."""
    svi, progress = small(reduction="mean"), Progress(compiled=decided)
    list(
        run_epochs(
            svi, bits(8), epochs=1 if decided else 9, batch_size=4, progress=progress
        )
    )
    assert svi.compiled is decided


@pytest.mark.usefixtures("no_compiler", "_costs")
def test_deciding_changes_nothing():
    """Neither weights nor random numbers, and two decisions are the same."""
    losses = []
    for way in ("auto", "auto", True):
        torch.manual_seed(0)
        svi = small(reduction="mean")
        losses.append([e.loss for e in run_epochs(svi, bits(8), epochs=3, compile=way)])
    assert losses[0] == losses[1] == losses[2]


def test_long_steps_repay_compiling_sooner_than_short_ones():
    """3,000 steps of a network that writes much are worth it; of one that writes little, not yet."""
    x = torch.rand(100, 28, 28).round()
    for network, expected in (("resnet", True), ("mlp(hidden=(50,))", False)):
        vae = build(Spec((28, 28), 20, network=network))
        svi = SVI(vae.model, vae.guide, partial(torch.optim.Adam, lr=1e-3), ELBO())
        assert (worth.worth(svi, x, steps=3000, batch_size=100) is not None) is expected
        assert worth.worth(svi, x, steps=800, batch_size=100) is None
        assert worth.worth(svi, x, steps=10**5, batch_size=100) is not None


def test_fit_takes_it_in_words():
    vae = build(Spec((4,), 2)).double()
    with pytest.raises(InputError, match="compile='yes' must be True, False or 'auto'"):
        fit(vae, bits(8), epochs=1, compile="yes")


@pytest.mark.usefixtures("blank_figures")
def test_a_compiled_run_goes_on_exactly(call, tmp_path):
    """From the program, by Inductor: broken off and resumed, the same numbers as in one go and as uncompiled."""
    tiny = ("--network", "mlp(hidden=(8,))", "--latent-dim", 2, "--epochs", 3)
    for name, how in (("whole", "yes"), ("eager", "no")):
        said = call("train", *tiny, "--compile", how, "--output", tmp_path / name)
        assert (said.code, said.err) == (0, "")
    first = tmp_path / "parts"
    assert call("train", *tiny[:-1], 2, "--compile", "yes", "--output", first).code == 0
    assert call("train", "--resume", first, "--epochs", 3).code == 0
    kept = [
        [{**row, "seconds": 0, "images_per_second": 0} for row in rows(tmp_path / n)]
        for n in ("whole", "parts", "eager")
    ]
    assert kept[0] == kept[1]
    for mine, eager in zip(kept[0], kept[2], strict=True):
        assert {k: float(v) for k, v in mine.items()} == pytest.approx(
            {k: float(v) for k, v in eager.items()}, rel=1e-4, nan_ok=True
        )


WEIGHED = [
    (axis, name) for axis, name in MEMBERS if axis != "objective" and name != "Delta"
]


def evaluated(axis, member, estimate):
    """The columns of `estimate(vae, x, compile)` by a graph and without one, from the same random numbers."""
    torch.manual_seed(0)
    context = 2 if member == "Conditional" else 0
    choice = {**PLAIN, axis: SHORTER.get(member, member), **beside(axis, member)}
    vae = build(Spec(SHAPE, D, context=context, **choice)).double().eval()
    x = example(vae.model.likelihood.support, 5, *SHAPE)
    vae.initialise(x.mean(0), x.std(0))
    if context:
        x = {"x": x, "c": x[:, 0, :context]}
    results = []
    for asked in (True, False):
        torch.manual_seed(1)
        with warnings.catch_warnings():
            warnings.simplefilter("error", CompileWarning)
            results.append(estimate(vae, x, asked).per_datum)
    return [(column, results[1][name]) for name, column in results[0].items()]


@pytest.mark.parametrize(("axis", "member"), WEIGHED)
def test_importance_weighting_as_a_graph(axis, member, no_compiler, monkeypatch):
    monkeypatch.setitem(estimators.CHUNK, "cpu", 12)  # 11 draws of one datum at a time

    def estimate(vae, x, asked):
        return log_marginal(vae.model, vae.guide, x, num_particles=33, compile=asked)

    for mine, eager in evaluated(axis, member, estimate):
        torch.testing.assert_close(mine, eager, rtol=1e-8, atol=1e-8)


ANNEALED = [m for m in WEIGHED if not beside(*m)]  # of reals


@pytest.mark.parametrize(("axis", "member"), ANNEALED)
def test_annealing_as_a_graph(axis, member, no_compiler):
    def estimate(vae, x, asked):
        options = {
            "num_chains": 3,
            "num_temperatures": 4,
            "leapfrogs": 2,
            "compile": asked,
        }
        return annealed_importance_sampling(
            vae.model, x, guide=vae.guide if axis == "guide" else None, **options
        )

    for mine, eager in evaluated(axis, member, estimate):
        torch.testing.assert_close(mine, eager, rtol=1e-8, atol=1e-8)


def test_importance_weighting_compiles_when_there_is_much_to_do(
    no_compiler, monkeypatch
):
    vae = noisy_pair().eval()
    graphs = []
    monkeypatch.setattr(
        compiled, "compile_graph", lambda graph: graphs.append(graph) or graph.module
    )
    x = torch.rand(6, 4).round().double()
    for work, expected in ((1e11, 0), (1e4, 1)):
        monkeypatch.setattr(estimators, "REPAID", work)
        log_marginal(vae.model, vae.guide, x, num_particles=50)
        assert len(graphs) == expected


def by_both_ways(**options):
    """Two pairs alike, with the short way to the kernel of fused Adam and the long one, and data."""
    torch.manual_seed(0)
    pairs = [noisy_pair()]
    pairs.append(copy.deepcopy(pairs[0]))
    x = torch.rand(8, 4).round().double()
    svis = []
    for pair in pairs:
        optimizer = torch.optim.Adam(
            list(pair.parameters()), lr=0.01, fused=True, **options
        )
        svis.append(SVI(pair.model, pair.guide, optimizer, ELBO()))
    # Who listens gets the long way.
    svis[1].optimizer.register_step_pre_hook(lambda *_: None)
    return pairs, svis, x


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"weight_decay": 0.1, "betas": (0.8, 0.9)},
        {"amsgrad": True},
        {"maximize": True},
    ],
)
def test_adam_moves_as_pytorch_moves_it(options):
    """The short way to the fused kernel against `optimizer.step()`, over a step that waits and one that is loaded."""
    pairs, svis, x = by_both_ways(**options)
    for i in range(6):
        for svi in svis:
            torch.manual_seed(i)
            for group in svi.optimizer.param_groups:
                group["lr"] = 0.01 / (i + 1)
            if i == 3:
                svi.differentiate(x)
            if i == 4:
                svi.optimizer.load_state_dict(copy.deepcopy(svi.optimizer.state_dict()))
            svi.step(x)
    for mine, theirs in zip(
        pairs[0].state_dict().values(), pairs[1].state_dict().values(), strict=True
    ):
        assert torch.equal(mine, theirs)
    mine, theirs = (svi.optimizer.state_dict()["state"] for svi in svis)
    assert all(
        torch.equal(value, theirs[i][name])
        for i, state in mine.items()
        for name, value in state.items()
    )


def cleared(optimizer):
    optimizer.state.clear()


def started_anew(optimizer):
    for state in optimizer.state.values():
        for name, value in state.items():
            state[name] = torch.zeros_like(value)


def given_other_states(optimizer):
    for parameter, state in optimizer.state.items():
        optimizer.state[parameter] = {n: v.clone() * 0.5 for n, v in state.items()}


def other_betas(optimizer):
    optimizer.param_groups[0]["betas"] = (0.5, 0.6)


def two_groups(optimizer):
    group = optimizer.param_groups[0]
    moved = group["params"].pop()
    optimizer.param_groups.append({**group, "params": [moved], "lr": 0.1})


@pytest.mark.parametrize(
    "change", [cleared, started_anew, given_other_states, other_betas, two_groups]
)
def test_what_is_changed_in_an_optimizer_between_steps_counts(change):
    """Against `optimizer.step()`, which reads all of it anew."""
    pairs, svis, x = by_both_ways()
    for i in range(6):
        for svi in svis:
            torch.manual_seed(i)
            if i == 3:
                change(svi.optimizer)
            svi.step(x)
    ends = (pair.state_dict().values() for pair in pairs)
    assert all(map(torch.equal, *ends))


class Odd(torch.nn.Module):
    """A decoder whose parameters get gradients in other layouts than their own: transposed, and expanded."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(
            torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
        )
        self.level = torch.nn.Parameter(torch.arange(4.0))

    def forward(self, z):
        return (z.flatten(0, -2) @ self.weight.T).unflatten(0, z.shape[:-1]).unsqueeze(
            -2
        ) + self.level.sum()


@pytest.mark.parametrize("compile", [False, True])
def test_gradients_have_the_layout_that_fused_adam_trusts_in(compile, no_compiler):
    x = torch.rand(8, 4).round()
    found = []
    for fused in (True, False):
        torch.manual_seed(0)
        vae = VAE(
            StandardNormal(2),
            Odd(),
            Bernoulli((4,)),
            MeanField(MLP((4,), hidden=(3,)), 2),
        )
        adam = torch.optim.Adam(vae.parameters(), lr=0.01, fused=fused)
        svi = SVI(vae.model, vae.guide, adam, ELBO(), compile=compile and fused)
        for _ in range(5):
            svi.step(x)
        found.append(list(vae.parameters()))
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs)
