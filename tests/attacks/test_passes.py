"""What an attack says that an image costs, against the passes that are counted in the network."""

import pytest
import torch
from every_attack import ALL, aims, make_batch, make_network
from torch import nn

from catwalk.attacks import APGD

CASES = {
    **ALL,
    "apgd with dlr": lambda: APGD(iterations=3, loss="dlr"),
    "apgd with dlr, untargeted": lambda: APGD(iterations=3, loss="dlr", targeted=False),
}


class Counting(nn.Module):
    """Counts how many images go through a network, and how many gradients come back."""

    def __init__(self, network):
        super().__init__()
        self.network, self.forwards, self.backwards = network, 0, 0

    def forward(self, images):
        return self._counted(self.network(images))

    def features(self, images):
        return self._counted(self.network.features(images))

    def _counted(self, outcome):
        self.forwards += len(outcome)
        if outcome.requires_grad:
            outcome.register_hook(self._count_back)
        return outcome

    def _count_back(self, gradient):
        self.backwards += len(gradient)


@pytest.mark.parametrize("make_attack", CASES.values(), ids=CASES)
def test_passes_are_those_that_were_made(make_attack):
    network = make_network().requires_grad_(False)
    images, categories, keys = make_batch(3)
    attack = make_attack()
    targets = aims(attack, categories)
    for row in range(len(images)):
        one, counting = slice(row, row + 1), Counting(network)
        _, iterations = attack.perturb(counting, images[one], targets[one], keys[one])
        forwards, backwards = attack.passes(iterations)
        assert (forwards.tolist(), backwards.tolist()) == ([counting.forwards], [counting.backwards])
        assert forwards.dtype == backwards.dtype == torch.int64
