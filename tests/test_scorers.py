"""The formulae against NumPy in float64."""

import numpy as np
import pytest
import torch

from catwalk.scorers import bpr_difference, bpr_loss, dot, squared_norm, visual_difference


@pytest.fixture
def random():
    return np.random.default_rng(0)


def tensors(*arrays):
    return [torch.from_numpy(array) for array in arrays]


def test_dot_is_the_inner_product_of_each_row(random):
    left, right = random.normal(size=(2, 7, 5))
    expected = [sum(a * b for a, b in zip(*rows, strict=True)) for rows in zip(left, right, strict=True)]
    np.testing.assert_allclose(dot(*tensors(left, right)).numpy(), expected, rtol=1e-12)


def test_the_differences_are_those_of_two_scores(random):
    p, q_i, q_j = random.normal(size=(3, 7, 5))
    rho, projection = random.normal(size=(7, 4)), random.normal(size=(9, 4))
    f_i, f_j = random.normal(size=(2, 7, 9))
    expected = [p[row] @ q_i[row] - p[row] @ q_j[row] for row in range(7)]
    np.testing.assert_allclose(bpr_difference(*tensors(p, q_i, q_j)).numpy(), expected, rtol=1e-9)
    expected = [rho[row] @ (projection.T @ f_i[row]) - rho[row] @ (projection.T @ f_j[row]) for row in range(7)]
    np.testing.assert_allclose(visual_difference(*tensors(rho, f_i, f_j, projection)).numpy(), expected, rtol=1e-9)


def test_the_loss_is_the_mean_of_minus_log_sigmoid(random):
    differences = random.normal(size=31) * 3
    expected = np.mean([-np.log(1 / (1 + np.exp(-x))) for x in differences])
    assert bpr_loss(*tensors(differences)).item() == pytest.approx(expected, rel=1e-12)


def test_the_loss_of_large_differences_neither_overflows_nor_vanishes():
    differences = torch.tensor([-1000.0, 1000.0], requires_grad=True)
    loss = bpr_loss(differences)
    loss.backward()
    assert loss.item() == 500.0
    assert differences.grad.tolist() == [-0.5, 0.0]


def test_the_squared_norm_is_per_triplet(random):
    first, second = random.normal(size=(6, 5)), random.normal(size=(6, 3))
    expected = np.mean([(a**2).sum() + (b**2).sum() for a, b in zip(first, second, strict=True)])
    assert squared_norm(*tensors(first, second)).item() == pytest.approx(expected, rel=1e-12)
