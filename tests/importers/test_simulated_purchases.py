"""The choice model against references computed here in other ways."""

import numpy as np
import pytest
from scipy import stats

from catwalk.errors import CatwalkError
from catwalk.importers.simulated_purchases import (
    ChoiceModel,
    choose,
    draw_numbers_of_purchases,
    draw_shoppers,
    log_popularity,
    random_stream,
    simulate_purchases,
    visual_components,
)


def shop(num_items=12, num_categories=3, seed=0):
    random = np.random.default_rng(seed)
    return random.integers(256, size=(num_items, 6, 5, 3), dtype=np.uint8), np.arange(num_items) % num_categories


def softmax(utilities):
    weights = np.exp(utilities - utilities.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def test_first_and_second_choices_follow_plackett_luce():
    utilities = np.array([0.0, 1.0, -0.5, 2.0, 0.3])
    draws = 40_000
    pairs = choose(np.tile(utilities, (draws, 1)), np.full(draws, 2), np.random.default_rng(1)).reshape(draws, 2)
    p = np.exp(utilities) / np.exp(utilities).sum()
    expected = p[:, None] * p[None, :] / (1 - p[:, None])  # first i, then j among the others
    np.fill_diagonal(expected, 0)
    observed = np.zeros_like(expected)
    np.add.at(observed, (pairs[:, 0], pairs[:, 1]), 1)
    assert np.trace(observed) == 0
    off_diagonal = ~np.eye(len(p), dtype=bool)
    assert stats.chisquare(observed[off_diagonal], draws * expected[off_diagonal]).pvalue > 0.001


def test_first_purchases_of_a_shop_follow_the_logit_of_its_users_tastes():
    images, categories = shop()
    model = ChoiceModel(num_looks=3)
    num_users, order = 20_000, [2, 0, 1]
    purchases = simulate_purchases(images, categories, order, num_users, 5, model)
    by_time = np.lexsort((purchases.timestamps, purchases.users))
    _, first = np.unique(purchases.users[by_time], return_index=True)
    observed = np.bincount(purchases.items[by_time][first], minlength=len(categories))

    shoppers = draw_shoppers(images, categories, order, num_users, 5, model)
    # The formula of the module's docstring, written out anew.
    utilities = np.empty((num_users, len(categories)))
    for item, category in enumerate(categories):
        taste = (shoppers.visual_tastes * shoppers.looks[item]).sum(axis=1) / 3**0.5
        utilities[:, item] = 1.5 * shoppers.category_tastes[:, category] + 1.5 * taste + shoppers.log_popularity[item]
    chances = softmax(utilities)
    # Users differ, so the counts' covariance is a sum over users, of rank N - 1.
    covariance = np.diag(chances.sum(axis=0)) - chances.T @ chances
    deviation = observed - chances.sum(axis=0)
    statistic = deviation @ np.linalg.pinv(covariance) @ deviation
    assert stats.chi2.sf(statistic, len(categories) - 1) > 0.001
    # The test has power: the popularity alone, without tastes, is far from what was observed.
    assert stats.chisquare(observed, num_users * softmax(shoppers.log_popularity)).pvalue < 1e-6


def test_without_tastes_categories_and_items_have_their_zipf_shares():
    images, categories = shop(num_items=15)
    model = ChoiceModel(mean_purchases=1, category_taste=0, visual_taste=0, category_exponent=1.0, item_exponent=0.5)
    purchases = simulate_purchases(images, categories, [1, 2, 0], 30_000, 3, model)
    assert len(purchases.items) == 30_000
    bought = np.bincount(purchases.items, minlength=15)
    zipf = np.array([1, 1 / 2, 1 / 3]) / (1 + 1 / 2 + 1 / 3)
    by_category = np.bincount(categories, weights=bought)[[1, 2, 0]]
    assert stats.chisquare(by_category, 30_000 * zipf).pvalue > 0.001
    within = np.arange(1, 6) ** -0.5
    for category, total in zip([1, 2, 0], by_category, strict=True):
        # Which item has which rank is random, and the ranks' shares are far enough apart to see it in the counts.
        ranked = np.sort(bought[categories == category])[::-1]
        np.testing.assert_allclose(ranked / total, within / within.sum(), atol=0.02)
    permutations = {tuple(np.argsort(-bought[categories == category])) for category in range(3)}
    assert len(permutations) > 1


def test_with_tastes_the_declared_order_of_categories_still_holds():
    images, categories = shop(num_items=120, num_categories=4)
    purchases = simulate_purchases(images, categories, [3, 1, 0, 2], 8_000, 0)
    shares = np.bincount(categories[purchases.items])
    assert np.argsort(-shares).tolist() == [3, 1, 0, 2]


def test_users_buy_an_item_once_and_in_the_order_of_choice():
    images, categories = shop(num_items=30)
    purchases = simulate_purchases(images, categories, [0, 1, 2], 400, 0)
    pairs = purchases.users * 30 + purchases.items
    assert len(np.unique(pairs)) == len(pairs)
    assert set(purchases.users) == set(range(400))
    assert (np.diff(purchases.timestamps) >= 0).all()
    ties = np.diff(purchases.timestamps) == 0
    assert (np.diff(purchases.users)[ties] > 0).all()
    # Replaying the choices of each user by themselves gives the items in the order of their times.
    model = ChoiceModel()
    shoppers = draw_shoppers(images, categories, [0, 1, 2], 400, 0, model)
    noise = random_stream(0, "choices").gumbel(size=(400, 30))
    for user in range(400):
        ranking = np.argsort(-(shoppers.utilities(slice(user, user + 1))[0] + noise[user]), kind="stable")
        mine = purchases.users == user
        assert purchases.items[mine].tolist() == ranking[: mine.sum()].tolist()
        assert (np.diff(purchases.timestamps[mine]) > 0).all()


def test_a_crowded_period_still_has_no_ties_within_a_user():
    images, categories = shop(num_items=3000, num_categories=2)
    model = ChoiceModel(mean_purchases=2500, dispersion=50.0, days=1)
    purchases = simulate_purchases(images, categories, [0, 1], 3, 0, model)
    for user in range(3):
        assert (np.diff(purchases.timestamps[purchases.users == user]) > 0).all()
    assert purchases.timestamps.min() >= model.first_timestamp
    assert purchases.timestamps.max() < model.first_timestamp + 86_400


def test_wants_beyond_the_last_item_are_counted():
    images, categories = shop(num_items=4, num_categories=2)
    purchases = simulate_purchases(images, categories, [0, 1], 300, 0)
    wanted = draw_numbers_of_purchases(300, ChoiceModel(), random_stream(0, "numbers of purchases"))
    assert wanted.max() > 4
    assert purchases.num_unmet == np.maximum(wanted - 4, 0).sum() > 0
    assert np.bincount(purchases.users).tolist() == np.minimum(wanted, 4).tolist()


def test_numbers_of_purchases_have_the_stated_mean_and_a_long_tail():
    counts = draw_numbers_of_purchases(200_000, ChoiceModel(), np.random.default_rng(0))
    assert counts.min() == 1
    assert counts.mean() == pytest.approx(3.5, abs=0.05)
    # 1 + NB(r, r / (r + m)) has variance m + m²/r.
    assert counts.var() == pytest.approx(2.5 + 2.5**2 / 0.5, rel=0.03)


def test_the_draw_does_not_depend_on_the_division_into_blocks():
    utilities = np.random.default_rng(0).normal(size=(50, 20))
    counts = np.arange(50) % 20 + 1
    whole = choose(utilities, counts, np.random.default_rng(7))
    noise = np.random.default_rng(7)
    parts = [choose(utilities[a:b], counts[a:b], noise) for a, b in ((0, 3), (3, 4), (4, 31), (31, 50))]
    assert np.concatenate(parts).tolist() == whole.tolist()


def test_visual_components_are_those_of_the_covariance_within_categories():
    images, categories = shop(num_items=40)
    found = visual_components(images, categories, 4)
    pixels = images.reshape(40, -1) / 255.0
    for category in range(3):
        pixels[categories == category] -= pixels[categories == category].mean(axis=0)
    values, vectors = np.linalg.eigh(pixels.T @ pixels)
    for column, vector in enumerate(vectors[:, np.argsort(-values)[:4]].T):
        vector = vector * np.sign(vector[np.abs(vector).argmax()])
        scores = pixels @ vector
        np.testing.assert_allclose(found[:, column], scores / scores.std(), atol=1e-6)


def test_large_images_are_averaged_and_flat_ones_have_no_components():
    random = np.random.default_rng(0)
    small = random.integers(256, size=(20, 40, 33), dtype=np.uint8)
    large = np.repeat(np.repeat(small, 4, axis=1), 4, axis=2)
    categories = np.zeros(20, dtype=np.int64)
    np.testing.assert_allclose(
        visual_components(large, categories, 3), visual_components(small, categories, 3), atol=1e-9
    )
    flat = np.full((20, 8, 8), 7, dtype=np.uint8)
    assert visual_components(flat, categories, 3).shape == (20, 0)
    assert len(simulate_purchases(flat, categories, [0], 5, 0).items) >= 5


def test_streams_are_their_own():
    assert random_stream(0, "a").random() == random_stream(0, "a").random()
    assert len({random_stream(seed, name).random() for seed in (0, 1) for name in ("a", "b")}) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mean_purchases": 0.5}, "mean_purchases must be at least 1, got 0.5"),
        ({"dispersion": 0}, "dispersion must be above 0, got 0"),
        ({"visual_taste": float("nan")}, "visual_taste must be at least 0, got nan"),
        ({"days": 0}, "days must be at least 1, got 0"),
    ],
)
def test_parameters_out_of_range_are_named(arguments, message):
    with pytest.raises(CatwalkError, match=message):
        ChoiceModel(**arguments)


def test_arguments_out_of_range_are_named():
    images, categories = shop()
    with pytest.raises(CatwalkError, match="users must be at least 1, got 0"):
        simulate_purchases(images, categories, [0, 1, 2], 0, 0)
    with pytest.raises(CatwalkError, match="seed must be at least 0, got -1"):
        simulate_purchases(images, categories, [0, 1, 2], 5, -1)
    with pytest.raises(CatwalkError, match=r"popularity_order must name every category once, got \[0, 0, 2\]"):
        simulate_purchases(images, categories, [0, 0, 2], 5, 0)


def test_purchases_with_shared_photographs_follow_the_same_logit():
    images, categories = shop(num_items=6)
    photographs = np.array([0, 1, 2, 3, 4, 5, 0, 0, 4, 5, 5, 5])
    model, num_users, order = ChoiceModel(num_looks=3, mean_purchases=2.5), 20_000, [2, 0, 1]
    of_items = categories[photographs]
    purchases = simulate_purchases(images, of_items, order, num_users, 5, model, photographs)
    by_time = np.lexsort((purchases.timestamps, purchases.users))
    users, items = purchases.users[by_time], purchases.items[by_time]
    assert len(np.unique(users * 12 + items)) == len(items)  # nobody buys an item twice
    _, first = np.unique(users, return_index=True)

    # Utilities of items, each with its photograph's looks, as the module's docstring has them.
    looks = visual_components(images, categories, 3)[photographs]
    tastes = {
        name: random_stream(5, f"{name} tastes").standard_normal((num_users, 3)) for name in ("category", "visual")
    }
    popularity = log_popularity(of_items, order, model, random_stream(5, "popularity"))
    utilities = 1.5 * tastes["category"][:, of_items] + 1.5 * tastes["visual"] @ looks.T / 3**0.5 + popularity
    chances = softmax(utilities)

    def fits(observed, chances):
        covariance = np.diag(chances.sum(axis=0)) - chances.T @ chances
        deviation = observed - chances.sum(axis=0)
        return stats.chi2.sf(deviation @ np.linalg.pinv(covariance) @ deviation, chances.shape[1] - 1)

    assert fits(np.bincount(items[first], minlength=12), chances) > 0.001
    # The second choice is among what the first has left.
    several = first[np.diff(np.append(first, len(users))) > 1]
    buyers = users[several]
    left = chances[buyers]
    left[np.arange(len(buyers)), items[several]] = 0
    left /= left.sum(axis=1, keepdims=True)
    assert fits(np.bincount(items[several + 1], minlength=12), left) > 0.001
    assert fits(np.bincount(items[first], minlength=12), softmax(np.tile(popularity, (num_users, 1)))) < 1e-6


def test_a_user_can_buy_all_that_shares_photographs():
    images, categories = shop(num_items=6)
    photographs = np.arange(30) % 6
    model = ChoiceModel(mean_purchases=60, dispersion=50, item_exponent=4.0)  # the last items are hardly ever drawn
    purchases = simulate_purchases(images, categories[photographs], [0, 1, 2], 40, 0, model, photographs)
    counts = np.bincount(purchases.users)
    assert counts.max() == 30
    pairs = purchases.users * 30 + purchases.items
    assert len(np.unique(pairs)) == len(pairs)
