"""Logs the accuracy of a CNN that is left under AutoAttack, as reviewers ask for it."""

import csv
import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from callbacks.both_stages import MeasuringCallback
from callbacks.processes import gather
from catwalk.attacks import Attack, AutoAttack
from catwalk.attacks.auto_attack import MISTAKEN, ROBUST
from catwalk.attacks.signs_of_masking import SUSPICIOUS_SHARE, gives_probabilities, has_no_gradient, is_random
from catwalk.errors import CatwalkError
from catwalk.files.append_only import append_lines, read_lines
from catwalk.files.atomic import open_text
from catwalk.keyed_random import content_keys
from catwalk.networks.network import network_fingerprint
from catwalk.results.keys import inputs_of
from lightning_modules.cnn import ProductClassifier
from lightning_modules.measured_module import Stage

TABLE_FILE = "robust_accuracy.csv"


class Verdict(NamedTuple):
    """What was found of an image.

    Attributes:
        misled_by: As in :class:`~catwalk.attacks.EnsembleResult`.
        iterations: Gradient steps and queries.
        no_gradient: Whether attacks by gradients are blind there.
    """

    misled_by: int
    iterations: int
    no_gradient: bool


class RobustAccuracy(MeasuringCallback):
    """During ``catwalk test`` with a CNN, attacks every test image by AutoAttack and logs the accuracy that is left.

    An image counts as robust if the network tells its category, and goes on to do so under each of the components
    (worst case per image). Logged are ``test/robust_accuracy``, and ``test/robust_accuracy_COMPONENT``, what is left
    after each component and those before it. ``robust_accuracy.csv`` in the folder ``output`` has a row for the clean
    images and one for each component: ``component``, ``misled`` (how many images it was the first to mislead) and
    ``accuracy`` (what is left).

    What was found of an image is appended to ``verdicts-0.jsonl`` in that folder (the number is the process's) as soon
    as its batch is done, with a hash of all it depends on: network, attack, code, PyTorch's version. A run that was
    killed goes on with the images that are left, whatever its batch size and number of processes, and a run that is
    through costs nothing the second time. Verdicts of another network in the same folder are passed over, and stay.

    It warns where the accuracy may look better than it is (Carlini et al., "On Evaluating Adversarial Robustness",
    2019; AutoAttack's own flags): where gradients are exactly 0, the network draws random numbers, gives probabilities
    in the place of logits, or falls to Square where the attacks by gradients have failed.

    Args:
        output: Folder for the verdicts and the table.
        attack: The ensemble, with its budget; the standard one with ε = 8 grey levels by default.
        max_images: How many test images to attack at most, the first ones; all by default.

    Raises:
        CatwalkError: If there is nothing to attack.
    """

    def __init__(self, output: Path, attack: AutoAttack | None = None, max_images: int | None = None) -> None:
        if max_images is not None and max_images < 1:
            raise CatwalkError(f"RobustAccuracy.max_images: must be at least 1, or null for all, got {max_images}")
        self.output = Path(output)
        if self.output.is_file():
            raise CatwalkError(f"RobustAccuracy.output: must be a folder, and {output} is a file")
        self.attack = AutoAttack() if attack is None else attack
        self.max_images = max_images
        self._key = ""
        self._known: dict[tuple[int, int], Verdict] = {}
        self._verdicts: list[Verdict] = []
        self._left: int | None = None
        self._is_checked = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse what has no categories to be right about."""
        if not isinstance(pl_module, ProductClassifier):
            raise CatwalkError(f"RobustAccuracy measures product classifiers, not a {type(pl_module).__name__}")

    def begin_measuring(self, trainer: Trainer, pl_module: Any, stage: Stage) -> None:
        """Read what is known already."""
        if stage == "val":
            return
        settings = {
            "network": network_fingerprint(pl_module.network),
            "attack": [_settings(component) for component in self.attack.components],
        }
        self._key = inputs_of(settings, [type(self.attack).__module__]).key
        self._verdicts, self._is_checked = [], False
        self._known = {
            (row["image"], row["category"]): Verdict(row["misled_by"], row["iterations"], row["no_gradient"])
            for path in sorted(self.output.glob("verdicts-*.jsonl"))
            for row in read_lines(path)
            if row["key"] == self._key
        }
        most = self.max_images
        # Each process has every ``world_size``-th image.
        self._left = None if most is None else len(range(trainer.global_rank, most, trainer.world_size))

    def measure(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: tuple[Tensor, Tensor]) -> None:
        """Attack the images of a batch of which nothing is known yet."""
        if not trainer.testing:
            return
        images, categories = (tensor[: self._left] for tensor in batch)
        if len(images) == 0:
            return
        if self._left is not None:
            self._left -= len(images)
        if not self._is_checked:
            self._check(pl_module.network, images)
        keys = content_keys(images)
        ids = list(zip(keys.tolist(), categories.tolist(), strict=True))
        todo = [place for place, image in enumerate(ids) if image not in self._known]
        path = self.output / f"verdicts-{trainer.global_rank}.jsonl"
        for start in range(0, len(todo), self.attack.batch_size):
            places = todo[start : start + self.attack.batch_size]
            rows = torch.tensor(places, device=images.device)
            found = self._judge(pl_module.network, images[rows], categories[rows], keys[rows])
            append_lines(
                path,
                (
                    {"key": self._key, "image": ids[place][0], "category": ids[place][1], **verdict._asdict()}
                    for place, verdict in zip(places, found, strict=True)
                ),
            )
            self._known |= {ids[place]: verdict for place, verdict in zip(places, found, strict=True)}
        self._verdicts += [self._known[image] for image in ids]

    def _judge(self, network: Any, images: Tensor, categories: Tensor, keys: Tensor) -> list[Verdict]:
        blind = has_no_gradient(network, images, categories)
        result = self.attack(network, images, categories, keys=keys)
        columns = result.misled_by.tolist(), result.iterations.tolist(), blind.tolist()
        return [Verdict(*row) for row in zip(*columns, strict=True)]

    def _check(self, network: Any, images: Tensor) -> None:
        """Warn of a network that attacks take for another than it is."""
        self._is_checked = True
        if is_random(network, images):
            rank_zero_warn(
                "RobustAccuracy: the network gives other logits when it is asked the same again. AutoAttack takes it "
                "for one that does not, and finds too little: attack the mean over what it draws instead"
            )
        if gives_probabilities(network, images):
            rank_zero_warn(
                "RobustAccuracy: the network gives probabilities, whose gradients vanish where it is sure: let it give "
                "the logits before the softmax"
            )

    def end_measuring(self, trainer: Trainer, pl_module: LightningModule, stage: Stage) -> None:
        """Log, write the table, and warn."""
        if stage == "val":
            return
        verdicts = gather(self._verdicts, trainer.world_size)
        if not verdicts:
            return
        components = self.attack.components
        misled = [sum(verdict.misled_by == place for verdict in verdicts) for place in range(len(components) + 1)]
        left, rows = len(verdicts), []
        for place, count in enumerate(misled):
            left -= count
            title = "clean" if place == MISTAKEN else components[place - 1].title
            accuracy = left / len(verdicts)
            rows.append((title, count, accuracy))
            if place != MISTAKEN:
                name = title.lower().replace("-", "_")
                pl_module.log(f"test/robust_accuracy_{name}", accuracy, sync_dist=True)
        pl_module.log("test/robust_accuracy", left / len(verdicts), sync_dist=True)
        if trainer.is_global_zero:
            with open_text(self.output / TABLE_FILE) as file:
                writer = csv.writer(file, lineterminator="\n")
                writer.writerow(("component", "misled", "accuracy"))
                writer.writerows((title, count, f"{accuracy:.6f}") for title, count, accuracy in rows)
        rank_zero_info(
            f"{self.attack.name} on {len(verdicts)} images: "
            + ", ".join(f"{title} {accuracy:.2%}" for title, _, accuracy in rows)
            + f"; {self.output / TABLE_FILE}"
        )
        self._warn(verdicts, dict(zip((title for title, _, _ in rows), misled, strict=True)))

    def _warn(self, verdicts: list[Verdict], misled: dict[str, int]) -> None:
        """Say where the accuracy may look better than it is."""
        blind = sum(verdict.no_gradient and verdict.misled_by != MISTAKEN for verdict in verdicts)
        robust = sum(verdict.no_gradient and verdict.misled_by == ROBUST for verdict in verdicts)
        if blind:
            rank_zero_warn(
                f"RobustAccuracy: the gradient of {blind} images is exactly 0, of which {robust} count as robust: the "
                "network hides it from attacks by gradients; attack it without the part that does"
            )
        by_square = misled.get("Square", 0)
        if by_square > SUSPICIOUS_SHARE * len(verdicts) and len(misled) > 2:
            rank_zero_warn(
                f"RobustAccuracy: Square, which sees logits alone, has misled the network on {by_square} images on "
                "which the attacks by gradients failed: its gradients may be of no use, and the accuracy lower still"
            )


def _settings(attack: Attack) -> dict[str, Any]:
    """Return all that an attack's images depend on, as plain values."""
    settings = {name: value for name, value in vars(attack).items() if name not in ("batch_size", "compiled")}
    threat_model = dataclasses.asdict(attack.threat_model)
    return {**settings, "threat_model": threat_model, "class": f"{type(attack).__module__}.{type(attack).__qualname__}"}
