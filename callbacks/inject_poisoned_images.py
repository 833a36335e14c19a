"""Attacks the images of one category and puts what comes of it in the place of the clean features."""

import pickle
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities import rank_zero_info
from pytorch_lightning.utilities.seed import isolate_rng
from rich.console import Console
from rich.markup import escape

from callbacks.processes import gather
from catwalk.attacks import Attack
from catwalk.errors import CatwalkError
from catwalk.files.partial_folders import partial_folder, remove_leftovers
from catwalk.files.watched import WatchedFiles, watch
from catwalk.networks.classifier import load_classifier
from catwalk.networks.features import FEATURES_FILE, PREDICTIONS_FILE, FeatureTable
from catwalk.poisoning.finished_attack import (
    attack_key,
    check_folder,
    files_of,
    has_key,
    is_finished,
    put_in_place,
)
from catwalk.poisoning.poison import AttackSummary, NothingToAttackError, Poisoning, read_summary
from catwalk.poisoning.protocol import AttackProtocol, Protocol
from catwalk.terminal.progress import Progress
from lightning_modules.data_protocols import poisonable_data_of
from lightning_modules.recommender import Recommender

PARTIAL = ".partial"
"""Folder in the attack's own where it is made."""


class InjectPoisonedImages(Callback):
    """Poisons the catalogue of a visual recommender before it is trained, or, with ``catwalk test``, before it ranks.

    The images of the source category are attacked, written as 8-bit PNG files, read back, and the features of those
    files take the place of the clean ones. With ``fit`` the recommender is trained on the poisoned catalogue
    (poisoning), from the beginning or from some epoch on; with ``test`` alone (or ``validate``, or ``predict``), a
    recommender that was trained on the clean one meets it (evasion).

    Processes share the images among them. An attack is run once: where ``output`` holds what came of exactly this one
    (:func:`~catwalk.poisoning.finished_attack.attack_key`), whole and as it was written, that is taken. What another
    attack left there is replaced; a folder with files of those names that are no attack's is
    refused, as is the dataset's.

    Args:
        classifier: Checkpoint of the product classifier under attack: the one that made ``data.features``.
        attack: The attack.
        source: Category whose images are attacked.
        target: Category that the classifier shall see in them; None for an untargeted attack.
        output: Folder for the adversarial images, ``attacked_items.csv``, ``attack.json`` and the poisoned features.
        protocol: Who says which items are of the source category, and how the attack's budget is meant. What a study's
            protocol says besides has no effect here.
        from_epoch: Epoch of ``fit``, counted from 0, at whose beginning the images are injected. The epochs before it,
            and their validation, are on the clean catalogue, so that the figures of every epoch show the jump.
        backbone: Import path of the classifier's backbone, where it is your own: a checkpoint alone decides about none
            but those of Catwalk, torchvision and timm.
        backbone_args: The arguments that your own backbone was trained with, if there were any.

    Raises:
        CatwalkError: If ``from_epoch`` is negative, or the attack's ε is too small for 8-bit images.
    """

    def __init__(
        self,
        classifier: Path,
        attack: Attack,
        source: str,
        output: Path,
        target: str | None = None,
        protocol: AttackProtocol | Protocol = AttackProtocol(),  # noqa: B008 - frozen
        from_epoch: int = 0,
        backbone: str | None = None,
        backbone_args: dict[str, Any] | None = None,
    ) -> None:
        if from_epoch < 0:
            raise CatwalkError(f"from_epoch: must be at least 0, got {from_epoch}")
        attack.check_eight_bit()
        self.classifier = Path(classifier)
        self.attack = attack
        self.source = source
        self.target = target
        self.output = Path(output)
        self.protocol = protocol
        self.from_epoch = from_epoch
        self.backbone = backbone
        self.backbone_args = backbone_args
        self.summary: AttackSummary | None = None
        self._clean: tuple[Path, FeatureTable] | None = None
        self._poisoned: FeatureTable | None = None
        self._watched: list[WatchedFiles] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Attack, unless that was done, and, if it is time, replace the features before the recommender takes them.

        Raises:
            CatwalkError: If there is another attack in the run, the run ends before the images are injected, there are
                no features, ``output`` holds what is no attack's, or a file that the attack is made of was written
                meanwhile.
        """
        number = sum(isinstance(other, InjectPoisonedImages) for other in trainer.callbacks)  # type: ignore[attr-defined]
        if number > 1:
            raise CatwalkError(f"InjectPoisonedImages: there can be one attack in a run, and there are {number}")
        ends = stage == "fit" and trainer.max_epochs not in (None, -1)
        if ends and 0 < self.from_epoch >= cast(int, trainer.max_epochs):
            raise CatwalkError(
                f"InjectPoisonedImages.from_epoch is {self.from_epoch}, counted from 0, and the run ends after "
                f"trainer.max_epochs={trainer.max_epochs}: the images would never be injected"
            )
        data = poisonable_data_of(trainer, type(self).__name__)
        clean = getattr(data, "feature_table", None)
        if clean is None or data.features is None:
            raise CatwalkError(
                "InjectPoisonedImages replaces features, and data.features is not given: give the folder that "
                "`catwalk predict` wrote"
            )
        if Path(data.features).resolve() == self.output.resolve():
            raise CatwalkError(f"InjectPoisonedImages.output is {self.output}, where the clean features are")
        self._clean = data.features, clean
        purchases = None
        if self.attack.knowledge == "network and purchases":
            purchases = np.bincount(data.split.items, minlength=len(data.catalogue))
        key, is_done = self._look(trainer, data, purchases)
        if not is_done:
            self._poison(trainer, data, purchases, key)
        with _together(trainer):
            self._poisoned, self.summary = data.read_features(self.output), read_summary(self.output)
            if not has_key(self.output, key):
                raise CatwalkError(
                    f"InjectPoisonedImages.output: another run has just written another attack to {self.output}; give "
                    "each attack a folder of its own"
                )
        assert self.summary is not None
        rank_zero_info(
            f"{self.summary.attack} on {self.summary.n_attacked} items of {self.source}: success rate "
            f"{self.summary.sr:.1%} ({self.summary.sr_clean:.1%} before), images in {self.output}"
            f"{', as an earlier run left them' if is_done else ''}"
        )
        if stage != "fit" or self.from_epoch == 0:
            self._inject(data)

    def _inject(self, data: Any) -> None:
        data.features, data.feature_table = self.output, self._poisoned

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Inject, if a run goes on beyond the epoch where that was to happen."""
        self._inject_if_due(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Inject, if it is time."""
        self._inject_if_due(trainer, pl_module)

    def _inject_if_due(self, trainer: Trainer, pl_module: LightningModule) -> None:
        data = poisonable_data_of(trainer, type(self).__name__)
        if trainer.current_epoch >= self.from_epoch and data.feature_table is not self._poisoned:
            self._inject(data)
            cast(Recommender, pl_module).take_features(data)
            rank_zero_info(f"epoch {trainer.current_epoch}: the recommender has the poisoned catalogue from now on")

    def _look(self, trainer: Trainer, data: Any, purchases: NDArray[np.int64] | None) -> tuple[str | None, bool]:
        """Return the attack's key, and whether the folder holds what came of it."""
        found: tuple[str | None, bool] = None, False
        with _together(trainer):
            if trainer.is_global_zero:
                check_folder(self.output, data.catalogue)
                self._watched = self._watch(data)
                key = attack_key(
                    self.classifier,
                    self.attack,
                    data.catalogue,
                    Path(data.features),
                    source=self.source,
                    target=self.target,
                    protocol=self.protocol,
                    purchases=purchases,
                    backbone=self.backbone,
                    backbone_args=self.backbone_args,
                )
                found = key, is_finished(self.output, key)
        return gather([found], trainer.world_size)[0]

    def _watch(self, data: Any) -> list[WatchedFiles]:
        """Watch the files that the attack is made of."""
        folder, images = data.catalogue.folder, data.catalogue.images
        features = [Path(data.features) / name for name in (FEATURES_FILE, PREDICTIONS_FILE)]
        named = [self.classifier, *features, *files_of(self.attack)]
        return [watch(*named), WatchedFiles(lambda: [folder / image for image in images])]

    def _poison(self, trainer: Trainer, data: Any, purchases: NDArray[np.int64] | None, key: str | None) -> None:
        """Attack, each process its share of the images, and put what comes of it into the folder.

        The global random numbers stay as they are: the recommender begins as without an attack.
        """
        is_first, world_size = trainer.is_global_zero, trainer.world_size
        console = Console()
        aside: Path | None = None
        with ExitStack() as stack:
            stack.enter_context(isolate_rng())
            bar = Progress(console=console, transient=True, disable=not console.is_terminal)
            if is_first:
                stack.enter_context(bar)
            with _together(trainer):
                if is_first:
                    remove_leftovers(self.output / PARTIAL)
                    stack.callback(_remove_if_empty, self.output / PARTIAL)
                    aside = stack.enter_context(partial_folder(self.output / PARTIAL))
            (folder,) = filter(None, gather([aside], world_size))
            with _together(trainer):
                classifier = load_classifier(self.classifier, self.backbone, self.backbone_args)
                classifier.network.to(trainer.strategy.root_device)
                try:
                    poisoning = Poisoning.plan(
                        classifier,
                        self.attack,
                        data.catalogue,
                        # In float32, whatever the recommender's features are rounded to.
                        FeatureTable.read(data.features, data.catalogue),
                        source=self.source,
                        target=self.target,
                        protocol=self.protocol,
                        purchases=purchases,
                    )
                except NothingToAttackError as error:
                    raise CatwalkError(f"{self.classifier} (InjectPoisonedImages.classifier): {error}") from error
                task = bar.add_task(escape(f"{self.attack.name} on {self.source} images"))
                share, levels = poisoning.craft(
                    trainer.global_rank,
                    world_size,
                    progress=lambda done, total: bar.update(task, completed=done, total=total),
                )
                poisoning.save(share, levels, folder)
            shares = gather([share], world_size)
            with _together(trainer):
                if is_first:
                    poisoning.complete(shares, folder)
                    for files in self._watched:
                        files.require_unchanged(self.attack.name)
                    put_in_place(folder, self.output, key)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log what the attack did."""
        self._log(trainer)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log what the attack did."""
        self._log(trainer)

    def _log(self, trainer: Trainer) -> None:
        assert self.summary is not None
        figures = {
            f"attack/{name}": float(value)
            for name, value in asdict(self.summary).items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        }
        for logger in trainer.loggers:
            logger.log_metrics(figures)

    @property
    def clean_features(self) -> FeatureTable | None:
        """The features whose place the attack's have taken; None outside a run."""
        return None if self._clean is None else self._clean[1]

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give the data module its clean features back."""
        self._give_back(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give the data module its clean features back: there will be no teardown."""
        self._give_back(trainer)

    def _give_back(self, trainer: Trainer) -> None:
        if self._clean is not None:
            data = poisonable_data_of(trainer, type(self).__name__)
            data.features, data.feature_table = self._clean
            self._clean = self._poisoned = None


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()


@contextmanager
def _together(trainer: Trainer) -> Iterator[None]:
    """Let every process do its part and wait for the others; what one of them raises, all raise."""
    own: Exception | None = None
    try:
        yield
    except Exception as error:
        own = error
    raised = [error for error in gather([_picklable(own)], trainer.world_size) if error is not None]
    if own is not None:
        raise own
    if raised:
        raise raised[0]


def _picklable(error: Exception | None) -> Exception | None:
    """Return an exception as it can be sent to another process: some cannot be made again from their arguments."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
