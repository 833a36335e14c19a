"""Transfer against the attack on the surrogates themselves."""

import numpy as np
import pytest
import torch
from every_attack import make_batch, make_network, transfer
from torch import nn

from catwalk.attacks import MIFGSM, PGD, AttackContext, FeatureMatching, RankAttack, Transfer
from catwalk.errors import CatwalkError
from catwalk.poisoning.attack_files import read_summary
from catwalk.poisoning.poison import poison


class Mean(nn.Module):
    def __init__(self, networks):
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, images):
        return sum(network(images) for network in self.networks) / len(self.networks)


@pytest.mark.parametrize("number", [1, 2])
def test_images_are_those_of_the_attack_on_the_surrogates_whoever_judges_them(number):
    images, targets, keys = make_batch(20)
    attack = transfer(number, epsilon=20.0)
    surrogates = [classifier.network for classifier in attack.networks]
    by_hand = PGD(epsilon=20.0, iterations=3)(Mean(surrogates), images, targets, keys=keys)
    for seed in (0, 1):
        victim = make_network(seed=seed)
        result = attack(victim, images, targets, keys=keys)
        assert torch.allclose(result.images, by_hand.images, atol=1e-6)
        with torch.no_grad():
            assert torch.equal(result.success, victim(result.images).argmax(1) == targets)
    assert not torch.equal(result.success, by_hand.success), "the victim is another network"


def test_asks_the_network_under_attack_for_nothing_but_its_judgement():
    asked = []

    class Victim(nn.Module):
        def forward(self, images):
            asked.append(images.requires_grad)
            return make_network()(images)

    images, targets, keys = make_batch(5)
    transfer(1)(Victim(), images, targets, keys=keys)
    assert asked, "it judges"
    assert not any(asked[1:]), "and no gradient is taken of it, but for the check of the targets"


def test_a_catalogue_is_poisoned_by_what_another_network_falls_for(trained, tmp_path):
    catalogue, classifier, table = trained.catalogue, trained.classifier, trained.table
    counts = np.bincount(table.categories, minlength=len(table.category_names)).argsort()
    source, target = (table.category_names[place] for place in (counts[-1], counts[0]))
    settings = {"source": source, "target": target}
    direct, transferred = (
        poison(classifier, attack, catalogue, table, tmp_path / name, **settings)
        for name, attack in (
            ("direct", PGD(iterations=3)),
            ("transferred", Transfer(PGD(iterations=3), [trained.checkpoint])),
        )
    )
    assert torch.equal(direct.features, transferred.features), "the surrogate is the network itself"
    assert read_summary(tmp_path / "transferred").attack == "PGD (ε = 8), transferred"


def test_refuses_what_does_not_fit(trained):
    with pytest.raises(CatwalkError, match="attack: must be one that needs a network alone"):
        Transfer(RankAttack())
    with pytest.raises(CatwalkError, match="needs a transfer"):
        Transfer(Transfer(PGD()))
    with pytest.raises(CatwalkError, match="attack: must be"):
        Transfer(FeatureMatching())
    images, targets, keys = make_batch(2)
    with pytest.raises(CatwalkError, match="surrogates: a transfer needs the checkpoint of at least one network"):
        Transfer(MIFGSM())(make_network(), images, targets, keys=keys)
    scene = AttackContext(torch.arange(2), ["a", "b"], 0, ("Hat", "Bag"), torch.zeros(2, 3), torch.zeros(2), None)
    with pytest.raises(CatwalkError, match="has other categories than the network under attack"):
        Transfer(PGD(), [trained.checkpoint]).targets_of(scene)
