"""Random noise: distribution, bound, what it depends on; and attacks whose budget is 0."""

from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
import yaml
from every_attack import ALL, BY_DISTANCE, CARLINI_WAGNER, RADIUS_SEARCH, SPARSE, aims, make_batch, make_network

from catwalk.attacks import PGD, RandomNoise
from catwalk.errors import CatwalkError
from catwalk.keyed_random import uniform
from catwalk.poisoning.attack_files import read_summary
from catwalk.poisoning.poison import poison
from catwalk.poisoning.protocol import AttackProtocol
from catwalk.shop.decoding import decode, decode_item
from catwalk.study.specifications import attack_of


def noise_of(attack, images, keys):
    """Return the perturbation of images in grey levels, in float64, and what the attack says of them."""
    result = attack(make_network(), images, torch.zeros(len(images), dtype=torch.int64), keys=keys)
    return (result.images.double() - images.double()).numpy() * 255, result


@pytest.mark.parametrize("distribution", ["sign", "uniform"])
def test_equals_numpy_from_the_keyed_draws(distribution):
    images, _, keys = make_batch(20, seed=4)
    draws = uniform(7, keys, (3, 9, 9)).double().numpy()
    noise = np.where(draws < 0.5, -1.0, 1.0) if distribution == "sign" else 2 * draws - 1
    expected = np.clip(images.double().numpy() + noise * 11.5 / 255, 0, 1)
    attack = RandomNoise(11.5, distribution, seed=7)
    result = attack(make_network(), images, torch.zeros(20, dtype=torch.int64), keys=keys)
    np.testing.assert_allclose(result.images.numpy(), expected, atol=2e-7)
    assert result.iterations.tolist() == [0] * 20


def test_distribution_bound_and_independence():
    images, keys = torch.full((60, 3, 9, 9), 0.5), torch.arange(60)
    sign, _ = noise_of(RandomNoise(8, seed=3), images, keys)
    np.testing.assert_allclose(abs(sign), 8, atol=1e-4)
    assert scipy.stats.binomtest(int((sign > 0).sum()), sign.size).pvalue > 0.01
    flat, _ = noise_of(RandomNoise(8, "uniform", seed=3), images, keys)
    assert abs(flat).max() <= 8 + 1e-4
    assert scipy.stats.kstest(flat.ravel(), scipy.stats.uniform(-8, 16).cdf).pvalue > 0.01
    for noise in (sign, flat):
        correlations = np.corrcoef(noise.reshape(60, -1))
        assert abs(correlations[~np.eye(60, dtype=bool)]).max() < 0.3, "items have noise of their own"
    assert not np.array_equal(sign, noise_of(RandomNoise(8, seed=4), images, keys)[0])
    twice, _ = noise_of(RandomNoise(8, seed=3), images[:3], torch.tensor([4, 9, 4]))
    assert np.array_equal(twice[0], twice[2])
    assert not np.array_equal(twice[0], twice[1])


def test_the_images_depend_neither_on_targets_nor_on_the_network():
    images, targets, keys = make_batch(20)
    towards = RandomNoise()(make_network(seed=0), images, targets, keys=keys)
    away = RandomNoise(targeted=False)(make_network(seed=1), images, (targets + 1) % 5, keys=keys)
    assert torch.equal(towards.images, away.images)
    drawn, _ = RandomNoise().perturb(make_network(), images, targets, None)
    assert not torch.equal(drawn, towards.images), "without keys it is another one every time"


@pytest.mark.parametrize("targeted", [True, False])
def test_success_is_what_happens_anyway(targeted):
    network = make_network()
    images, targets, keys = make_batch(60)
    result = RandomNoise(60, targeted=targeted)(network, images, targets, keys=keys)
    hits = network(result.images).argmax(1) == targets
    assert 0 < hits.sum() < 60
    assert torch.equal(result.success, hits if targeted else ~hits)


def test_names_and_errors():
    assert RandomNoise().name == "Noise (ε = 8)"
    assert RandomNoise("4/255", "uniform").name == "Noise, uniform (ε = 4)"
    assert RandomNoise().purpose("Sandal", "Sneaker") == "show what random noise on Sandal does"
    with pytest.raises(CatwalkError, match="distribution: must be one of sign, uniform, got 'normal'"):
        RandomNoise(distribution="normal")
    with pytest.raises(CatwalkError, match=r"epsilon: .* got -1"):
        RandomNoise(-1)


def test_the_configuration_is_accepted():
    settings = yaml.safe_load(Path(str(files("configs")), "attack", "noise8.yaml").read_text())
    attack = attack_of(settings["poison"]["attack"]).instantiate()
    assert (type(attack), attack.name, attack.distribution) == (RandomNoise, "Noise (ε = 8)", "sign")


def test_poisons_a_shop_within_the_protocols_ball(trained, tmp_path):
    arguments = trained.classifier, RandomNoise(9), trained.catalogue, trained.table
    for protocol in (AttackProtocol(), AttackProtocol(epsilon_space="normalised", clip=False)):
        folder = tmp_path / protocol.epsilon_space
        poison(*arguments, folder, source="Sandal", target="Sneaker", protocol=protocol)
        summary = read_summary(folder)
        assert (summary.attack, summary.norm, summary.epsilon) == ("Noise (ε = 9)", "linf", 9)
        assert (summary.forwards, summary.backwards) == (0, 0)
        assert (summary.linf_levels == 9) == (protocol.epsilon_space == "pixels")
        assert 0 < summary.linf_levels <= 9


@pytest.mark.parametrize("space", ["pixels", "normalised"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_an_attack_with_a_budget_of_0_saves_the_clean_images(trained, tmp_path, norm, space):
    attack = PGD(0, norm=norm, iterations=2)
    attack.check_eight_bit()
    protocol = AttackProtocol(epsilon_space=space)
    poisoned = poison(
        *(trained.classifier, attack, trained.catalogue, trained.table, tmp_path),
        **{"source": "Sandal", "target": "Sneaker", "protocol": protocol},
    )
    summary = read_summary(tmp_path)
    assert (summary.epsilon, summary.linf_levels, summary.l2_levels) == (0, 0, 0)
    assert summary.sr == summary.sr_clean
    (items,) = np.nonzero(trained.table.categories == trained.table.category_names.index("Sandal"))
    size = trained.classifier.image_size
    for item in items:
        saved = decode(tmp_path / trained.catalogue.images[item])
        assert np.array_equal(saved, decode_item(trained.catalogue, item, size))
    assert torch.equal(poisoned.features, trained.table.features)


WITHOUT_EPSILON = {*CARLINI_WAGNER, *BY_DISTANCE, *RADIUS_SEARCH, *SPARSE, "fab without a budget"}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("make_attack", [ALL[kind] for kind in ALL if kind not in WITHOUT_EPSILON])
def test_a_budget_of_0_changes_no_image(make_attack):
    attack = make_attack(epsilon=0)
    images, categories, keys = make_batch(5)
    result = attack(make_network(), images, aims(attack, categories), keys=keys)
    assert torch.equal(result.images, images)
    assert torch.equal(attack.threat_model.quantise(result.images, images), (images * 255).round().to(torch.uint8))
