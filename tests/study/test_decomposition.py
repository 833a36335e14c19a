"""What an effect consists of, from what the callbacks write of two tests, beside a count list by list."""

from dataclasses import fields

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from callbacks import AttackedItems, CategoryHitRatio, WriteAttackedItems, WriteUserMetrics
from catwalk.study.decomposition import Decomposition, decompose, mean_rank, places_lost
from datamodules import InteractionTriplets
from lightning_modules.recommender import Recommender

K, USERS, ITEMS = 6, 200, 90
SOURCE, TARGET = "Sandal", "Sneaker"


class GivenScores(Recommender):
    """Scores by a matrix."""

    def __init__(self, matrix):
        super().__init__([K])
        self.matrix = matrix

    def build(self, num_users, num_items, num_features):
        pass

    def prepare_scores(self, data):
        pass

    def scores(self, users):
        return torch.from_numpy(self.matrix[users.numpy()])


@pytest.fixture(scope="module")
def world(shop, make_trainer, tmp_path_factory):
    """Two tests, with some of the sandals and a bag attacked, which rise with every other user."""
    data, random = InteractionTriplets(shop), np.random.default_rng(3)
    data.setup("test")
    names = [data.catalogue.category_names[number] for number in data.catalogue.categories]
    items = [*np.flatnonzero(np.array(names) == SOURCE)[::2].tolist(), names.index("Bag")]
    clean = random.standard_normal((USERS, ITEMS)).astype(np.float32)
    attacked = clean.copy()
    attacked[np.ix_(range(0, USERS, 2), items)] += 1.5
    ids = [data.catalogue.item_ids[item] for item in items]
    found = []
    for scores in (clean, attacked):
        folder = tmp_path_factory.mktemp("test")
        callbacks = [
            CategoryHitRatio([K], categories_by="dataset"),
            WriteUserMetrics(folder / "users.parquet", [K], [SOURCE], "dataset", SOURCE, TARGET, items=ids),
            WriteAttackedItems(folder / "items.parquet", top_k=[K], items=ids),
            AttackedItems(top_k=[K], mean_rank=True, items=ids),
        ]
        (values,) = make_trainer(callbacks=callbacks).test(GivenScores(scores), data, verbose=False)
        chr_by_category = {name: values[f"test/chr@{K}/{name}"] for name in data.catalogue.category_names}
        tables = pq.read_table(folder / "users.parquet"), pq.read_table(folder / "items.parquet")
        found.append((*tables, chr_by_category, values))
    return data, names, items, (clean, attacked), found


def candidates_of(data, scores):
    """Return each user's candidates, the best first."""
    bought = np.zeros((USERS, ITEMS), dtype=bool)
    bought[data.split.users, data.split.items] = True
    return [[item for item in np.argsort(-row) if not own[item]] for row, own in zip(scores, bought, strict=True)]


def test_equals_a_count_list_by_list(world):
    data, names, items, matrices, ((*clean, _), (*attacked, _)) = world
    found = decompose(*(each for pair in zip(clean, attacked, strict=True) for each in pair), source=SOURCE, top_k=K)
    pairs = set(zip(data.split.users, data.split.items, strict=True))
    purchases = np.bincount([item for _, item in pairs], minlength=ITEMS)
    head = [count > 0 and (purchases >= count).sum() <= ITEMS / 5 for count in purchases]
    popularity = ["head" if head[item] else "tail" if purchases[item] else "cold" for item in range(ITEMS)]
    everybodys = [candidates_of(data, scores) for scores in matrices]

    def won(is_counted, users=range(USERS)):
        """Return the places that some items have won with some users, mean over these."""
        before, after = (
            [sum(is_counted(item) for item in everybody[user][:K]) for user in users] for everybody in everybodys
        )
        return np.mean(after) - np.mean(before)

    expected = {
        "won_by_attacked": won(lambda item: item in items and names[item] == SOURCE),
        "won_by_others": won(lambda item: item not in items and names[item] == SOURCE),
        "won_elsewhere": won(lambda item: item in items and names[item] != SOURCE),
    }
    for suffix, everybody in zip(("_clean", ""), everybodys, strict=True):
        lists = [candidates[:K] for candidates in everybody]
        expected[f"users_reached{suffix}"] = np.mean([any(item in items for item in own) for own in lists])
        expected[f"attacked_hr{suffix}"] = np.mean([[item in own for item in items] for own in lists])
        ranks = [rank for candidates in everybody for rank, item in enumerate(candidates, 1) if item in items]
        expected[f"attacked_mean_rank{suffix}"] = np.mean(ranks)
    bought = [set() for _ in range(USERS)]
    for user, item in zip(data.split.users, data.split.items, strict=True):
        bought[user].add(names[item])
    groups = {
        "gain_bought_source": [user for user in range(USERS) if SOURCE in bought[user]],
        "gain_bought_target": [user for user in range(USERS) if TARGET in bought[user]],
        "gain_neither": [user for user in range(USERS) if not bought[user] & {SOURCE, TARGET}],
    }
    for name, users in groups.items():
        expected[name] = won(lambda item: names[item] == SOURCE, users)
    for group in ("cold", "tail", "head"):
        its = {item for item in range(ITEMS) if popularity[item] == group}
        expected[f"gain_{group}"] = won((its & set(items)).__contains__)
        expected[f"taken_from_{group}"] = -won((its - set(items)).__contains__)
    lost = {name: -won(lambda item, name=name: names[item] == name) for name in set(names) - {SOURCE}}
    loser = max(lost, key=lost.get)
    assert found.taken_from == loser
    assert found.taken_from_places == pytest.approx(lost[loser], rel=1e-5)
    assert {name: getattr(found, name) for name in expected} == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert {each.name for each in fields(Decomposition)} == {*expected, "taken_from", "taken_from_places"}
    assert found.won_by_attacked > 0.5
    assert found.won_elsewhere > 0
    # Every list is full: what some win, others lose.
    won_by_groups = found.gain_cold + found.gain_tail + found.gain_head
    assert won_by_groups == pytest.approx(found.won_by_attacked + found.won_elsewhere)
    assert won_by_groups == pytest.approx(found.taken_from_cold + found.taken_from_tail + found.taken_from_head)
    gained = attacked[2][SOURCE] - clean[2][SOURCE]
    assert found.won_by_attacked + found.won_by_others == pytest.approx(gained, rel=1e-5)


def test_ranks_and_shares_are_those_that_are_logged(world):
    *_, found = world
    for users, items, _, values in found:
        assert mean_rank(items) == pytest.approx(values["test/attacked/mean_rank"], rel=1e-6)
        reached = np.mean(users.column(f"attacked@{K}").to_numpy() > 0)
        assert reached == pytest.approx(values[f"test/attacked/users_reached@{K}"], rel=1e-6)


def test_nothing_that_changes_consists_of_nothing(world):
    *_, ((users, items, chr_by_category, _), _) = world
    twice = users, users, items, items, chr_by_category, chr_by_category
    found = decompose(*twice, source=SOURCE, top_k=K)
    assert (found.taken_from, found.taken_from_places) == (None, None)
    names = [each.name for each in fields(found) if each.name.startswith(("won", "gain", "taken_from_"))]
    assert {getattr(found, name) for name in names} == {0, None}
    nobody = users.set_column(users.column_names.index("group"), "group", pa.array(["source"] * USERS))
    found = decompose(nobody, nobody, *twice[2:], source=SOURCE, top_k=K)
    assert (found.gain_bought_source, found.gain_bought_target, found.gain_neither) == (0, None, None)
    for name, others in (("user_id", (users.slice(1), items)), ("item_id", (users, items.slice(1)))):
        with pytest.raises(ValueError, match=f"{name}: clean and attacked must be of the same ones"):
            decompose(users, others[0], items, others[1], chr_by_category, chr_by_category, source=SOURCE, top_k=K)


def test_who_lost_most_comes_first():
    clean, attacked = {"a": 3.0, "b": 2.0, "c": 5.0, "d": 1.0}, {"a": 2.5, "b": 4.0, "c": 4.0, "d": 1.0}
    assert list(places_lost(clean, attacked, "b").items()) == [("c", 1.0), ("a", 0.5)]
    assert list(places_lost(clean, attacked, "c")) == ["a"]
