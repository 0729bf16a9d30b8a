"""The form that operations are given for Inductor, which must not change what they compute."""

import pytest
import torch

from pyro_vae.engine import compiled, fusing


def program(function, *inputs):
    graph = compiled.trace(
        lambda *given: ([function(*given)], None), [], [*inputs], inputs
    )
    fusing.biases_apart(graph.operations)
    run = compiled.compile_graph(graph)
    return lambda *given: run(*given, *graph.others)[0], graph.operations


def targets(operations):
    return [str(node.target) for node in operations.nodes]


def test_tanh_is_right_to_7_units_in_the_last_place():
    """Against double precision, from the smallest numbers to the largest."""
    tiny, large = torch.logspace(-44, 0, 100_001), torch.linspace(0, 20, 400_001)
    x = torch.cat([tiny, large, torch.tensor([1e30, torch.inf])])
    x = torch.cat([-x, x])
    run, operations = program(torch.tanh, x)
    assert not any("tanh" in target for target in targets(operations))
    found, truth = run(x), x.double().tanh()
    unit = (
        torch.nextafter(truth.abs().float(), torch.tensor(torch.inf))
        - truth.abs().float()
    )
    assert ((found - truth).abs() <= 7 * unit).all()
    assert found.abs().max() <= 1
    assert torch.equal(found[: len(x) // 2], -found[len(x) // 2 :])
    assert run(torch.full_like(x, torch.nan)).isnan().all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_tanh_of_other_numbers_stays_the_library_s(dtype):
    x = torch.linspace(-4, 4, 64, dtype=dtype)
    run, operations = program(torch.tanh, x)
    assert any("tanh" in target for target in targets(operations))
    torch.testing.assert_close(run(x), torch.tanh(x))


def images(x, w):
    """Of which a product takes rows, and a sum the images."""
    made = (x / 3).exp().sigmoid()
    return made.flatten(1) @ w + (made * 2).sum((1, 2))[:, None]


def test_what_a_product_takes_through_a_view_is_computed_once():
    x, w = torch.randn(40, 8, 16), torch.randn(128, 70)
    run, operations = program(images, x, w)
    assert sum("force_stride_order" in target for target in targets(operations)) == 1
    torch.testing.assert_close(run(x, w), images(x, w))


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_in_whatever_order_numbers_lie(order):
    x, w = torch.randn(40, 40, 40).permute(order), torch.randn(1600, 70)
    run, _ = program(images, x, w)
    torch.testing.assert_close(run(x, w), images(x, w), rtol=1e-5, atol=1e-4)


def written(x, w):
    """Changed in place after a product took it, which has to see what was there before."""
    made = (x / 3).exp()
    before = made.flatten(1) @ w
    made.mul_(2)
    return before + made.flatten(1) @ w


def test_what_is_written_to_is_left_alone():
    x, w = torch.randn(40, 8, 16), torch.randn(128, 70)
    run, operations = program(written, x, w)
    assert not any("force_stride_order" in target for target in targets(operations))
    torch.testing.assert_close(run(x, w), written(x, w))


def test_a_bias_is_added_after_the_product():
    x, w, bias = torch.randn(40, 80), torch.randn(70, 80), torch.randn(70)

    def affine(x, w, bias):
        return torch.addmm(bias, x, w.t()).relu()

    run, operations = program(affine, x, w, bias)
    assert not any("addmm" in target for target in targets(operations))
    torch.testing.assert_close(run(x, w, bias), affine(x, w, bias))
