"""As many threads as others leave cores for, and the same bits by any number of them."""

import os
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_vae import (
    ELBO,
    SVI,
    Spec,
    annealed_importance_sampling,
    build,
    fit,
    log_marginal,
    log_marginal_adaptive,
)
from pyro_vae.engine import alike, compiled, threads, updates
from pyro_vae.engine.alike import TRIALS, Alike
from pyro_vae.engine.recording import KIND
from pyro_vae.engine.reductions import LONG, split_sums
from pyro_vae.engine.threads import Processor, free_threads, same_bits
from pyro_vae.evaluation.moments import encode
from pyro_vae.inference import averaging
from pyro_vae.inference import svi as svi_module

TICKS = os.sysconf("SC_CLK_TCK")


@pytest.fixture(autouse=True)
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def busy(monkeypatch):
    """Says that others use all cores but one, from the call on."""

    def begin(free=1):
        for module in (alike, averaging, compiled, svi_module, updates):
            monkeypatch.setattr(module, "free_threads", lambda: free)

    return begin


class Machine:
    """A processor of four cores whose clock and counters stand where they are set."""

    def __init__(self, monkeypatch, folder, quota="max 100000", allowed=(0, 1, 2, 3)):
        self.now = self.own = 0.0
        self.used, self.file = [0.0] * 4, folder / "stat"
        (folder / "cpu.max").write_text(quota)
        monkeypatch.setattr(threads, "STATISTICS", self.file)
        monkeypatch.setattr(threads, "QUOTA", folder / "cpu.max")
        monkeypatch.setattr(threads, "_own", lambda: self.own)
        monkeypatch.setattr(threads.time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(
            threads.os, "sched_getaffinity", lambda _: set(allowed), raising=False
        )
        self.write()

    def write(self):
        idle = [int((self.now - used) * TICKS) for used in self.used]
        lines = [
            f"cpu{i} {int(u * TICKS)} 0 0 {n} 0 0 0 0 7 7"
            for i, (u, n) in enumerate(zip(self.used, idle, strict=True))
        ]
        self.file.write_text("\n".join(["cpu  1 2 3 4 5 6 7 8 9 0", *lines, "intr 5"]))

    def work(self, *used, own=0.0, seconds=1.0):
        self.now += seconds
        self.own += own * seconds
        self.used = [u + w * seconds for u, w in zip(self.used, used, strict=True)]
        self.write()


@pytest.mark.parametrize(
    ("used", "own", "free"),
    [
        ((0, 0, 0, 0), 0, 4),
        ((1, 1, 0, 0), 2, 4),  # all of it is this process
        ((1, 1, 1, 0), 1, 2),
        ((1, 1, 1, 1), 0, 0),
        ((0.5, 0, 0, 0), 0, 3.5),
    ],
)
def test_cores_that_others_leave(monkeypatch, tmp_path, used, own, free):
    machine = Machine(monkeypatch, tmp_path)
    processor = Processor()
    assert processor.free() == 4  # nothing is known yet
    machine.work(*used, own=own)
    assert processor.free() == pytest.approx(free, abs=0.05)


def test_what_others_did_long_ago_does_not_count(monkeypatch, tmp_path):
    machine = Machine(monkeypatch, tmp_path)
    processor = Processor()
    machine.work(1, 1, 1, 1)
    assert processor.free() == pytest.approx(0, abs=0.05)
    machine.work(0, 0, 0, 0, seconds=0.1)
    assert processor.free() == pytest.approx(0, abs=0.05)  # looked a moment ago
    machine.work(0, 0, 0, 0)
    assert processor.free() == pytest.approx(4, abs=0.6)


def test_cores_that_this_process_may_not_use_do_not_count(monkeypatch, tmp_path):
    machine = Machine(monkeypatch, tmp_path, allowed=(0, 1))
    processor = Processor()
    machine.work(0, 1, 1, 1)
    assert processor.free() == pytest.approx(1, abs=0.05)


def test_a_container_may_use_what_it_was_given(monkeypatch, tmp_path):
    machine = Machine(monkeypatch, tmp_path, quota="150000 100000")
    processor = Processor()
    assert processor.free() == 1.5
    machine.work(1, 1, 0, 0)
    assert processor.free() == 1.5
    machine.work(1, 1, 1, 0)
    assert processor.free() == pytest.approx(1, abs=0.05)


def test_a_system_that_does_not_tell(monkeypatch, tmp_path):
    machine = Machine(monkeypatch, tmp_path)
    machine.file.unlink()
    monkeypatch.setattr(threads, "QUOTA", tmp_path / "none")
    processor = Processor()
    machine.now += 1
    assert processor.free() == 4


@pytest.mark.parametrize(
    ("free", "count"), [(0, 1), (1.1, 1), (1.6, 1), (1.8, 2), (7, 2)]
)
def test_threads_for_free_cores(monkeypatch, free, count):
    processor = type("P", (), {"free": lambda self: free})()
    monkeypatch.setattr(threads, "_processor", lambda: processor)
    assert free_threads() == count
    assert torch.get_num_threads() == 2


def test_the_same_function_goes_on_by_fewer_threads(busy):
    busy()
    call, by = Alike(), []

    def drawn():
        by.append(torch.get_num_threads())
        return [torch.randn(5)]

    torch.manual_seed(0)
    found = [call("drawn", drawn)[0] for _ in range(TRIALS + 2)]
    torch.manual_seed(0)
    assert all(torch.equal(x, torch.randn(5)) for x in found)
    assert by == [1, 2] * TRIALS + [1, 1]
    assert torch.get_num_threads() == 2


def test_one_that_differs_stays_with_all_threads(busy):
    busy()
    call, by = Alike(), []

    def rounded():
        by.append(torch.get_num_threads())
        return [torch.tensor(1.0 + 1e-7 * torch.get_num_threads())]

    for _ in range(4):
        assert call("rounded", rounded)[0] == torch.tensor(1.0 + 2e-7)
    assert by == [1, 2, 2, 2, 2]


def test_a_trial_changes_nothing_twice(busy):
    busy()
    call, counted = Alike(), torch.zeros(1)
    for _ in range(TRIALS + 1):
        call("counted", lambda: [counted.add_(1).clone()], [counted])
    assert counted == TRIALS + 1


def test_same_bits_of_what_is_no_number():
    nan, x = torch.tensor([torch.nan, 1.0]), torch.tensor([0.0, 1.0])
    assert same_bits(nan, nan.clone())
    assert not same_bits(nan, x)
    assert same_bits(torch.tensor([True]), torch.tensor([True]))
    assert not same_bits(torch.tensor([1]), torch.tensor([2]))


class Wide(PyroModule):
    """A pair whose log-probabilities Pyro sums over all elements at once."""

    def __init__(self, latents=3, size=400):
        super().__init__()
        self.out, self.back = nn.Linear(latents, size), nn.Linear(size, 2 * latents)
        self.latents = latents

    def model(self, x):
        pyro.module("out", self.out)
        with pyro.plate("data", len(x)):
            z = pyro.sample(
                "z", dist.Normal(x.new_zeros(self.latents), 1.0).to_event(1)
            )
            pyro.sample("x", dist.Normal(self.out(z), 1.0).to_event(1), obs=x)

    def guide(self, x):
        pyro.module("back", self.back)
        loc, scale = self.back(x).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, scale.exp()).to_event(1))


MEMBERS = {
    "mlp": {},
    "learned scale": {"likelihood": "gaussian(scale='learned')"},
    "mixture": {"prior": "gaussianmixture"},
    "flow": {"guide": "iaf"},
    "convolutions": {"network": "convnet"},
}


def step_of(name, *, compiled):
    """A step of 100 data with what it changes."""
    torch.manual_seed(0)
    pyro.clear_param_store()
    adam = partial(torch.optim.Adam, lr=1e-3, fused=True)
    if name == "any pair":
        wide = Wide()
        svi = SVI(
            wide.model, wide.guide, adam, pyro.infer.Trace_ELBO(), compile=compiled
        )
        return svi, torch.randn(100, 400), wide
    vae = build(Spec((16, 16), 8, **MEMBERS[name]))
    svi = SVI(vae.model, vae.guide, adam, ELBO(), reduction="mean", compile=compiled)
    return svi, torch.rand(100, 16, 16).round(), nn.ModuleList([vae.model, vae.guide])


@pytest.mark.parametrize("by_graph", [False, True], ids=["Python", "a graph"])
@pytest.mark.parametrize("name", [*MEMBERS, "any pair"])
def test_steps_on_a_busy_processor_have_the_same_bits(busy, name, by_graph):
    runs = []
    for others in (False, True):
        if others:
            busy()
        svi, x, modules = step_of(name, compiled=by_graph)
        losses = [svi.step(x).detach().clone() for _ in range(TRIALS + 3)]
        runs.append([*losses, *(p.detach().clone() for p in modules.parameters())])
    assert all(map(same_bits, *runs))


@pytest.mark.parametrize("longest", [1e-3, 1e6])
def test_what_is_done_beside_a_step_has_the_same_bits(busy, longest):
    options = {"clip_norm": longest, "average": 0.9, "weight_decay": 0.1}
    runs = []
    for free in (2, 1):
        busy(free)
        torch.manual_seed(0)
        vae, x = build(Spec((28, 28), 8)), torch.rand(20, 28, 28).round()
        adam = partial(torch.optim.Adam, lr=1e-3, fused=True)
        svi = SVI(vae.model, vae.guide, adam, ELBO(), reduction="mean", **options)
        for _ in range(TRIALS + 3):
            svi.step(x)
        kept = [p.detach() for p in vae.model.parameters()]
        runs.append([*kept, *map(svi.average.of, vae.model.parameters())])
    assert all(map(same_bits, *runs))


@pytest.mark.parametrize("name", ["mlp", "learned scale", "mixture", "flow"])
def test_graphs_of_dense_networks_give_threads_up(busy, monkeypatch, name):
    svi, x, _ = step_of(name, compiled=True)
    for _ in range(3):
        svi.step(x)
    busy()
    by = []
    entry = svi._compiled._last[1]
    run = entry.run
    entry.run = lambda *inputs: by.append(torch.get_num_threads()) or run(*inputs)
    svi.step(x)
    assert by[0] == 1


def test_epochs_on_a_busy_processor_have_the_same_bits(busy):
    """Validation included."""
    found = []
    for others in (False, True):
        if others:
            busy()
        torch.manual_seed(0)
        vae, x = build(Spec((12,), 2)), torch.rand(300, 12).round()
        history = fit(vae, x[:200], epochs=3, validation=x[200:], compile=False)
        found.append([(e.elbo, e.validation_elbo) for e in history])
    assert found[0] == found[1]


def weighed(vae, x):
    return log_marginal(vae.model, vae.guide, x, num_particles=5000, compile=False)


def annealed(vae, x):
    options = {"num_chains": 2, "num_temperatures": 8, "compile": False}
    return annealed_importance_sampling(vae.model, x, **options)


def adaptive(vae, x):
    return log_marginal_adaptive(vae, x, num_particles=1000, compile=False)[0]


@pytest.mark.parametrize("ask", [weighed, annealed, adaptive])
def test_questions_on_a_busy_processor_have_the_same_bits(busy, monkeypatch, ask):
    torch.manual_seed(0)
    vae, x = build(Spec((16, 16), 4)), torch.rand(12, 16, 16).round()
    found, by = [], []
    switch = alike.threads
    monkeypatch.setattr(alike, "threads", lambda n: by.append(n) or switch(n))
    for others in (False, True):
        if others:
            busy()
        torch.manual_seed(1)
        found.append(ask(vae, x).values)
    assert same_bits(*found)
    assert len(by) > TRIALS  # calls by one thread that were no trials


def latents(vae, x):
    return torch.cat(encode(vae, x, batch_size=2, draws=3))


def drawn(vae, x):
    return vae.sample(len(x))


def means(vae, x):
    return vae.sample(len(x), mean=True)


@pytest.mark.parametrize("guide", ["meanfield", "iaf"])
@pytest.mark.parametrize("program", [latents, drawn, means])
def test_codes_and_draws_on_a_busy_processor_have_the_same_bits(
    busy, monkeypatch, program, guide
):
    monkeypatch.setattr("pyro_vae.models.vae.DECODED", 2)
    torch.manual_seed(0)
    vae = build(Spec((16, 16), 4, guide=guide))
    x = torch.rand(2 * (TRIALS + 3), 16, 16).round()
    found, by, trials = [], [], []
    switch, restored = alike.threads, alike.restored
    monkeypatch.setattr(alike, "threads", lambda n: by.append(n) or switch(n))
    monkeypatch.setattr(alike, "restored", lambda t: trials.append(t) or restored(t))
    for free in (2, 1):
        busy(free)
        torch.manual_seed(1)
        found.append(program(vae, x))
    assert same_bits(*found)
    assert (by, len(trials)) == ([1] * (TRIALS + 3), TRIALS)
    torch.manual_seed(1)
    assert same_bits(program(vae, x), found[0])
    assert len(trials) == TRIALS  # once is enough


def test_what_was_found_out_does_not_hold_for_other_weights(busy):
    busy()
    vae, x = build(Spec((12,), 2)), torch.rand(4, 12).round()
    counts = []
    for dtype in (torch.float32, torch.float32, torch.float64):
        vae.to(dtype)
        latents(vae, x.to(dtype))
        counts.append(len(alike._KEPT[vae.guide]._agreed))
    assert counts == [1, 1, 2]


SHAPES = [
    ((LONG,), None),
    ((4 * LONG,), None),
    ((100, 400), None),
    ((3, 40, 400), [0, 1, 2]),
]
SHAPES += [
    ((3, 40, 400), [1, 2]),
    ((50, 400, 2), [0, 1]),
    ((9, 7), [0]),
    ((8209,), None),
]


@pytest.mark.parametrize(("shape", "dims"), SHAPES)
@pytest.mark.parametrize("keep", [False, True])
def test_sums_in_two_steps_are_the_sums(shape, dims, keep):
    x = torch.randn(shape, dtype=torch.float64)
    total = (
        (lambda x: x.sum()) if dims is None else (lambda x: x.sum(dims, keepdim=keep))
    )
    module = make_fx(total)(x)
    for node in module.graph.nodes:
        if "val" in node.meta or "tensor_meta" in node.meta:
            node.meta[KIND] = node.meta.get("val", node.meta.get("tensor_meta"))
    before = sum("sum" in str(node.target) for node in module.graph.nodes)
    split_sums(module.graph)
    module.recompile()
    after = sum("sum" in str(node.target) for node in module.graph.nodes)
    torch.testing.assert_close(module(x), total(x))
    few = 8 * (x.numel() // max(1, total(x).numel())) >= 8 * LONG
    prime = shape == (8209,)
    assert after - before == (few and not prime)
