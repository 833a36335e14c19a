"""The formulae against NumPy in float64."""

import numpy as np
import pytest
import torch

from catwalk.recommenders.adversarial import factor_drop, visual_drop, visual_drop_by_item
from catwalk.recommenders.losses import bpr_loss, dot, parameter_penalty


@pytest.fixture
def random():
    return np.random.default_rng(0)


def tensors(*arrays):
    return [torch.from_numpy(array) for array in arrays]


def test_dot_is_the_inner_product_of_each_row(random):
    left, right = random.normal(size=(2, 7, 5))
    expected = [sum(a * b for a, b in zip(*rows, strict=True)) for rows in zip(left, right, strict=True)]
    np.testing.assert_allclose(dot(*tensors(left, right)).numpy(), expected, rtol=1e-12)


def test_the_loss_is_the_mean_of_minus_log_sigmoid(random):
    differences = random.normal(size=31) * 3
    expected = np.mean([-np.log(1 / (1 + np.exp(-x))) for x in differences])
    assert bpr_loss(*tensors(differences)).item() == pytest.approx(expected, rel=1e-12)
    assert bpr_loss(*tensors(differences), "sum").item() == pytest.approx(31 * expected, rel=1e-12)


def test_the_loss_of_large_differences_neither_overflows_nor_vanishes():
    differences = torch.tensor([-1000.0, 1000.0], requires_grad=True)
    loss = bpr_loss(differences)
    loss.backward()
    assert loss.item() == 500.0
    assert differences.grad.tolist() == [-0.5, 0.0]


def test_the_penalty_adds_up_squares_or_parameters(random):
    first, second = random.normal(size=(6, 5)), random.normal(size=(6, 3))
    squares, entries = (sum((table**power).sum() for table in (first, second)) for power in (2, 1))
    assert parameter_penalty("squared", *tensors(first, second)).item() == pytest.approx(squares, rel=1e-12)
    assert parameter_penalty("linear", *tensors(first, second)).item() == pytest.approx(entries, rel=1e-12)


def test_no_move_of_the_features_lowers_a_difference_more_than_the_worst(random):
    rho, projection = random.normal(size=(7, 4)), random.normal(size=(9, 4))
    drops = visual_drop(*tensors(rho, projection)).numpy()
    for row in range(7):
        direction = projection @ rho[row]
        worst = -direction / np.linalg.norm(direction)
        # Along the direction itself the drop is reached, and no other of thousands comes near.
        assert drops[row] == pytest.approx(-rho[row] @ (projection.T @ (worst - -worst)), rel=1e-9)
        moves = random.normal(size=(2, 5000, 9))
        moves /= np.linalg.norm(moves, axis=2, keepdims=True)
        others = -(moves[0] - moves[1]) @ projection @ rho[row]
        assert others.max() < drops[row]


def test_items_that_occur_once_have_the_move_of_their_triplet(random):
    differences, rho, projection = random.normal(size=3), random.normal(size=(3, 4)), random.normal(size=(9, 4))
    positives, negatives = torch.tensor([0, 2, 4]), torch.tensor([1, 3, 5])
    by_item = visual_drop_by_item(*tensors(differences, rho, projection), positives, negatives)
    np.testing.assert_allclose(by_item.numpy(), visual_drop(*tensors(rho, projection)).numpy(), rtol=1e-9)


def test_factors_move_along_the_gradient(random):
    p, q_i, q_j = random.normal(size=(3, 5, 4))
    epsilon = 0.3

    def unit(vector):
        return vector / np.linalg.norm(vector)

    expected = []
    for u, i, j in zip(p, q_i, q_j, strict=True):
        moved_u, moved_i, moved_j = u - epsilon * unit(i - j), i - epsilon * unit(u), j + epsilon * unit(u)
        expected.append(u @ (i - j) - moved_u @ (moved_i - moved_j))
    drops = factor_drop(*tensors(p, q_i, q_j), epsilon)
    np.testing.assert_allclose(drops.numpy(), expected, rtol=1e-9)
    once = (torch.arange(5), torch.arange(5), torch.arange(5) + 5)
    by_row = factor_drop(*tensors(p, q_i, q_j), epsilon, torch.zeros(5, dtype=torch.float64), once)
    np.testing.assert_allclose(by_row.numpy(), expected, rtol=1e-9)
