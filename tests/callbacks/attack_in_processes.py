"""Attack in one of the processes that share the work, on the CPU; test_attack_by_processes.py runs it.

Arguments: dataset folder, features folder, classifier, recommender, the attack's folder, the attack,
what to do (`fit` or `test`), a folder for what the process has to say.
"""

import json
import os
import signal
from pathlib import Path

import forked_processes
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything

import callbacks.inject_poisoned_images
from callbacks import AttackedItems, CategoryHitRatio, InjectPoisonedImages
from callbacks.processes import end_together
from catwalk.attacks import PGD, Attack, CarliniWagner, FeatureMatching, RankAttack
from catwalk.errors import CatwalkError
from catwalk.poisoning.poison import Poisoning
from datamodules import InteractionTriplets
from lightning_modules import VBPR

RANK = forked_processes.rank()


class FailsInTheSecond(PGD):
    """Fails in process 1, after it has begun."""

    def perturb(self, network, images, targets, keys):
        if RANK == 1:
            raise CatwalkError("what process 1 has to say")
        return super().perturb(network, images, targets, keys)


class DiesInTheSecond(PGD):
    """Process 1 is killed while it attacks."""

    def perturb(self, network, images, targets, keys):
        if RANK == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().perturb(network, images, targets, keys)


class CannotBeSent(Exception):
    """An exception that cannot be made from its arguments again."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


class RaisesInTheFirst(PGD):
    """Fails in process 0, by a bug."""

    def perturb(self, network, images, targets, keys):
        if RANK == 0:
            raise CannotBeSent(1, 2)
        return super().perturb(network, images, targets, keys)


class ErrorOf(Callback):
    """Notes what ended a run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        data = trainer.datamodule
        assert data.features != self.path
        self.path.write_text(f"{type(exception).__name__}: {exception}")


def attack_of(name: str, recommender: str) -> tuple[Attack, str | None]:
    """Return an attack by its name, and its target."""
    return {
        "pgd": (PGD(epsilon=32.0), "Sneaker"),
        "cw": (CarliniWagner(searches=2, iterations=10), "Sneaker"),
        "matching": (FeatureMatching(iterations=3), "Sneaker"),
        "rank": (RankAttack(iterations=3, recommender=Path(recommender)), None),
        "fails": (FailsInTheSecond(), "Sneaker"),
        "dies": (DiesInTheSecond(), "Sneaker"),
        "raises": (RaisesInTheFirst(), "Sneaker"),
    }[name]


def main(
    dataset: str, features: str, classifier: str, recommender: str, output: str, name: str, command: str, said: str
) -> None:
    report: dict = {"lines": [], "shares": []}
    callbacks.inject_poisoned_images.rank_zero_info = report["lines"].append
    craft = Poisoning.craft

    def noted(self, *arguments, **settings):
        share, levels = craft(self, *arguments, **settings)
        report["shares"].append(share.rows.tolist())
        return share, levels

    Poisoning.craft = noted
    attack, target = attack_of(name, recommender)
    store = Path(f"{output} store")
    inject = InjectPoisonedImages(Path(classifier), attack, "Sandal", Path(output), target, results=store)
    folder = Path(said)
    trainer = Trainer(
        **forked_processes.settings(),
        max_epochs=1,
        callbacks=[
            inject,
            CategoryHitRatio([3, 8]),
            AttackedItems(Path(output), [3, 8], mean_rank=True),
            ErrorOf(folder / f"error{RANK}.txt"),
        ],
    )
    end_together(trainer)
    seed_everything(0, verbose=False)
    data = InteractionTriplets(Path(dataset), Path(features))
    model = VBPR(factors=4, visual_factors=4, top_k=[5])
    if command == "fit":
        trainer.fit(model, data)
        report["features"] = model.model.features.features.double().sum().item()
    else:
        (report["metrics"],) = trainer.test(model, data, ckpt_path=recommender, verbose=False)
    assert data.features == Path(features)
    (folder / f"report{RANK}.json").write_text(json.dumps(report))
