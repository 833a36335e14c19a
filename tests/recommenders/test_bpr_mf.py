"""BPR-MF's scores, loss and gradients against NumPy in float64."""

import numpy as np
import pytest
import torch

from catwalk.recommenders.bpr_mf import BPRMFModel, BPRMFSettings

USERS, POSITIVES, NEGATIVES = [0, 3, 3, 1, 3, 0], [2, 5, 5, 0, 2, 2], [5, 2, 1, 6, 1, 4]


def make_model(regularization):
    model = BPRMFModel(5, 7, BPRMFSettings(factors=3, regularization=regularization)).double()
    random = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=random, dtype=torch.float64))
    return model


@pytest.mark.parametrize("lam", [0.0, 0.4])
def test_loss_and_gradients_are_the_analytic_ones(lam):
    model = make_model(lam)
    loss = model.loss(*(torch.tensor(rows) for rows in (USERS, POSITIVES, NEGATIVES)))
    loss.backward()
    p, q = model.users.weight.detach().numpy(), model.items.weight.detach().numpy()
    expected, grad_p, grad_q = 0.0, np.zeros_like(p), np.zeros_like(q)
    for u, i, j in zip(USERS, POSITIVES, NEGATIVES, strict=True):
        x = p[u] @ q[i] - p[u] @ q[j]
        slope = -1 / (1 + np.exp(x))
        expected += (np.log1p(np.exp(-x)) + lam * ((p[u] ** 2).sum() + (q[i] ** 2).sum() + (q[j] ** 2).sum())) / 6
        grad_p[u] += (slope * (q[i] - q[j]) + 2 * lam * p[u]) / 6
        grad_q[i] += (slope * p[u] + 2 * lam * q[i]) / 6
        grad_q[j] += (-slope * p[u] + 2 * lam * q[j]) / 6
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    np.testing.assert_allclose(model.users.weight.grad.numpy(), grad_p, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(model.items.weight.grad.numpy(), grad_q, rtol=1e-9, atol=1e-12)


def test_scores_are_inner_products_of_factors():
    model = make_model(0.0)
    scores = model.scores(torch.tensor([4, 0])).detach().numpy()
    p, q = model.users.weight.detach().numpy(), model.items.weight.detach().numpy()
    np.testing.assert_allclose(scores, [[p[u] @ q[i] for i in range(7)] for u in (4, 0)], rtol=1e-9)
