"""Callbacks that measure lists after every Nth epoch, against the same after every epoch."""

import csv
from pathlib import Path

import pytest
from pytorch_lightning import seed_everything
from pytorch_lightning.loggers import CSVLogger

from callbacks import AttackedItems, CategoryHitRatio, RankingMetrics
from catwalk.errors import CatwalkError
from datamodules import InteractionTriplets
from lightning_modules import VBPR

EVERY = {
    "CategoryHitRatio": (CategoryHitRatio, "val/chr@5/Sandal"),
    "RankingMetrics": (RankingMetrics, "val/gini@5"),
    "AttackedItems": (AttackedItems, "val/attacked/mean_rank"),
}


@pytest.mark.parametrize("name", EVERY)
def test_they_look_at_every_nth_validation_of_a_fit(
    name, shop, features, attacked, make_trainer, tmp_path: Path
) -> None:
    kind, value = EVERY[name]
    settings = {"attack": attacked(tmp_path / "attack"), "mean_rank": True} if kind is AttackedItems else {}
    found = []
    for every in (1, 2):
        seed_everything(0, verbose=False)
        callback = kind(top_k=[5], every_n_epochs=every, **settings)
        logger = CSVLogger(tmp_path, name=str(every), version="")
        data = InteractionTriplets(shop, features, validation=True, batch_size=64)
        trainer = make_trainer(max_epochs=5, callbacks=[callback], logger=logger, num_sanity_val_steps=2)
        trainer.fit(VBPR(factors=4, visual_factors=4, top_k=[5]), data)
        with (tmp_path / str(every) / "metrics.csv").open() as file:
            found.append({int(row["epoch"]): row[value] for row in csv.DictReader(file) if row.get(value)})
        (measured,) = trainer.validate(datamodule=data, model=trainer.lightning_module, verbose=False)
        assert value in measured  # of the last epoch, which a fit would have left out
    whole, some = found
    assert sorted(whole) == [0, 1, 2, 3, 4]
    assert some == {epoch: whole[epoch] for epoch in (1, 3)}


def test_they_refuse_less_than_every_epoch() -> None:
    with pytest.raises(CatwalkError, match=r"CategoryHitRatio\.every_n_epochs must be at least 1, got 0"):
        CategoryHitRatio(every_n_epochs=0)
