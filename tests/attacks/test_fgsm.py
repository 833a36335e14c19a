import numpy as np
import pytest
import torch
from torch import nn

from catwalk.attacks import FGSM
from catwalk.errors import CatwalkError


def reference_fgsm(weight, bias, images, categories, epsilon, targeted):
    """FGSM on a linear softmax classifier, with its gradient ``Wᵀ(p - onehot)`` derived by hand, in float64."""
    x = images.reshape(len(images), -1).astype(np.float64)
    logits = x @ weight.T + bias
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    p[np.arange(len(x)), categories] -= 1
    gradient = p @ weight
    x = x - epsilon / 255 * np.sign(gradient) if targeted else x + epsilon / 255 * np.sign(gradient)
    return np.clip(x, 0, 1).reshape(images.shape)


@pytest.mark.parametrize("targeted", [True, False])
@pytest.mark.parametrize("epsilon", [0.5, 4.0, 8.0])
def test_equals_a_derivation_by_hand(targeted, epsilon):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 6 * 6, 7))
    images = torch.rand(21, 3, 6, 6)
    images[:, :, 0] = 0
    images[:, :, 5] = 1
    images[:, :, 1] = 2 / 255  # closer to the border than ε
    targets = torch.randint(7, (21,))
    weight, bias = (parameter.detach().double().numpy() for parameter in network[1].parameters())
    expected = reference_fgsm(weight, bias, images.numpy(), targets.numpy(), epsilon, targeted)
    result = FGSM(epsilon=epsilon, targeted=targeted)(network, images, targets)
    np.testing.assert_allclose(result.images.numpy(), expected, atol=1e-6)


def test_a_value_without_gradient_stays():
    class RedOnly(nn.Module):
        def forward(self, images):
            return images[:, 0].flatten(1)[:, :4]

    images = torch.full((2, 3, 2, 2), 0.5)
    result = FGSM(epsilon=8)(RedOnly(), images, torch.tensor([0, 1]))
    assert torch.equal(result.images[:, 1:], images[:, 1:])
    assert (result.images[:, 0] != images[:, 0]).all()


def test_a_gradient_that_a_mean_over_the_batch_would_lose_still_counts():
    class Float16(nn.Module):
        """Its backward pass goes through float16, whose smallest number is 6e-8."""

        def forward(self, images):
            return (images.half() * 2e-6)[:, 0].flatten(1)[:, :4]

    images = torch.full((64, 3, 2, 2), 0.5)
    result = FGSM(epsilon=8)(Float16(), images, torch.zeros(64).long())
    assert (result.images[:, 0] != images[:, 0]).all()


def test_the_loss_of_float16_logits_is_taken_in_float32():
    class Confident(nn.Module):
        """Its first class has all but 2e-5 of the probability, which float16 cannot tell from all of it."""

        def forward(self, images):
            return images.half()[:, 0].flatten(1)[:, :4] * 12

    images = torch.zeros(1, 3, 2, 2)
    images[0, 0, 0, 0] = 1
    result = FGSM(epsilon=8, targeted=False)(Confident(), images, torch.tensor([0]))
    assert result.images[0, 0, 0, 0] < 0.97


def test_name_and_defaults():
    assert FGSM().name == "FGSM (ε = 8)"
    assert FGSM(epsilon=2.5).name == "FGSM (ε = 2.5)"
    attack = FGSM()
    assert (attack.targeted, attack.batch_size) == (True, 64)
    assert (attack.threat_model.norm, attack.threat_model.epsilon) == ("linf", 8.0)


def test_refuses_a_budget_below_nothing():
    with pytest.raises(CatwalkError, match="epsilon"):
        FGSM(epsilon=-1)
