"""Batches of triplets and blocks of users."""

import shutil
from types import SimpleNamespace

import pytest
import torch

from catwalk.catalogue import Catalogue
from catwalk.errors import CatwalkError
from catwalk.interactions import read_split
from datamodules import InteractionTriplets


def make_data(shop, epoch=0, rank=0, world_size=1, **settings):
    data = InteractionTriplets(shop, **{"batch_size": 50} | settings)
    data.trainer = SimpleNamespace(
        current_epoch=epoch, fit_loop=SimpleNamespace(batch_idx=-1), global_rank=rank, world_size=world_size
    )
    data.setup("fit")
    return data


def triplets(loader):
    return [row for batch in loader for row in zip(*(column.tolist() for column in batch), strict=True)]


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
    assert data.held_out_items("val").tolist() == split.validation.tolist()
    assert data.held_out_items("test").tolist() == split.test.tolist()
    training = set(zip(split.users.tolist(), split.items.tolist(), strict=True))
    validation = {(user, item) for user, item in enumerate(split.validation.tolist()) if item >= 0}
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


def test_without_validation_there_is_no_validation_loader(shop):
    assert make_data(shop).val_dataloader() == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"batch_size": 0}, "batch_size must be at least 1, got 0"), ({"seed": -3}, "seed must be at least 0, got -3")],
)
def test_settings_out_of_range_are_named(shop, settings, message):
    with pytest.raises(CatwalkError, match=message):
        InteractionTriplets(shop, **settings)


def test_a_user_who_has_bought_everything_is_named(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / "items.csv").write_text("item_id,image,category\nx,a.png,c\ny,a.png,c\n")
    (tmp_path / "interactions.csv").write_text("user_id,item_id,timestamp\nu,x,1\nu,y,2\nv,x,1\n")
    splits = tmp_path / "splits"
    splits.mkdir()
    (splits / "train.csv").write_text("user_id,item_id,timestamp\nv,x,1\nu,x,1\nu,y,2\n")
    (splits / "test.csv").write_text("user_id,item_id,timestamp\nv,y,2\n")
    with pytest.raises(CatwalkError, match="user number 1 has bought all 2 items"):
        triplets(make_data(tmp_path).train_dataloader())
