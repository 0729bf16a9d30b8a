"""Operations that ONNX lacks, against PyTorch's own."""

import pytest
import torch

from pyro_vae import _onnx as ours


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def matrices(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def positive(*shape):
    a = matrices(*shape)
    return a @ a.mT + torch.eye(shape[-1])


@pytest.mark.parametrize("size", [1, 2, 7])
@pytest.mark.parametrize("upper", [False, True])
def test_a_triangular_factor(size, upper):
    a = positive(2, 3, size, size)
    wanted = torch.linalg.cholesky(a, upper=upper)
    torch.testing.assert_close(ours.cholesky(a, upper=upper), wanted)
    found, info = ours.cholesky_ex(a, upper=upper)
    torch.testing.assert_close(found, wanted)
    assert not info.any()


@pytest.mark.parametrize("upper", [False, True])
def test_a_system_by_its_factor(upper):
    factor = torch.linalg.cholesky(positive(3, 5, 5), upper=upper)
    b = matrices(3, 5, 2)
    wanted = torch.cholesky_solve(b, factor, upper=upper)
    torch.testing.assert_close(ours.cholesky_solve(b, factor, upper), wanted)


@pytest.mark.parametrize("upper", [False, True])
@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("unitriangular", [False, True])
def test_a_triangular_system(upper, left, unitriangular):
    a = matrices(4, 4) + 3 * torch.eye(4)
    a = a.triu() if upper else a.tril()
    b = matrices(3, 4, 2) if left else matrices(3, 2, 4)
    how = {"upper": upper, "left": left, "unitriangular": unitriangular}
    wanted = torch.linalg.solve_triangular(a, b, **how)
    torch.testing.assert_close(ours.solve_triangular(a, b, **how), wanted)


@pytest.mark.parametrize("shape", [(1, 1), (4, 4), (6, 3), (3, 5), (2, 3, 5, 2)])
@pytest.mark.parametrize("mode", ["reduced", "complete"])
def test_reflections_have_the_signs_of_lapack(shape, mode):
    a = matrices(*shape)
    for q, wanted in zip(ours.qr(a, mode), torch.linalg.qr(a, mode), strict=True):
        torch.testing.assert_close(q, wanted)


@pytest.mark.parametrize("column", [[0.0, 0.0, 0.0], [-2.0, 0.0, 0.0], [0.0, 3.0, 4.0]])
def test_reflections_of_columns_that_are_done(column):
    a = torch.tensor([column, [1.0, 2.0, 3.0]], dtype=torch.float64).T
    for q, wanted in zip(ours.qr(a), torch.linalg.qr(a), strict=True):
        torch.testing.assert_close(q, wanted)


@pytest.mark.parametrize("p", [1.0, 2.0])
def test_distances(p):
    a, b = matrices(2, 5, 3), matrices(2, 4, 3)
    torch.testing.assert_close(ours.cdist(a, b, p), torch.cdist(a, b, p))


@pytest.mark.parametrize("bounds", [(-1, 1), (None, 0.5), (-0.5, None)])
def test_bounds_let_nan_be(bounds):
    x = torch.tensor([-2.0, -0.7, 0.0, 0.7, torch.inf, torch.nan])
    wanted = x.clamp(*bounds)
    torch.testing.assert_close(ours.clamp(x, *bounds), wanted, equal_nan=True)
