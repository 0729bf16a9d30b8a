"""How graphs become programs: once for a machine, and without asking what the compiler can."""

import pytest
import torch
from torch._dynamo.utils import counters
from torch._inductor import cpu_vec_isa
from torch._inductor.utils import fresh_cache
from torch._subclasses.fake_tensor import FakeTensorMode

from pyro_vae import ELBO, SVI, Spec, build
from pyro_vae.engine import building

X = torch.rand(20, 4, generator=torch.Generator().manual_seed(0)).round()


def step():
    """The loss of a compiled step, and what Inductor did for it."""
    torch.manual_seed(0)
    vae = build(Spec((4,), 2))
    adam = torch.optim.Adam
    svi = SVI(vae.model, vae.guide, adam, ELBO(), reduction="mean", compile=True)
    counters.clear()
    loss = svi.step(X)
    assert svi.compiled
    return loss, counters["inductor"]


def test_a_graph_is_compiled_once_for_all_processes(monkeypatch):
    """To the bit the same program; another one where what we change in Inductor is another."""
    with fresh_cache():
        loss, first = step()
        again, second = step()
        torch.testing.assert_close(again, loss, rtol=0, atol=0)
        assert (first["fxgraph_cache_miss"], first["fxgraph_cache_hit"]) == (1, 0)
        assert (second["fxgraph_cache_miss"], second["fxgraph_cache_hit"]) == (0, 1)
        mark = type(building._mark())
        monkeypatch.setattr(mark, "uuid", lambda self: "another version")
        assert step()[1]["fxgraph_cache_miss"] == 1


def test_machines_with_other_vectors_do_not_share_a_program(monkeypatch):
    marks = []
    for vectors in ("AVX2", "AVX512"):
        monkeypatch.setattr(
            torch.backends.cpu, "get_cpu_capability", lambda vectors=vectors: vectors
        )
        marks.append(building._mark.__wrapped__().uuid())
    assert len(set(marks)) == 2


def test_shapes_of_a_program_are_numbers_and_no_symbols(monkeypatch):
    """Symbols would be slower, and not all operations can be compiled with them."""
    found = []
    usual = FakeTensorMode.from_tensor

    def noted(mode, *args, **kwargs):
        found.append(usual(mode, *args, **kwargs))
        return found[-1]

    monkeypatch.setattr(FakeTensorMode, "from_tensor", noted)
    with fresh_cache():
        step()
    sizes = [size for tensor in found for size in tensor.shape]
    assert 20 in sizes
    assert {type(size) for size in sizes} == {int}


@pytest.fixture
def asked_anew(monkeypatch):
    """A process in which nothing was built yet."""
    building._forget()
    monkeypatch.setattr(building._Vectors, "believed", True)
    monkeypatch.setattr(building._Vectors, "seen", False)
    yield
    building._forget()


@pytest.mark.usefixtures("asked_anew")
def test_vector_instructions_are_tried_only_where_a_program_cannot_be_built(
    monkeypatch,
):
    tried = []

    def check_build(kind, code):
        tried.append(kind)
        return False

    monkeypatch.setattr(cpu_vec_isa.VecISA, "check_build", check_build)
    most = cpu_vec_isa.x86_isa_checker()

    def make():
        """A compiler that does not know any of them."""
        known = cpu_vec_isa.valid_vec_isa_list()
        if known:
            raise RuntimeError("unknown instructions")
        return known

    if not most:
        pytest.skip("a processor without the vectors that Inductor knows")
    assert building.built(make) == []
    assert tried
    tried.clear()
    assert building.built(make) == []
    assert not tried


@pytest.mark.usefixtures("asked_anew")
def test_what_fails_after_a_program_was_built_is_not_tried_again(monkeypatch):
    assert building.built(lambda: 1) == 1
    calls = []

    def fails():
        calls.append(1)
        raise RuntimeError("no such operation")

    with pytest.raises(RuntimeError):
        building.built(fails)
    assert len(calls) == 1
