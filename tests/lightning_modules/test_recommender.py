"""Training, ranking and checkpoints, which all recommenders share."""

import csv
import math

import numpy as np
import pytest
import torch
from pytorch_lightning import Callback, seed_everything

from catwalk.errors import CatwalkError
from catwalk.importers.synthetic import synthetic
from catwalk.networks.features import FeatureTable
from catwalk.networks.prediction import Predictions
from catwalk.recommenders.checkpoints import read_visual_model
from catwalk.shop.catalogue import Catalogue
from catwalk.shop.splits import DateSplit, LeaveRandomOut
from datamodules import InteractionTriplets
from lightning_modules import BPRMF, VBPR, Popularity, Random, Recommender

TOP_K = (5, 20)


@pytest.fixture(scope="module")
def features(shop, tmp_path_factory):
    """The folder of random features of the shop's items."""
    folder = tmp_path_factory.mktemp("features")
    catalogue = Catalogue.read(shop)
    random = torch.Generator().manual_seed(0)
    values = torch.randn(len(catalogue), 6, generator=random) * 3
    predictions = Predictions(values, torch.from_numpy(catalogue.categories), torch.ones(len(catalogue)))
    FeatureTable.from_predictions(predictions, catalogue.category_names, catalogue.fingerprint, "none").write(
        folder, catalogue
    )
    return folder


def make_data(shop, features, **settings):
    return InteractionTriplets(shop, features, **{"batch_size": 64} | settings)


def make_vbpr(**settings):
    return VBPR(**{"factors": 4, "visual_factors": 4, "top_k": TOP_K, "optimizer": adam} | settings)


def adam(parameters):
    return torch.optim.Adam(parameters, lr=0.03)


@pytest.fixture(scope="module")
def fitted(shop, features, make_trainer, tmp_path_factory):
    """A trained VBPR, its metrics of the test, and its checkpoint."""
    seed_everything(0, verbose=False)
    model, data, trainer = make_vbpr(), make_data(shop, features), make_trainer(max_epochs=5)
    trainer.fit(model, data)
    checkpoint = tmp_path_factory.mktemp("fitted") / "vbpr.ckpt"
    trainer.save_checkpoint(checkpoint)
    (metrics,) = trainer.test(model, data, verbose=False)
    return model, metrics, checkpoint


def purchases_by_hand(shop):
    """The shop's purchases in order of time, by user, in the order of the users' first appearance."""
    with (shop / "items.csv").open() as file:
        numbers = {row["item_id"]: number for number, row in enumerate(csv.DictReader(file))}
    histories = {}
    with (shop / "interactions.csv").open() as file:
        for line, row in enumerate(csv.DictReader(file)):
            event = (int(row["timestamp"]), line, numbers[row["item_id"]])
            histories.setdefault(row["user_id"], []).append(event)
    return [[item for _, _, item in sorted(events)] for events in histories.values()]


def scores_by_hand(model, features):
    """Eq. 2 in float64, from the parameters alone."""
    weights = {name: value.double().numpy() for name, value in model.model.state_dict().items()}
    scores = weights["users.weight"] @ weights["items.weight"].T
    if "projection" in weights:
        scores += weights["visual_users.weight"] @ (features @ weights["projection"]).T
    return scores


def scaled_features(folder):
    from safetensors.numpy import load_file

    values = load_file(folder / "features.safetensors")["features"].astype(np.float64)
    return values / np.abs(values).max()


def figures_by_hand(scores, histories, steps_back, smallest, also_seen):
    """HR@K, nDCG@K and AUC of the item that each user bought last but ``steps_back``."""
    hits, gains, areas = {k: [] for k in TOP_K}, {k: [] for k in TOP_K}, []
    for user, history in enumerate(histories):
        if len(history) < smallest:
            continue
        place = len(history) - 1 - steps_back
        target, seen = history[place], set(history[:place])
        assert target not in seen
        seen |= also_seen(history)
        candidates = [item for item in range(scores.shape[1]) if item not in seen]
        ranked = sorted(candidates, key=lambda item, user=user: (-scores[user, item], item))
        rank = ranked.index(target) + 1
        for k in TOP_K:
            hits[k].append(rank <= k)
            gains[k].append(1 / math.log2(rank + 1) if rank <= k else 0.0)
        areas.append((len(ranked) - rank) / (len(ranked) - 1))
    metrics = {"auc": np.mean(areas)}
    for k in TOP_K:
        metrics |= {f"hr@{k}": np.mean(hits[k]), f"ndcg@{k}": np.mean(gains[k])}
    return metrics


def with_prefix(stage, metrics):
    return {f"{stage}/{name}": pytest.approx(value, rel=1e-12) for name, value in metrics.items()}


def assert_same_metrics(found, metrics):
    """Counts agree to the last digit; an AUC is a mean of float64, whose last digit depends on the order."""
    assert found == metrics | {"test/auc": pytest.approx(metrics["test/auc"], rel=1e-13)}


def no_more(history):
    return set()


def test_the_figures_of_the_test_are_those_of_the_parameters(shop, features, fitted):
    model, metrics, _ = fitted
    scores = scores_by_hand(model, scaled_features(features))
    expected = figures_by_hand(scores, purchases_by_hand(shop), 0, 2, no_more)
    assert metrics == with_prefix("test", expected)
    assert 0 < metrics["test/hr@5"] < metrics["test/hr@20"] < 1


def test_a_validation_item_is_held_out_of_training_and_seen_in_the_test(shop, features, make_trainer):
    seed_everything(0, verbose=False)
    model, data, trainer = make_vbpr(), make_data(shop, features, validation=True), make_trainer(max_epochs=2)
    trainer.fit(model, data)
    in_training = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
    scores, histories = scores_by_hand(model, scaled_features(features)), purchases_by_hand(shop)
    validation = with_prefix("val", figures_by_hand(scores, histories, 1, 3, no_more))
    assert trainer.validate(model, data, verbose=False)[0] == validation
    assert in_training == {name: pytest.approx(value.expected, rel=1e-6) for name, value in validation.items()}
    test = figures_by_hand(scores, histories, 0, 2, no_more)
    assert trainer.test(model, data, verbose=False)[0] == with_prefix("test", test)
    pairs = set(zip(data.split.users.tolist(), data.split.items.tolist(), strict=True))
    for user, history in enumerate(histories):
        kept = history[: -2 if len(history) > 2 else -1 if len(history) > 1 else None]
        assert {item for owner, item in pairs if owner == user} == set(kept)


def test_a_split_by_date_has_any_number_of_items_per_user(shop, features, make_trainer):
    """Half of the purchases are before the first date, and three quarters before the second."""
    with (shop / "items.csv").open() as file:
        numbers = {row["item_id"]: number for number, row in enumerate(csv.DictReader(file))}
    with (shop / "interactions.csv").open() as file:
        bought = [(row["user_id"], numbers[row["item_id"]], int(row["timestamp"])) for row in csv.DictReader(file)]
    times = sorted(time for *_, time in bought)
    dates = times[len(times) // 2], times[3 * len(times) // 4]
    seed_everything(0, verbose=False)
    data = make_data(shop, features, validation=True, split=DateSplit(dates[1], dates[0]))
    model, trainer = make_vbpr(), make_trainer(max_epochs=2)
    trainer.fit(model, data)
    scores = scores_by_hand(model, scaled_features(features))
    parts = {"train": {}, "val": {}, "test": {}}
    for user, item, time in bought:
        part = parts["train" if time < dates[0] else "val" if time < dates[1] else "test"]
        part.setdefault(user, set()).add(item)
    assert set(data.split.user_ids) == set(parts["train"])
    assert data.split.num_left_out == len({user for user, *_ in bought}) - len(parts["train"]) > 0
    for stage, seen_in in (("val", ["train"]), ("test", ["train", "val"])):
        metrics = []
        for user in sorted(parts["train"].keys() & parts[stage].keys()):
            seen, wanted = set().union(*(parts[name].get(user, set()) for name in seen_in)), parts[stage][user]
            its_scores = scores[data.split.user_ids.index(user)]
            ranked = sorted(set(range(90)) - seen, key=lambda item, its_scores=its_scores: (-its_scores[item], item))
            ranks = [rank for rank, item in enumerate(ranked, start=1) if item in wanted]
            others = [rank for rank, item in enumerate(ranked, start=1) if item not in wanted]
            metrics.append([np.mean([rank < other for rank in ranks for other in others])])
            for k in TOP_K:
                ideal = sum(1 / math.log2(rank + 1) for rank in range(1, min(len(wanted), k) + 1))
                gain = sum(1 / math.log2(rank + 1) for rank in ranks if rank <= k)
                metrics[-1] += [min(ranks) <= k, gain / ideal]
        names = ["auc", *(f"{name}@{k}" for k in TOP_K for name in ("hr", "ndcg"))]
        expected = dict(zip(names, np.mean(metrics, axis=0), strict=True))
        run = trainer.validate if stage == "val" else trainer.test
        assert run(model, data, verbose=False)[0] == with_prefix(stage, expected)
    assert max(len(items) for items in parts["test"].values()) > 1


def test_without_validation_nothing_is_validated(fitted, shop, features, make_trainer):
    model, _, _ = fitted
    assert make_trainer().validate(model, make_data(shop, features), verbose=False) in ([], [{}])


def test_recommendations_are_the_best_items_that_the_user_has_not_bought(shop, features, fitted):
    model, _, _ = fitted
    scores, histories = scores_by_hand(model, scaled_features(features)), purchases_by_hand(shop)
    users = torch.tensor([7, 0, 199, 7, 31])
    items, values = model.recommend(users, 12)
    for row, user in enumerate(users.tolist()):
        history = histories[user]
        seen = set(history[:-1] if len(history) > 1 else history)
        candidates = [item for item in range(90) if item not in seen]
        best = sorted(candidates, key=lambda item, user=user: (-scores[user, item], item))[:12]
        assert items[row].tolist() == best
        np.testing.assert_allclose(values[row].numpy(), scores[user, best], rtol=1e-4, atol=1e-6)


def test_a_loaded_recommender_recommends_on_the_data_that_it_is_given(shop, features, fitted, tmp_path):
    model, _, checkpoint = fitted
    loaded = VBPR.load_from_checkpoint(checkpoint)
    with pytest.raises(CatwalkError, match="give data"):
        loaded.recommend(torch.arange(5), 4)
    scores, histories = scores_by_hand(model, scaled_features(features)), purchases_by_hand(shop)
    data = make_data(shop, features)
    data.setup("test")
    items, _ = loaded.recommend(torch.arange(5), 4, data)
    for user, row in enumerate(items.tolist()):
        seen = set(histories[user][:-1] if len(histories[user]) > 1 else histories[user])
        assert row == sorted(set(range(90)) - seen, key=lambda item, user=user: (-scores[user, item], item))[:4]


def test_the_longest_recommendations_end_in_fillers(shop, fitted):
    model, _, _ = fitted
    histories = purchases_by_hand(shop)
    user = max(range(200), key=lambda user: len(histories[user]))
    items, values = model.recommend(torch.tensor([user]), 90)
    seen = set(histories[user][:-1])
    assert len(seen) > 3
    assert sorted(items[0, : 90 - len(seen)].tolist()) == sorted(set(range(90)) - seen)
    assert items[0, 90 - len(seen) :].tolist() == [-1] * len(seen)
    assert (values[0, 90 - len(seen) :] == -torch.inf).all()


@pytest.mark.parametrize("users", [[200], [-1, 0]])
def test_unknown_users_are_refused(fitted, users):
    with pytest.raises(CatwalkError, match=r"users must be numbers in 0\.\.199"):
        fitted[0].recommend(torch.tensor(users), 5)


def test_lists_longer_than_the_catalogue_are_refused(shop, features, fitted, make_trainer):
    with pytest.raises(CatwalkError, match=r"k = 91 is larger than the catalogue \(90 items\)"):
        fitted[0].recommend(torch.tensor([0]), 91)
    with pytest.raises(CatwalkError, match=r"k = 91 is larger than the catalogue \(90 items\)"):
        make_trainer(max_epochs=1).fit(make_vbpr(top_k=(5, 91)), make_data(shop, features))


@pytest.mark.parametrize("top_k", [(), (0,), (20, -1)])
def test_list_lengths_must_be_positive(top_k):
    with pytest.raises(CatwalkError, match="top_k must name list lengths of at least 1"):
        make_vbpr(top_k=top_k)


def test_predict_gives_the_lists_of_all_users(shop, features, fitted, make_trainer):
    model, _, _ = fitted
    outputs = make_trainer().predict(model, make_data(shop, features))
    users = torch.cat([output["users"] for output in outputs])
    assert users.tolist() == list(range(200))
    recommended = torch.cat([output["recommended"] for output in outputs])
    assert torch.equal(recommended, model.recommend(users, max(TOP_K))[0])


def test_the_size_of_blocks_does_not_show(shop, features, fitted, make_trainer, monkeypatch):
    model, metrics, _ = fitted
    for blocks in (1, 3):
        monkeypatch.setattr("datamodules.interaction_triplets.MIN_BLOCKS", blocks)
        data = make_data(shop, features, batch_size=1000)
        (found,) = make_trainer().test(model, data, verbose=False)
        assert len(data.test_dataloader()) < 5
        assert_same_metrics(found, metrics)


def test_a_catalogue_that_is_cut_into_blocks_gives_the_same(shop, features, fitted, make_trainer, monkeypatch):
    model, metrics, _ = fitted
    ranked, lists = torch.tensor([0, 31, 89]), model.recommend(torch.arange(200), 90)
    outputs = []

    class Outputs(Callback):
        def on_test_start(self, trainer, pl_module):
            pl_module.require_ranks(ranked)

        def on_test_batch_end(self, trainer, pl_module, outputs_, batch, batch_idx, dataloader_idx=0):
            outputs.append(outputs_)

    make_trainer(callbacks=[Outputs()]).test(model, make_data(shop, features), verbose=False)
    whole = {name: torch.cat([block[name] for block in outputs]) for name in ("users", "recommended", "auc", "ranks")}
    monkeypatch.setattr("catwalk.recommenders.ranking.WHOLE_CATALOGUE", 50)
    monkeypatch.setattr("catwalk.recommenders.ranking.ITEM_BLOCK", 32)
    outputs.clear()
    data = make_data(shop, features)
    (found,) = make_trainer(callbacks=[Outputs()]).test(model, data, verbose=False)
    assert len(model.candidates(torch.arange(2), data.seen_items("test")).blocks) == 3
    assert_same_metrics(found, metrics)
    for name, expected in whole.items():
        cut = torch.cat([block[name] for block in outputs])
        assert torch.equal(cut.nan_to_num(-1), expected.nan_to_num(-1)), name
    for cut, expected in zip(model.recommend(torch.arange(200), 90), lists, strict=True):
        assert torch.equal(cut, expected)


def test_recommenders_that_score_in_another_way_are_asked_for_everything(shop, features, make_trainer, monkeypatch):
    class Reversed(BPRMF):
        def scores(self, users):
            return -super().scores(users)

    data = make_data(shop, features)
    make_trainer(max_epochs=1).fit(model := Reversed(factors=4), data)
    assert not model.scores_parts
    expected = [each.recommend(torch.arange(20), 7, data) for each in (model, Popularity(), Random(0))]
    monkeypatch.setattr("catwalk.recommenders.ranking.WHOLE_CATALOGUE", 50)
    monkeypatch.setattr("catwalk.recommenders.ranking.ITEM_BLOCK", 32)
    for each, (items, scores) in zip((model, Popularity(), Random(0)), expected, strict=True):
        found, theirs = each.recommend(torch.arange(20), 7, data)
        assert torch.equal(found, items)
        assert torch.equal(theirs, scores)


def test_the_test_of_some_users_is_theirs_among_all(shop, features, fitted, make_trainer):
    model, metrics, _ = fitted
    rows = {}

    class Outputs(Callback):
        def on_test_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
            lists, areas = outputs["recommended"].tolist(), outputs["auc"].tolist()
            found.update(zip(outputs["users"].tolist(), zip(lists, areas, strict=True), strict=True))

    for count in (None, 60):
        found = rows.setdefault(count, {})
        data = make_data(shop, features, test_users=count)
        (values,) = make_trainer(callbacks=[Outputs()]).test(model, data, verbose=False)
    assert list(rows[60]) == data.tested_users.tolist()
    for user, row in rows[60].items():
        assert repr(row) == repr(rows[None][user])
    areas = [area for _, area in rows[60].values() if not math.isnan(area)]
    assert values["test/auc"] == pytest.approx(sum(areas) / len(areas), rel=1e-9)
    assert values["test/auc"] != metrics["test/auc"]
    outputs = make_trainer().predict(model, data)
    assert sum(len(output["users"]) for output in outputs) == 200


def weights_of(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_same(first, second):
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def fit(shop, features, make_trainer, seed, epochs=2, data_seed=0, **settings):
    seed_everything(seed, verbose=False)
    model = make_vbpr()
    trainer = make_trainer(max_epochs=epochs)
    trainer.fit(model, make_data(shop, features, seed=data_seed), **settings)
    return model, trainer


def test_the_seeds_decide_every_bit(shop, features, make_trainer):
    first, again = (fit(shop, features, make_trainer, seed=3)[0] for _ in range(2))
    assert_same(weights_of(first), weights_of(again))
    for other in (fit(shop, features, make_trainer, seed=4)[0], fit(shop, features, make_trainer, 3, data_seed=1)[0]):
        assert not torch.equal(other.model.items.weight, first.model.items.weight)


def test_training_goes_on_where_it_stopped(shop, features, make_trainer, tmp_path):
    whole, _ = fit(shop, features, make_trainer, seed=3, epochs=4)
    _, trainer = fit(shop, features, make_trainer, seed=3, epochs=2)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    resumed, _ = fit(shop, features, make_trainer, seed=9, epochs=4, ckpt_path=str(tmp_path / "half.ckpt"))
    assert_same(weights_of(resumed), weights_of(whole))


def test_training_lowers_the_loss(shop, features, make_trainer):
    _, trainer = fit(shop, features, make_trainer, seed=0, epochs=15)
    assert float(trainer.callback_metrics["train/loss"]) < 0.55 < math.log(2)


def test_a_checkpoint_gives_the_same_figures(shop, features, fitted, make_trainer):
    _, metrics, checkpoint = fitted
    data = make_data(shop, features)
    assert make_trainer().test(make_vbpr(), data, ckpt_path=str(checkpoint), verbose=False) == [metrics]
    loaded = VBPR.load_from_checkpoint(checkpoint)
    assert make_trainer().test(loaded, make_data(shop, features), verbose=False) == [metrics]
    saved = torch.load(checkpoint, weights_only=True)
    parameters = "items.weight", "projection", "users.weight", "visual_users.weight"
    assert sorted(saved["state_dict"]) == [f"model.{name}" for name in parameters]
    assert saved["built_for"]["num_items"] == 90


def with_names_of_old(checkpoint, folder):
    """The checkpoint as versions before 0.2 wrote it: the parameters were the recommender's own."""
    saved = torch.load(checkpoint, weights_only=True)
    saved["state_dict"] = {name.removeprefix("model."): weight for name, weight in saved["state_dict"].items()}
    assert "users.weight" in saved["state_dict"]
    torch.save(saved, folder / "old.ckpt")
    return folder / "old.ckpt"


def test_a_checkpoint_with_the_names_of_old_is_loaded(shop, features, fitted, make_trainer, tmp_path):
    model, metrics, checkpoint = fitted
    old = with_names_of_old(checkpoint, tmp_path)
    data = make_data(shop, features)
    assert make_trainer().test(make_vbpr(), data, ckpt_path=str(old), verbose=False) == [metrics]
    assert_same(weights_of(VBPR.load_from_checkpoint(old)), weights_of(model))
    for name, weight in read_visual_model(old).state_dict().items():
        assert torch.equal(weight, model.model.state_dict()[name])
    weights = []
    for path in (checkpoint, old):
        warm = make_vbpr(warm_start=path)
        make_trainer(max_epochs=1).fit(warm, data)
        resumed, _ = fit(shop, features, make_trainer, seed=9, epochs=6, ckpt_path=str(path))
        weights.append(weights_of(warm) | {f"resumed {name}": weight for name, weight in weights_of(resumed).items()})
    assert_same(*weights)


def test_the_features_of_the_data_module_count_not_those_of_training(shop, features, fitted, make_trainer):
    _, metrics, checkpoint = fitted
    data = make_data(shop, features)
    data.setup("test")
    data.feature_table = data.feature_table.poisoned(np.arange(45), -data.feature_table.features[:45])
    changed = make_vbpr()
    (found,) = make_trainer().test(changed, data, ckpt_path=str(checkpoint), verbose=False)
    values = scaled_features(features)
    values[:45] *= -1
    expected = figures_by_hand(scores_by_hand(changed, values), purchases_by_hand(shop), 0, 2, no_more)
    assert found == with_prefix("test", expected)
    assert found != metrics


def test_floors_recommend_without_a_training_and_others_do_not(shop, features):
    data = make_data(shop, features)
    data.setup("test")
    users = torch.arange(data.num_users)
    items, scores = Popularity().recommend(users, 5, data)
    counts = np.bincount(data.split.items, minlength=90)
    assert np.array_equal(scores.numpy(), counts[items.numpy()])
    lists = []
    for seed in (0, 1, 1):
        seed_everything(seed, verbose=False)
        lists.append(Random().recommend(users, 5, data)[0])
    assert torch.equal(lists[1], lists[2])
    assert not torch.equal(lists[0], lists[1])
    with pytest.raises(CatwalkError, match="this VBPR has neither been trained nor loaded"):
        make_vbpr().recommend(users, 5, data)


def test_features_that_lack_are_missed_at_once(shop, make_trainer):
    with pytest.raises(CatwalkError, match=r"VBPR needs features: give data\.features"):
        make_trainer(max_epochs=1).fit(make_vbpr(), InteractionTriplets(shop))


@pytest.fixture(scope="module")
def other_shop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("other") / "shop"
    synthetic(folder, items=36, users=50, image_size=16, train_images=2, test_images=1)
    return folder


class TestCheckpointsThatDoNotFit:
    def refusal(self, model, data, checkpoint, make_trainer):
        with pytest.raises(CatwalkError) as caught:
            make_trainer().test(model, data, ckpt_path=str(checkpoint), verbose=False)
        return str(caught.value)

    def test_other_factors(self, shop, features, fitted, make_trainer):
        message = self.refusal(make_vbpr(factors=7), make_data(shop, features), fitted[2], make_trainer)
        assert message == (
            "the checkpoint does not fit this VBPR: factors is 4 there and 7 here; "
            "model.users.weight has shape (200, 4) there and (200, 7) here"
        )

    def test_another_recommender(self, shop, features, fitted, make_trainer):
        message = self.refusal(BPRMF(factors=4, top_k=TOP_K), make_data(shop, features), fitted[2], make_trainer)
        assert message == (
            "the checkpoint is of VBPR, and the model is BPRMF: give the configuration that it was trained with"
        )

    def test_another_shop(self, other_shop, shop, fitted, make_trainer, tmp_path):
        bpr_mf, trainer = BPRMF(factors=4, top_k=TOP_K), make_trainer(max_epochs=1)
        trainer.fit(bpr_mf, InteractionTriplets(shop))
        trainer.save_checkpoint(tmp_path / "bpr_mf.ckpt")
        message = self.refusal(
            BPRMF(factors=4, top_k=TOP_K), InteractionTriplets(other_shop), tmp_path / "bpr_mf.ckpt", make_trainer
        )
        assert "num_users is 200 there and 50 here; num_items is 90 there and 36 here" in message
        with pytest.raises(CatwalkError, match=r"built for another dataset.*'num_items': 90.*'num_items': 36"):
            make_trainer().test(bpr_mf, InteractionTriplets(other_shop), verbose=False)

    def test_one_that_was_trained_on_what_is_held_out(self, shop, make_trainer, tmp_path):
        """What a validation item was held out for may be tested all the same, and the other way round."""
        bpr_mf, trainer = BPRMF(factors=4, top_k=TOP_K), make_trainer(max_epochs=1)
        trainer.fit(bpr_mf, InteractionTriplets(shop, validation=True))
        trainer.save_checkpoint(tmp_path / "bpr_mf.ckpt")
        for validation in (True, False):
            data = InteractionTriplets(shop, validation=validation)
            again = BPRMF(factors=4, top_k=TOP_K)
            make_trainer().test(again, data, ckpt_path=str(tmp_path / "bpr_mf.ckpt"), verbose=False)
            data = InteractionTriplets(shop, validation=validation, split=LeaveRandomOut())
            with pytest.raises(CatwalkError, match="trained on other purchases than these"):
                make_trainer().test(again, data, ckpt_path=str(tmp_path / "bpr_mf.ckpt"), verbose=False)

    def test_a_classifier(self, shop, features, trained, make_trainer):
        message = self.refusal(make_vbpr(), make_data(shop, features), trained.checkpoint, make_trainer)
        assert message == "the checkpoint is not one of a recommender"


def test_the_base_class_is_abstract():
    with pytest.raises(TypeError, match="abstract"):
        Recommender((5,), None)
