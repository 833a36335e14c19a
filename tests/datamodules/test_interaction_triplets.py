"""Batches of triplets and blocks of users."""

import hashlib
import shutil
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from callbacks import InjectPoisonedImages
from catwalk.attacks import FGSM
from catwalk.errors import CatwalkError
from catwalk.networks.features import FeatureTable
from catwalk.networks.prediction import Predictions
from catwalk.shop.catalogue import Catalogue
from catwalk.shop.splits import DateSplit, LeaveLastOut, RatioSplit, read_split
from datamodules import InteractionTriplets


def make_data(shop, epoch=0, rank=0, world_size=1, **settings):
    data = InteractionTriplets(shop, **{"batch_size": 50} | settings)
    data.trainer = SimpleNamespace(
        current_epoch=epoch,
        fit_loop=SimpleNamespace(batch_idx=-1),
        global_rank=rank,
        world_size=world_size,
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
    )
    data.setup("fit")
    return data


def triplets(loader):
    return [row for batch in loader for row in zip(*(column.tolist() for column in batch), strict=True)]


def pairs(held_out):
    return set(zip(held_out.users.tolist(), held_out.items.tolist(), strict=True))


def test_every_training_pair_comes_once_per_epoch(shop):
    split = read_split(Catalogue.read(shop))
    data = make_data(shop)
    loader = data.train_dataloader()
    rows = triplets(loader)
    bought = sorted(zip(split.users.tolist(), split.items.tolist(), strict=True))
    assert sorted((user, positive) for user, positive, _ in rows) == bought
    assert not {(user, negative) for user, _, negative in rows} & set(bought)
    sizes = [len(batch[0]) for batch in loader]
    assert sizes == [50] * (len(rows) // 50) + [len(rows) % 50]
    assert len(loader) == len(sizes)


@pytest.mark.parametrize("world_size", [1, 3])
def test_the_last_batch_is_dropped_where_it_is_smaller(shop, world_size):
    for rank in range(world_size):
        kept, dropped = (
            make_data(shop, rank=rank, world_size=world_size, drop_last=drop).train_dataloader()
            for drop in (False, True)
        )
        batches = [[column.tolist() for column in batch] for batch in kept]
        assert len(batches[-1][0]) < 50
        assert [[column.tolist() for column in batch] for batch in dropped] == batches[:-1]
        assert len(dropped) == len(kept) - 1
        per_rank = sum(len(batch[0]) for batch in batches)
        # A last batch as large as the others stays.
        whole = make_data(shop, rank=rank, world_size=world_size, drop_last=True, batch_size=per_rank)
        assert [len(batch[0]) for batch in whole.train_dataloader()] == [per_rank]
        none = make_data(shop, rank=rank, world_size=world_size, drop_last=True, batch_size=per_rank + 1)
        with pytest.raises(CatwalkError, match=f"drop_last leaves nothing to train on: batch_size is {per_rank + 1}"):
            none.train_dataloader()


def test_the_order_depends_on_seed_and_epoch_alone(shop):
    epochs = {}
    for seed, epoch in ((0, 0), (0, 1), (1, 0), (1, 1)):
        rows = triplets(make_data(shop, epoch=epoch, seed=seed).train_dataloader())
        assert rows not in epochs.values()
        epochs[seed, epoch] = rows
        torch.manual_seed(seed + 5)
        assert triplets(make_data(shop, epoch=epoch, seed=seed, batch_size=7).train_dataloader()) == rows
    data = make_data(shop)
    loader = data.train_dataloader()
    assert triplets(loader) == epochs[0, 0]
    data.trainer.current_epoch = 1
    assert triplets(loader) == epochs[0, 1]


@pytest.mark.parametrize("world_size", [2, 7])
def test_processes_share_an_epoch_and_take_as_many_steps(shop, world_size):
    whole = triplets(make_data(shop).train_dataloader())
    loaders = [make_data(shop, rank=rank, world_size=world_size).train_dataloader() for rank in range(world_size)]
    shares = [triplets(loader) for loader in loaders]
    assert len({len(share) for share in shares}) == len({len(loader) for loader in loaders}) == 1
    merged = [row for rows in zip(*shares, strict=True) for row in rows]
    assert merged[: len(whole)] == whole
    assert merged[len(whole) :] == whole[: len(merged) - len(whole)]
    assert len(merged) - len(whole) < world_size


@pytest.mark.parametrize("world_size", [1, 2, 5])
def test_processes_share_the_users_without_repeats(shop, world_size):
    for stage in ("val", "test", "predict"):
        shares = []
        for rank in range(world_size):
            data = make_data(shop, rank=rank, world_size=world_size, validation=True)
            loader = getattr(data, f"{stage}_dataloader")()
            blocks = list(loader)
            assert len(blocks) == len(loader) > 0  # Lightning needs a batch on every process
            shares.append(torch.cat(blocks).tolist())
        assert sorted(user for share in shares for user in share) == list(range(200))


def test_too_many_processes_are_refused_everywhere(shop):
    for rank in (0, 39):
        data = make_data(shop, rank=rank, world_size=40)
        with pytest.raises(CatwalkError, match="13 blocks of 16 users cannot be divided among 40 processes"):
            data.predict_dataloader()


def test_what_is_held_out_and_what_is_seen(shop):
    data = make_data(shop, validation=True)
    split = read_split(data.catalogue, validation=True)
    assert data.num_users == 200
    assert data.num_items == 90
    assert pairs(data.held_out_items("val")) == pairs(split.validation)
    assert pairs(data.held_out_items("test")) == pairs(split.test)
    training = set(zip(split.users.tolist(), split.items.tolist(), strict=True))
    validation = pairs(split.validation)
    assert validation
    everything = [(user, item) for user in range(200) for item in range(90)]
    users, items = (torch.tensor(column) for column in zip(*everything, strict=True))
    for stage, expected in (("val", training), ("test", training | validation)):
        contained = data.seen_items(stage).contains(users, items)
        assert {pair for pair, seen in zip(everything, contained.tolist(), strict=True) if seen} == expected


def test_repeated_purchases_are_told(shop, tmp_path, caplog):
    copy = tmp_path / "shop"
    shutil.copytree(shop, copy)
    lines = (copy / "interactions.csv").read_text().splitlines()
    (copy / "interactions.csv").write_text("\n".join([*lines, lines[1], lines[1], lines[2]]) + "\n")
    with caplog.at_level("INFO"):
        data = make_data(copy)
    assert data.split.num_repeats == 3
    assert "3 repeated purchases left out" in caplog.text
    caplog.clear()
    with caplog.at_level("INFO"):
        make_data(shop)
    assert "purchases to train on" in caplog.text
    assert "repeated" not in caplog.text


def test_what_was_decided_is_told_in_one_line(shop, tmp_path, caplog):
    """Users a and b have a tie over the end of their training purchases, c does not, and d bought too late."""
    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / "items.csv").write_text("item_id,image,category\n" + "".join(f"{name},a.png,c\n" for name in "vwxyz"))
    rows = "a,v,1 a,w,1 b,v,1 b,x,2 b,y,2 c,v,1 c,w,2 c,x,2 d,z,3"
    (tmp_path / "interactions.csv").write_text("user_id,item_id,timestamp\n" + rows.replace(" ", "\n") + "\n")
    told = {}
    for rule in (None, LeaveLastOut(), DateSplit(2), RatioSplit(0.6)):
        with caplog.at_level("INFO"):
            InteractionTriplets(tmp_path, split=rule).setup("test")
        told[rule] = caplog.messages[-1].partition(": ")[2]
    ties = "{} of 3 users' held-out purchases tie in time with one that is not held out: the file's order decided"
    cold = "{} of items that nobody bought in training"
    future = (
        "tested purchases that are earlier than a training purchase of another user: {0} of {0}, so that recommenders "
        "are trained on the future; catwalk.shop.splits.DateSplit, a global split by time, prevents that"
    )
    assert told[None] == told[LeaveLastOut()]
    sizes = "4 users, 5 items, 6 purchases to train on, 0 to validate, 3 to test"
    assert told[None] == "; ".join([sizes, cold.format("1 held-out purchase"), ties.format(3), future.format(3)])
    assert told[DateSplit(2)] == "; ".join(
        [
            "3 users, 5 items, 4 purchases to train on, 0 to validate, 4 (of 2 users) to test",
            "1 user left out, with no purchases to train on",
            cold.format("3 held-out purchases"),
        ]
    )
    assert told[RatioSplit(0.6)] == "; ".join(
        [
            "4 users, 5 items, 4 purchases to train on, 0 to validate, 5 (of 3 users) to test",
            cold.format("5 held-out purchases"),
            ties.format(1),
            future.format(5),
        ]
    )


def test_without_validation_there_is_no_validation_loader(shop):
    assert make_data(shop).val_dataloader() == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"seed": -3}, "seed must be at least 0, got -3"),
        ({"test_users": 0}, "test_users must be at least 1, got 0"),
    ],
)
def test_settings_out_of_range_are_named(shop, settings, message):
    with pytest.raises(CatwalkError, match=message):
        InteractionTriplets(shop, **settings)


def test_the_tested_users_are_chosen_by_their_ids_alone(shop):
    some, more, others = (
        make_data(shop, test_users=count, seed=seed, rank=rank, world_size=2, validation=True)
        for count, seed, rank in ((64, 0, 0), (150, 1, 0), (64, 5, 1))
    )
    ids = some.split.user_ids
    digests = {user: hashlib.sha256(ids[user].encode()).digest()[:8] for user in range(len(ids))}
    in_order = sorted(digests, key=lambda user: int.from_bytes(digests[user], "little", signed=True))
    assert some.tested_users.tolist() == others.tested_users.tolist() == sorted(in_order[:64])
    assert more.tested_users.tolist() == sorted(in_order[:150])
    for loaders in (("val_dataloader",), ("test_dataloader",)):
        blocks = [block.tolist() for data in (some, others) for block in getattr(data, *loaders)()]
        assert sorted(user for block in blocks for user in block) == sorted(in_order[:64])
    everybody = {user for data in (some, others) for block in data.predict_dataloader() for user in block.tolist()}
    assert everybody == set(range(len(ids)))
    assert make_data(shop).tested_users.tolist() == list(range(len(ids)))


def test_no_more_users_are_tested_than_there_are(shop):
    with pytest.raises(CatwalkError, match="test_users is 1,000, and there are 200 users: give fewer"):
        make_data(shop, test_users=1_000)


@pytest.fixture
def shop_with_a_full_user(tmp_path):
    """Items x, y and a cold z; one of the users has x and y in training."""
    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / "items.csv").write_text("item_id,image,category\nx,a.png,c\ny,a.png,c\nz,a.png,c\n")
    splits = tmp_path / "splits"
    splits.mkdir()
    (splits / "train.csv").write_text("user_id,item_id,timestamp\nv,x,1\nEve,x,1\nEve,y,2\n")
    (splits / "test.csv").write_text("user_id,item_id,timestamp\nv,y,2\n")
    return tmp_path


@pytest.mark.parametrize("negatives", ["uniform", "popularity"])
def test_a_user_without_negatives_is_named_before_training(shop_with_a_full_user, negatives):
    with pytest.raises(CatwalkError, match="user 'Eve' has bought all 2 items that anybody has in training"):
        make_data(shop_with_a_full_user, negatives=negatives)
    data = InteractionTriplets(shop_with_a_full_user)
    data.setup("test")  # which needs no negatives
    assert len(data.test_dataloader()) == 1


def test_negatives_are_drawn_as_asked(shop):
    """More popular ones by popularity: the expected purchases of a negative are a fact of the pairs alone."""
    popularity = Counter(read_split(Catalogue.read(shop)).items.tolist())
    means = {}
    for negatives in ("uniform", "popularity"):
        rows = triplets(make_data(shop, negatives=negatives).train_dataloader())
        means[negatives] = np.mean([popularity[negative] for _, _, negative in rows])
    counts = np.array(list(popularity.values()))
    assert means["uniform"] == pytest.approx(counts.mean(), rel=0.15)
    assert means["popularity"] == pytest.approx((counts**2).sum() / counts.sum(), rel=0.15)
    assert means["popularity"] > means["uniform"] * 1.2


@pytest.mark.parametrize("rank", [0, 1])
def test_an_epoch_goes_on_in_its_middle(shop, rank):
    whole = list(make_data(shop, rank=rank, world_size=2).train_dataloader())
    data = make_data(shop, rank=rank, world_size=2)
    data.trainer.fit_loop.batch_idx = 2
    rest = list(data.train_dataloader())
    assert len(rest) == len(whole) - 3 > 1
    for batch, expected in zip(rest, whole[3:], strict=True):
        assert all(torch.equal(column, other) for column, other in zip(batch, expected, strict=True))


def test_triplets_are_sampled_on_the_device_of_training(shop):
    data = make_data(shop)
    data.trainer.strategy.root_device = torch.device("meta")
    assert {column.device.type for column in data._sampler.to(data._device).sample_epoch(0, 0)} == {"meta"}


STORAGES, DTYPES = ("device", "host", "disk"), ("float32", "float16", "bfloat16")


@pytest.fixture(scope="module")
def features(shop, tmp_path_factory):
    """A folder of features, and the features."""
    folder, catalogue = tmp_path_factory.mktemp("features"), Catalogue.read(shop)
    values = torch.randn(90, 5, generator=torch.Generator().manual_seed(0)) * 10
    predictions = Predictions(values, torch.from_numpy(catalogue.categories), torch.ones(90))
    FeatureTable.from_predictions(predictions, catalogue.category_names, catalogue.fingerprint, "none").write(
        folder, catalogue
    )
    return folder, values


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_features_lie_as_asked(shop, features, storage, dtype):
    folder, values = features
    data = make_data(shop, features=folder, feature_storage=storage, feature_dtype=dtype)
    for table in (data.feature_table, data.read_features(folder)):
        assert table.features.dtype == getattr(torch, dtype)
        assert torch.equal(table.features, values.to(getattr(torch, dtype)))
        assert table.scale == float(values.abs().max())  # of float32, whatever they are rounded to
    rows, items = data.feature_rows("cpu"), torch.tensor([3, 80, 3])
    assert torch.equal(rows.rows(items), values.to(getattr(torch, dtype)).float()[items])
    moved = data.feature_rows("meta")
    assert moved.features.device.type == ("meta" if storage == "device" else "cpu")


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_an_attack_takes_and_leaves_features_as_they_lie(shop, trained, tmp_path, make_trainer, storage, dtype):
    """What is attacked, measured and written is float32; what the recommender gets is of the asked type."""
    trained.table.write(tmp_path / "clean", trained.catalogue)
    data = InteractionTriplets(shop, tmp_path / "clean", feature_storage=storage, feature_dtype=dtype)
    callback = InjectPoisonedImages(
        trained.checkpoint, FGSM(epsilon=16.0), "Sandal", tmp_path / "attack", target="Sneaker"
    )
    trainer = make_trainer(callbacks=[callback])
    trainer.datamodule = data
    data.trainer = trainer
    data.setup("test")
    clean = data.feature_table
    callback.setup(trainer, None, "test")
    written = FeatureTable.read(tmp_path / "attack", data.catalogue)
    assert written.features.dtype == torch.float32
    attacked = torch.tensor([trained.table.category_names[number] == "Sandal" for number in trained.table.categories])
    assert torch.equal(written.features[~attacked], trained.table.features[~attacked])
    assert not (written.features[attacked] == trained.table.features[attacked]).all(dim=1).any()
    distances = (written.features - trained.table.features)[attacked].double().square().mean(dim=1)
    assert callback.summary.feature_loss == pytest.approx(float(distances.mean()), rel=1e-5)
    assert torch.equal(data.feature_table.features, written.features.to(getattr(torch, dtype)))
    assert data.feature_table.scale == trained.table.scale
    callback.teardown(trainer, None, "test")
    assert data.feature_table is clean
    assert data.features == tmp_path / "clean"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"negatives": "hard"}, "negatives must be one of uniform, popularity, got 'hard'"),
        ({"feature_storage": "gpu"}, "feature_storage must be one of device, host, disk, got 'gpu'"),
        ({"feature_dtype": "int8"}, "feature_dtype must be one of float32, float16, bfloat16, got 'int8'"),
    ],
)
def test_choices_that_there_are_not_are_named(shop, settings, message):
    with pytest.raises(CatwalkError, match=message):
        InteractionTriplets(shop, **settings)
