"""Attacks the images of one category and puts what comes of it in the place of the clean features."""

import pickle
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities import rank_zero_info
from pytorch_lightning.utilities.seed import isolate_rng
from rich.console import Console
from rich.markup import escape

from callbacks.processes import gather
from callbacks.trainer_callbacks import callbacks_of
from catwalk.attacks import Attack
from catwalk.errors import CatwalkError
from catwalk.files.locks import LockedError
from catwalk.files.watched import WatchedFiles, watch, watch_named
from catwalk.networks.classifier import load_classifier
from catwalk.networks.defended import DRAWS
from catwalk.networks.features import FEATURES_FILE, PREDICTIONS_FILE, FeatureTable
from catwalk.poisoning.attack_files import AttackSummary, read_summary
from catwalk.poisoning.attack_inputs import attack_inputs, files_of
from catwalk.poisoning.finished_attack import (
    ATTACK,
    aside,
    check_folder,
    copy_attack,
    has_key,
    is_taken,
    origin_of,
    put_in_place,
)
from catwalk.poisoning.poison import NothingToAttackError, Poisoning
from catwalk.poisoning.protocol import NO_UNDEFENDED, AttackProtocol, Protocol
from catwalk.results.keys import Inputs
from catwalk.results.store import STORE, StageCache
from catwalk.shop.catalogue import Catalogue
from catwalk.terminal.progress import Progress
from lightning_modules.data_protocols import poisonable_data_of
from lightning_modules.recommender import Recommender

PAUSE = 1.0
"""Seconds between two looks at an attack that another run is making."""


class _PlannedAttack(NamedTuple):
    """The attack of a run, before it is known whether it was run before.

    Attributes:
        inputs: All that it depends on; None where that cannot be told.
        folder: Where its result is to be read.
        purchases: int64 ``(N,)``, how often each item was bought, where it must know it.
    """

    inputs: Inputs | None
    folder: Path
    purchases: NDArray[np.int64] | None

    @property
    def key(self) -> str | None:
        return None if self.inputs is None else self.inputs.key


class InjectPoisonedImages(Callback):
    """Poisons the catalogue of a visual recommender before it is trained, or, with ``catwalk test``, before it ranks.

    The images of the source category are attacked, written as 8-bit PNG files, read back, and the features of those
    files take the place of the clean ones. With ``fit`` the recommender is trained on the poisoned catalogue
    (poisoning), from the beginning or from some epoch on; with ``test`` alone (or ``validate``, or ``predict``), a
    recommender that was trained on the clean one meets it (evasion).

    Processes share the images among them. An attack is run once: its result is kept in the store of results, under the
    hash of all that it depends on (:func:`~catwalk.poisoning.attack_inputs.attack_inputs`), and taken from there by
    later runs and by studies that attack the same. With ``output`` a copy of it is put there, in the place of what
    another attack left; a folder with files of those names that are no attack's is refused, as is the dataset's.

    Args:
        classifier: Checkpoint of the product classifier under attack: the one that made ``data.features``.
        attack: The attack.
        source: Category whose images are attacked.
        target: Category that the classifier shall see in them; None for an untargeted attack.
        output: Folder for a copy of the adversarial images, ``attacked_items.csv``, ``attack.json`` and the poisoned
            features; None for none beside that in the store.
        protocol: Who says which items are of the source category, and how the attack's budget is meant. What a study's
            protocol says besides has no effect here.
        from_epoch: Epoch of ``fit``, counted from 0, at whose beginning the images are injected. The epochs before it,
            and their validation, are on the clean catalogue, so that the metrics of every epoch show the jump.
        backbone: Import path of the classifier's backbone, where it is your own: a checkpoint alone decides about none
            but those of Catwalk, torchvision and timm.
        backbone_args: The arguments that your own backbone was trained with, if there were any.
        results: The store of results; ``runs/cache`` by default, where studies that write to ``runs`` have theirs.
        verify: Whether to compare the hashes of all files that are taken from the store. Otherwise a file is not read
            again whose hash was compared before, and whose size and times are still those.
        undefended: Folder of the catalogue's clean features by the undefended network, which ``catwalk predict`` wrote;
            needed where ``protocol.source_items`` is ``undefended``, and without effect otherwise.
        adaptive: Whether the attacker knows the input operations of the classifier's checkpoint and attacks through
            them; otherwise the images are crafted on the bare network. They are judged through the operations anyway.
        draws: Over how many draws of random operations an adaptive attacker averages the gradient.

    Raises:
        CatwalkError: If ``from_epoch`` is negative, the attack's ε is too small for 8-bit images, or the undefended
            network is to choose the items and its features are not named.
    """

    def __init__(
        self,
        classifier: Path,
        attack: Attack,
        source: str,
        output: Path | None = None,
        target: str | None = None,
        protocol: AttackProtocol | Protocol = AttackProtocol(),  # noqa: B008 - frozen
        from_epoch: int = 0,
        backbone: str | None = None,
        backbone_args: dict[str, Any] | None = None,
        results: Path | None = None,
        verify: bool = False,
        undefended: Path | None = None,
        adaptive: bool = True,
        draws: int = DRAWS,
    ) -> None:
        if from_epoch < 0:
            raise CatwalkError(f"from_epoch: must be at least 0, got {from_epoch}")
        if protocol.source_items == "undefended" and undefended is None:
            raise CatwalkError(NO_UNDEFENDED)
        attack.check_eight_bit()
        self.classifier = Path(classifier)
        self.attack = attack
        self.source = source
        self.target = target
        self.output = None if output is None else Path(output)
        self.results = STORE if results is None else Path(results)
        self.verify = verify
        self.undefended = None if undefended is None else Path(undefended)
        self.protocol = protocol
        self.adaptive = adaptive
        self.draws = draws
        self.from_epoch = from_epoch
        self.backbone = backbone
        self.backbone_args = backbone_args
        self.summary: AttackSummary | None = None
        self._clean: tuple[Path, FeatureTable] | None = None
        self._poisoned: FeatureTable | None = None
        self._planned: _PlannedAttack | None = None
        self._store = StageCache(self.results)
        self._watched: list[WatchedFiles] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Attack, unless that was done, and, if it is time, replace the features before the recommender takes them.

        Raises:
            CatwalkError: If there is another attack in the run, the run ends before the images are injected, there are
                no features, ``output`` holds what is no attack's, or a file that the attack is made of was written
                meanwhile.
        """
        number = sum(isinstance(other, InjectPoisonedImages) for other in callbacks_of(trainer))
        if number > 1:
            raise CatwalkError(f"InjectPoisonedImages: there can be one attack in a run, and there are {number}")
        ends = stage == "fit" and trainer.max_epochs not in (None, -1)
        if ends and 0 < self.from_epoch >= cast(int, trainer.max_epochs):
            raise CatwalkError(
                f"InjectPoisonedImages.from_epoch is {self.from_epoch}, counted from 0, and the run ends after "
                f"trainer.max_epochs={trainer.max_epochs}: the images would never be injected"
            )
        data = poisonable_data_of(trainer, type(self).__name__)
        attack = self._prepare(trainer)
        assert data.features is not None  # else it has refused
        assert data.feature_table is not None
        self._clean = data.features, data.feature_table
        is_done = self._look(trainer, attack)
        if not is_done:
            self._poison(trainer, data, attack)
        with _together(trainer):
            self._poisoned, self.summary = data.read_features(attack.folder), read_summary(attack.folder)
            if not has_key(attack.folder, attack.key):
                raise CatwalkError(
                    f"InjectPoisonedImages.output: another run has just written another attack to {attack.folder}; "
                    "give each attack a folder of its own"
                )
        assert self.summary is not None
        rank_zero_info(
            f"{self.summary.attack} on {self.summary.n_attacked} items of {self.source}: success rate "
            f"{self.summary.sr:.1%} ({self.summary.sr_clean:.1%} before), images in {attack.folder}"
            f"{', as an earlier run left them' if is_done else ''}"
        )
        if stage != "fit" or self.from_epoch == 0:
            self._inject(data)

    def folder_in(self, trainer: Trainer) -> Path:
        """Return the folder of the attack in a run whose data are set up; every process must ask, or none."""
        return self.output if self.output is not None else self._prepare(trainer).folder

    def _inject(self, data: Any) -> None:
        assert self._planned is not None
        data.features, data.feature_table = self._planned.folder, self._poisoned

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

    def _prepare(self, trainer: Trainer) -> _PlannedAttack:
        """Return what the attack depends on and where its result is to be read, found out once in a run."""
        if self._planned is None:
            data = poisonable_data_of(trainer, type(self).__name__)
            if getattr(data, "feature_table", None) is None or data.features is None:
                raise CatwalkError(
                    "InjectPoisonedImages replaces features, and data.features is not given: give the folder that "
                    "`catwalk predict` wrote"
                )
            if self.output is not None and Path(data.features).resolve() == self.output.resolve():
                raise CatwalkError(f"InjectPoisonedImages.output is {self.output}, where the clean features are")
            purchases = None
            if self.protocol.must_know_purchases(self.attack):
                purchases = np.bincount(data.split.items, minlength=len(data.catalogue))
            inputs: Inputs | None = None
            with _together(trainer):
                if trainer.is_global_zero:
                    if self.output is not None:
                        check_folder(self.output, data.catalogue)
                    self._watched = self._watch(data)
                    inputs = attack_inputs(
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
                        undefended=self.undefended,
                        adaptive=self.adaptive,
                        draws=self.draws,
                    )
                    if inputs is None and self.output is None:
                        raise CatwalkError(
                            "InjectPoisonedImages.output is missing: this attack holds something else than values, "
                            "arrays and files, or its code cannot be read, so that the store of results cannot tell it "
                            "from others; give it a folder"
                        )
            inputs = gather([inputs], trainer.world_size)[0]
            folder = self.output
            if folder is None:
                assert inputs is not None
                folder = self._store.path(ATTACK, inputs.key)
            self._planned = _PlannedAttack(inputs, folder, purchases)
        return self._planned

    def _look(self, trainer: Trainer, attack: _PlannedAttack) -> bool:
        """Return whether an earlier run, or a study, has left the attack's result; a copy is in its folder then."""
        is_done = False
        with _together(trainer):
            if trainer.is_global_zero:
                self._store = StageCache(self.results, rank_zero_info, self.verify)
                is_done = is_taken(self.output, attack.inputs, self._description, rank_zero_info)
                if not is_done and attack.key is not None:
                    is_done = self._store.take(ATTACK, attack.key, self._description) is not None
                    if is_done and self.output is not None:
                        copy_attack(self._store.path(ATTACK, attack.key), self.output, attack.key)
        return gather([is_done], trainer.world_size)[0]

    def _undefended_table(self, catalogue: Catalogue) -> FeatureTable | None:
        """Return the features of the undefended network, where it chooses the items."""
        if self.protocol.source_items != "undefended" or self.undefended is None:
            return None
        return FeatureTable.read(self.undefended, catalogue)

    def _watch(self, data: Any) -> list[WatchedFiles]:
        """Watch the files that the attack is made of."""
        folder, images = data.catalogue.folder, data.catalogue.images
        by_undefended = self.undefended if self.protocol.source_items == "undefended" else None
        features = [
            place / name
            for place in (Path(data.features), by_undefended)
            if place is not None
            for name in (FEATURES_FILE, PREDICTIONS_FILE)
        ]
        named = [self.classifier, *features, *files_of(self.attack)]
        return [watch(*named), watch_named(folder, images)]

    @property
    def _description(self) -> str:
        return f"{self.attack.name} on {self.source}"

    def _poison(self, trainer: Trainer, data: Any, attack: _PlannedAttack) -> None:
        """Attack, each process its share of the images, and put what comes of it into the store and the folder.

        The global random numbers stay as they are: the recommender begins as without an attack.
        """
        is_first, world_size = trainer.is_global_zero, trainer.world_size
        console = Console()
        with ExitStack() as stack, ExitStack() as made:
            stack.enter_context(isolate_rng())
            bar = Progress(console=console, transient=True, disable=not console.is_terminal)
            if is_first:
                stack.enter_context(bar)
            folder, values = self._place_aside(trainer, data.catalogue, attack, made)
            if folder is not None:
                start = time.perf_counter()
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
                            purchases=attack.purchases,
                            undefended=self._undefended_table(data.catalogue),
                            adaptive=self.adaptive,
                            draws=self.draws,
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
                    if folder is not None:
                        poisoning.complete(shares, folder)
                        for files in self._watched:
                            files.require_unchanged(self.attack.name)
                        values["seconds"] = round(time.perf_counter() - start, 3)
                        if attack.key is None:
                            put_in_place(folder, attack.folder, None)
                    made.close()
                    if self.output is not None and attack.key is not None:
                        copy_attack(self._store.path(ATTACK, attack.key), self.output, attack.key)

    def _place_aside(
        self, trainer: Trainer, catalogue: Catalogue, attack: _PlannedAttack, made: ExitStack
    ) -> tuple[Path | None, dict[str, Any]]:
        """Return a folder in which to make the result, and what will be said of it.

        The folder is None where another run has made the result meanwhile.
        """
        is_told = False
        while True:
            folder, values, is_waiting = None, {}, False
            with _together(trainer):
                if trainer.is_global_zero and attack.inputs is None:
                    folder = made.enter_context(aside(attack.folder))
                elif trainer.is_global_zero and attack.inputs is not None:
                    title = f"{catalogue.name}: {self._description}, {self.classifier}"
                    origin = origin_of(attack.inputs, title, self.output)
                    try:
                        making = self._store.making(ATTACK, attack.inputs.key, self._description, origin, wait=False)
                        new = made.enter_context(making)
                        if new is not None:
                            folder, values = new.folder, new.values
                    except LockedError as error:
                        is_waiting = True
                        if not is_told:
                            rank_zero_info(f"{self._description}: waits for {error}, which is making it")
            folder, is_waiting = gather([(folder, is_waiting)], trainer.world_size)[0]
            if not is_waiting:
                return folder, values
            is_told = True
            time.sleep(PAUSE)  # all together: nobody waits for the others longer than they may

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log what the attack did."""
        self._log(trainer)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log what the attack did."""
        self._log(trainer)

    def _log(self, trainer: Trainer) -> None:
        assert self.summary is not None
        values = {
            f"attack/{name}": float(value)
            for name, value in asdict(self.summary).items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        }
        for logger in trainer.loggers:
            logger.log_metrics(values)

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
        self._planned = None


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
