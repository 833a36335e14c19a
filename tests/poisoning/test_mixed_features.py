"""Feature matrices of two networks against NumPy, and what cannot be mixed."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from catwalk.errors import CatwalkError
from catwalk.networks.features import FeatureTable
from catwalk.poisoning.mixed_features import mix_features
from catwalk.shop.catalogue import Catalogue

ITEMS = np.array([7, 0, 31])


@pytest.fixture(scope="module")
def catalogue(shop) -> Catalogue:
    return Catalogue.read(shop)


def table(catalogue, network, size, width=6) -> FeatureTable:
    """Clean features of a network, whose largest absolute value is negative and at the end of the catalogue."""
    drawn = np.random.default_rng(len(network))
    features = drawn.uniform(0, size, (len(catalogue), width)).astype(np.float32)
    features[-1, 2] = -1.5 * size
    return FeatureTable(
        features=torch.from_numpy(features),
        categories=drawn.integers(0, 3, len(catalogue)),
        probabilities=drawn.uniform(0, 1, len(catalogue)).astype(np.float32),
        category_names=(f"{network} a", f"{network} b", "c"),
        scale=float(np.float32(1.5 * size)),
        catalogue=catalogue.fingerprint,
        network=network,
    )


@pytest.fixture
def undefended(catalogue):
    return table(catalogue, "undefended", 3.0)


@pytest.fixture
def defended(catalogue):
    return table(catalogue, "defended", 0.7)


def poisoned(clean, largest):
    attacked = torch.full((len(ITEMS), clean.features.shape[1]), 0.25)
    attacked[1, 3] = largest
    return clean.poisoned(ITEMS, attacked)


def quotients(mixed):
    """What recommenders see."""
    return mixed.features.double().numpy() / mixed.scale


@pytest.mark.parametrize("largest", [0.5, 40.0])
def test_by_their_own_scale_the_rows_of_both_networks_are_what_each_divides_by(
    catalogue, undefended, defended, largest
):
    attacked = poisoned(defended, largest)
    mixed = mix_features(
        catalogue, background=undefended, rows=attacked, items=ITEMS, categories=defended, scale="clean"
    )
    expected = undefended.features.double().numpy() / 4.5
    expected[ITEMS] = attacked.features.double().numpy()[ITEMS] / np.float64(np.float32(1.05))
    np.testing.assert_allclose(quotients(mixed), expected, rtol=2e-7)
    assert torch.equal(mixed.features[ITEMS], attacked.features[ITEMS])
    assert mixed.scale == defended.scale  # a recommender that was trained on its clean features may be tested


@pytest.mark.parametrize("largest", [0.5, 40.0])
def test_by_the_matrixs_own_scale_its_largest_value_is_one(catalogue, undefended, defended, largest):
    attacked = poisoned(defended, largest)
    mixed = mix_features(
        catalogue, background=undefended, rows=attacked, items=ITEMS, categories=defended, scale="own_matrix"
    )
    expected = undefended.features.double().numpy().copy()
    expected[ITEMS] = attacked.features.double().numpy()[ITEMS]
    expected /= np.abs(expected).max()
    np.testing.assert_allclose(quotients(mixed), expected, rtol=2e-7)
    assert np.abs(quotients(mixed)).max() == pytest.approx(1, rel=1e-7)
    assert mixed.scale == defended.scale


def test_what_an_item_is_seen_as_comes_from_the_third_table(catalogue, undefended, defended):
    for categories in (undefended, defended):
        mixed = mix_features(
            catalogue, background=undefended, rows=defended, items=ITEMS, categories=categories, scale="clean"
        )
        assert mixed.category_names == categories.category_names
        assert np.array_equal(mixed.categories, categories.categories)
        assert np.array_equal(mixed.probabilities, categories.probabilities)


def test_of_one_network_nothing_is_mixed(catalogue, defended):
    attacked = poisoned(defended, 40.0)
    same = {"rows": attacked, "items": ITEMS, "categories": defended}
    plain = mix_features(catalogue, background=defended, scale="clean", **same)
    assert torch.equal(plain.features, attacked.features)
    assert (plain.scale, plain.network) == (attacked.scale, attacked.network)
    # Divided by its own largest value after the attack, without any mixing.
    own = mix_features(catalogue, background=defended, scale="own_matrix", **same)
    np.testing.assert_allclose(quotients(own), attacked.features.double().numpy() / 40, rtol=2e-7)
    assert own.network not in (attacked.network, plain.network)


def test_it_is_written_and_read_and_says_what_it_is_made_of(catalogue, undefended, defended, tmp_path):
    tables = {"background": undefended, "rows": defended, "categories": undefended}
    mixed = mix_features(catalogue, items=ITEMS, scale="clean", **tables)
    mixed.write(tmp_path, catalogue)
    read = FeatureTable.read(tmp_path, catalogue)
    assert torch.equal(read.features, mixed.features)
    assert (read.scale, read.network, read.category_names) == (mixed.scale, mixed.network, mixed.category_names)
    assert np.array_equal(read.categories, mixed.categories)
    others = [
        mix_features(catalogue, items=ITEMS, scale="clean", **tables | {"categories": defended}),
        mix_features(catalogue, items=ITEMS, scale="clean", **tables | {"background": defended, "rows": undefended}),
        mix_features(catalogue, items=ITEMS, scale="own_matrix", **tables),
    ]
    assert len({"undefended", "defended", mixed.network, *(other.network for other in others)}) == 6


def test_what_cannot_stand_in_one_matrix_is_refused(catalogue, undefended, defended):
    same = {"items": ITEMS, "categories": undefended, "scale": "clean"}
    with pytest.raises(CatwalkError, match=r"undefended network has 4 .* and the defended one 6.*background_features"):
        mix_features(catalogue, background=table(catalogue, "narrow", 1.0, width=4), rows=defended, **same)
    with pytest.raises(CatwalkError, match=r"mixed features: the attacked rows were made of another catalogue"):
        mix_features(catalogue, background=undefended, rows=replace(defended, catalogue="other"), **same)
    for items in (np.array([3, 3]), np.array([-1]), np.array([len(catalogue)])):
        with pytest.raises(ValueError, match="items"):
            mix_features(catalogue, background=undefended, rows=defended, **same | {"items": items})
    nothing = replace(undefended, features=torch.zeros_like(undefended.features))
    with pytest.raises(CatwalkError, match="all features of the matrix are 0"):
        mix_features(catalogue, background=nothing, rows=nothing, **same | {"scale": "own_matrix"})
