"""Poisoning a catalogue: attack a category's images, save them as a shop receives them, and read them back."""

import copy
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from catwalk.attacks import Attack, AttackContext
from catwalk.attacks.masks import MaskError
from catwalk.attacks.threat_model import ThreatModel, l2_levels, linf_levels
from catwalk.errors import CatwalkError
from catwalk.files.atomic import write_text
from catwalk.metrics import AttackSuccessRate
from catwalk.metrics.feature_loss import feature_loss
from catwalk.metrics.groups import POPULARITY_GROUPS, popularity_groups
from catwalk.networks.batching import map_batches, size_buckets
from catwalk.networks.classifier import Classifier
from catwalk.networks.defended import DRAWS, averaged, bare
from catwalk.networks.features import FeatureTable
from catwalk.networks.frozen import exact_convolutions
from catwalk.networks.network import Network, network_fingerprint
from catwalk.networks.prediction import predict
from catwalk.poisoning.attack_files import (
    ITEMS_FILE,
    SUMMARY_FILE,
    AttackedItem,
    AttackSummary,
    _write_rows,
    columns_of,
    png_name,
    remove_earlier_images,
    save_perturbation,
)
from catwalk.poisoning.protocol import NO_UNDEFENDED, AttackedPopularity, AttackProtocol, ChosenBy
from catwalk.shop.catalogue import Catalogue, number_of
from catwalk.shop.decoding import UInt8Array, decode, decode_item
from catwalk.shop.images import ReportProgress, save_png, to_float


def items_to_attack(
    table: FeatureTable,
    catalogue: Catalogue,
    source: str,
    chosen_by: ChosenBy = "network",
    undefended: FeatureTable | None = None,
    popularity: AttackedPopularity = "all",
    purchases: NDArray[np.int64] | None = None,
) -> NDArray[np.int64]:
    """Return the items of the source category, int64, in order, or those of them of one popularity.

    Args:
        table: Clean features and predictions of the catalogue.
        catalogue: The catalogue.
        source: Category to attack.
        chosen_by: ``network`` takes the items in which the network under attack sees the source category (as the paper
            says), ``undefended`` those in which the undefended network sees it (as its published code does), and
            ``dataset`` those that the dataset labels so.
        undefended: Clean features and predictions of the catalogue by the undefended network; for ``undefended`` alone.
        popularity: Which of these items, see :class:`~catwalk.poisoning.protocol.AttackProtocol`.
        purchases: int64 ``(N,)``, how often each item was bought in the recommenders' training data; without effect
            for ``all``.

    Raises:
        CatwalkError: If the category is unknown, no item is in it or of that popularity, purchases are needed and not
            given, or the undefended network's predictions are missing or of another catalogue.
    """
    by_network = number_of(source, table.category_names, "source")
    if chosen_by == "dataset":
        items = np.flatnonzero(catalogue.categories == catalogue.category(source, "source"))
    elif chosen_by == "undefended":
        table = _checked_undefended(undefended, table)
        items = np.flatnonzero(table.categories == number_of(source, table.category_names, "source"))
    else:
        items = np.flatnonzero(table.categories == by_network)
    if len(items) == 0:
        raise NothingToAttackError(_why_nothing(table, catalogue, source, chosen_by))
    return items if popularity == "all" else _of_popularity(items, popularity, purchases, source)


def _of_popularity(
    items: NDArray[np.int64], popularity: AttackedPopularity, purchases: NDArray[np.int64] | None, source: str
) -> NDArray[np.int64]:
    """Return those of the items that are of one popularity."""
    if purchases is None:
        raise CatwalkError(
            f"protocol.source_popularity: is {popularity}, and it is not known what was bought; give purchases, or let "
            "it be all"
        )
    groups = popularity_groups(torch.from_numpy(purchases))[torch.from_numpy(items)].numpy()
    counts = np.bincount(groups, minlength=len(POPULARITY_GROUPS))
    chosen = items[groups == POPULARITY_GROUPS.index(popularity)]
    if len(chosen) == 0:
        there = ", ".join(f"{count:,} {name}" for name, count in zip(POPULARITY_GROUPS, counts, strict=True) if count)
        raise NothingToAttackError(
            f"protocol.source_popularity: of the items of {source!r} none is {popularity} (there are {there}); choose "
            "another, or all"
        )
    return chosen


def declared_categories(catalogue: Catalogue, category_names: Sequence[str]) -> Tensor:
    """Return the category that the dataset lists each item under, int64 ``(N,)``, by a network's numbers.

    Args:
        catalogue: The catalogue.
        category_names: The network's.

    Returns:
        -1 for an item whose category the network does not tell.
    """
    numbers = {name: number for number, name in enumerate(category_names)}
    own = torch.tensor([numbers.get(name, -1) for name in catalogue.category_names], dtype=torch.int64)
    return own[torch.from_numpy(catalogue.categories)]


def _checked_undefended(undefended: FeatureTable | None, table: FeatureTable) -> FeatureTable:
    """Return the undefended network's table, or raise a CatwalkError if it is missing or of another catalogue."""
    if undefended is None:
        raise CatwalkError(NO_UNDEFENDED)
    if undefended.catalogue != table.catalogue:
        raise CatwalkError(
            "undefended: the features of the undefended network are of another catalogue than those of the network "
            "under attack; extract both from the same images with `catwalk predict`"
        )
    return undefended


class NothingToAttackError(CatwalkError):
    """No item is of the source category."""


def _why_nothing(table: FeatureTable, catalogue: Catalogue, source: str, chosen_by: ChosenBy) -> str:
    """Return what is seen instead of the source category, and what can be done."""
    judge = "undefended network" if chosen_by == "undefended" else chosen_by
    problem = f"source: no item of {catalogue.name} is in category {source!r} by the {judge}"
    if chosen_by == "dataset":
        return f"{problem}; choose another source, or protocol.source_items: network"
    counts = np.bincount(table.categories, minlength=len(table.category_names))
    most = [place for place in np.argsort(-counts, kind="stable")[:3] if counts[place]]
    seen = ", ".join(f"{table.category_names[place]} ({counts[place]:,})" for place in most)
    remedies = "train it longer, or choose another source"
    if source in catalogue.category_names:
        labelled = int((catalogue.categories == catalogue.category(source, "source")).sum())
        if labelled:
            remedies += f", or attack the {labelled:,} that the dataset labels so with protocol.source_items: dataset"
    return f"{problem}, which sees most often {seen}: {remedies}"


def label_of(attack: Attack, table: FeatureTable, source: str, target: str | None) -> int:
    """Return the category to give the attack: the one to reach, or, where it is untargeted, the one to leave.

    Raises:
        CatwalkError: If a category is unknown, source and target are the same, or a target is given to an untargeted
            attack or none to a targeted one.
    """
    if not attack.targeted:
        if target is not None:
            raise CatwalkError(f"target: an untargeted attack takes none, got {target!r}")
        return number_of(source, table.category_names, "source")
    if target is None:
        raise CatwalkError("target: a targeted attack needs the category that the network shall see")
    if source == target:
        raise CatwalkError(f"source and target are both {source!r}: they must differ")
    return number_of(target, table.category_names, "target")


def poison(
    classifier: Classifier,
    attack: Attack,
    catalogue: Catalogue,
    table: FeatureTable,
    folder: Path,
    *,
    source: str,
    target: str | None,
    protocol: AttackProtocol = AttackProtocol(),  # noqa: B008 - frozen
    purchases: NDArray[np.int64] | None = None,
    undefended: FeatureTable | None = None,
    adaptive: bool = True,
    draws: int = DRAWS,
    progress: ReportProgress | None = None,
) -> FeatureTable:
    """Attack the source category's images and return the features of the poisoned catalogue.

    Every adversarial image is written as an 8-bit PNG file and read back, and only what was read back is classified,
    measured and turned into features. The folder receives the images under their names in the catalogue,
    ``attacked_items.csv``, ``attack.json``, and the poisoned features in the form that
    :class:`~catwalk.networks.features.FeatureTable` reads.

    Args:
        classifier: The network under attack.
        attack: The attack.
        catalogue: The clean catalogue.
        table: Its features by the same network.
        folder: Where to write.
        source: Category to attack.
        target: Category that the network shall see in its images; None for an untargeted attack.
        protocol: Who says which items are of the source category, and how the attack's budget is meant: it replaces
            all of the attack's threat model but norm and ε.
        purchases: int64 ``(N,)``, how often each item was bought in the recommenders' training data, for attacks that
            must know it, and for a ``protocol.source_popularity`` other than ``all``.
        undefended: The catalogue's clean features by the undefended network, where ``protocol.source_items`` is
            ``undefended``; without effect otherwise.
        adaptive: Whether the attacker knows the network's input operations and attacks through them; otherwise the
            images are crafted on the bare network. They are judged through the operations in either case.
        draws: Over how many draws of random operations an adaptive attacker averages, see
            :func:`~catwalk.networks.defended.averaged`.
        progress: Called as images are attacked.

    Raises:
        CatwalkError: If the categories do not fit, the features were made by another network, or two of the items
            share an image.
        ThreatModelError: If an image leaves the budget, before or after it was saved.
    """
    poisoning = Poisoning.plan(
        classifier,
        attack,
        catalogue,
        table,
        source=source,
        target=target,
        protocol=protocol,
        purchases=purchases,
        undefended=undefended,
        adaptive=adaptive,
        draws=draws,
    )
    shard, levels = poisoning.craft(progress=progress)
    remove_earlier_images(folder)
    poisoning.save(shard, levels, folder)
    return poisoning.complete([shard], folder)


class Shard(NamedTuple):
    """What one process has attacked of the images.

    Attributes:
        rows: Which of the attacked items, int64 ``(n,)``.
        categories: What the network sees in the images before they become 8-bit, int64 ``(n,)``.
        iterations: What each image cost, int64 ``(n,)``.
        perturbations: What the attack has added to all images of a size alike, float32 ``(3, H, W)`` for each size;
            empty where there is no such.
    """

    rows: NDArray[np.int64]
    categories: Tensor
    iterations: Tensor
    perturbations: tuple[Tensor, ...] = ()


@dataclass(frozen=True, eq=False)
class Poisoning:
    """The work of :func:`poison` in steps, of which processes can share the attack itself.

    Every process plans the same, crafts its shard of the images and saves it into one folder; then one completes what
    all have saved. What comes of it does not depend on how many they are.

    Attributes:
        network: The network under attack, by which images are judged.
        view: The network as the attacker has it, on which images are crafted: see ``adaptive`` and ``draws`` there.
        attack: The attack, with the protocol's threat model.
        catalogue: The clean catalogue.
        table: Its features.
        source: Category that is attacked.
        target: Category that the network shall see; None for an untargeted attack.
        label: The category to give the attack.
        items: The items to attack, int64 ``(n,)``.
        paths: Where each adversarial image is saved, relative to the folder.
        clean: Their clean images.
        targets: What the attack aims at, a row for each image, on the network's device.
    """

    network: Network
    view: Network
    attack: Attack
    catalogue: Catalogue
    table: FeatureTable
    source: str
    target: str | None
    label: int
    items: NDArray[np.int64]
    paths: list[str]
    clean: list[UInt8Array]
    targets: Tensor

    @classmethod
    def plan(
        cls,
        classifier: Classifier,
        attack: Attack,
        catalogue: Catalogue,
        table: FeatureTable,
        *,
        source: str,
        target: str | None,
        protocol: AttackProtocol = AttackProtocol(),  # noqa: B008 - frozen
        purchases: NDArray[np.int64] | None = None,
        undefended: FeatureTable | None = None,
        adaptive: bool = True,
        draws: int = DRAWS,
    ) -> "Poisoning":
        """Check that all fits, and read the clean images; arguments and errors are those of :func:`poison`."""
        network = classifier.network
        if table.network != network_fingerprint(network):
            raise CatwalkError(
                "the features were made by another network than the classifier to attack: extract them with its "
                "checkpoint"
            )
        attack.check_eight_bit()
        view = averaged(network, draws) if adaptive else bare(network)
        label = label_of(attack, table, source, target)
        items = items_to_attack(
            table, catalogue, source, protocol.source_items, undefended, protocol.source_popularity, purchases
        )
        paths = [png_name(catalogue.images[item]) for item in items]
        if len(set(paths)) < len(paths):
            shared = next(path for path in paths if paths.count(path) > 1)
            raise CatwalkError(
                f"several of the items to attack share the image {shared}, and each gets an adversarial image of its "
                "own: give each item a file of its own"
            )
        attack = copy.copy(attack)
        attack.threat_model = protocol.threat_model(attack.threat_model)
        attack.threat_model.of(network)  # which must have what the space needs
        device = network.mean.device
        scene = AttackContext(
            items=torch.from_numpy(items).to(device),
            item_ids=catalogue.item_ids,
            category=label,
            category_names=table.category_names,
            features=table.features.to(device),
            categories=torch.from_numpy(table.categories).to(device),
            purchases=None if purchases is None else torch.from_numpy(purchases).to(device),
            images_of=lambda items: [
                to_float(torch.from_numpy(decode_item(catalogue, item, classifier.image_size)).to(device))
                for item in items.tolist()
            ],
            declared=declared_categories(catalogue, table.category_names).to(device),
            keys=torch.from_numpy(catalogue.keys).to(device),
        )
        targets = attack.targets_of(scene)
        clean = [decode_item(catalogue, item, classifier.image_size) for item in items]
        planned = cls(network, view, attack, catalogue, table, source, target, label, items, paths, clean, targets)
        for row, item in enumerate(items):
            try:
                planned.threat_model_of(row)
            except MaskError as error:
                raise CatwalkError(f"attack.mask: item {catalogue.item_ids[item]}: {error.problem}") from error
        return planned

    def threat_model_of(self, row: int) -> ThreatModel:
        """Return what the attack may do to one of the images, by its row among them."""
        threat_model = self.attack.threat_model.of(self.network)
        if threat_model.mask is None:
            return threat_model
        image = to_float(torch.from_numpy(self.clean[row])[None])
        return threat_model.for_images(image, torch.from_numpy(self.catalogue.keys[self.items[[row]]]))

    def craft(
        self, rank: int = 0, world_size: int = 1, progress: ReportProgress | None = None
    ) -> tuple[Shard, list[Tensor]]:
        """Attack a process's shard of the images, those of one size together.

        Args:
            rank: This process, ``0..world_size - 1``.
            world_size: Number of processes.
            progress: Called as images are attacked.

        Returns:
            ``(shard, levels)``: what was attacked, and each image as it is to be saved, uint8 ``(3, H, W)``.
        """
        device, threat_model = self.network.mean.device, self.attack.threat_model.of(self.network)
        keys = torch.from_numpy(self.catalogue.keys[self.items]).to(device)
        buckets, own, before = [], [], 0
        for bucket in size_buckets(image.shape[1:] for image in self.clean):
            # Every world_size-th image of all, so that shards are equal where there are few of each size.
            share = slice((rank - before) % world_size, None, world_size)
            before += len(bucket.rows)
            if len(bucket.rows[share]) and self.attack.is_joint:  # it must see all, whoever saves what comes of them
                buckets.append(bucket)
                own.append(share)
            elif len(bucket.rows[share]):
                buckets.append(bucket._replace(rows=bucket.rows[share]))
                own.append(slice(None))
        levels: list[Tensor] = []
        none = torch.zeros(0, dtype=torch.int64)
        attacked, categories, iterations = [np.zeros(0, np.int64)], [none], [none]
        perturbations = []
        done, total = 0, sum(len(bucket.rows) for bucket in buckets)

        def report(count: int, _: int) -> None:
            if progress is not None:
                progress(done + count, total)

        for (rows, alone), share in zip(buckets, own, strict=True):
            images = to_float(torch.from_numpy(np.stack([self.clean[row] for row in rows])).to(device))
            places = torch.from_numpy(rows).to(device)
            result = self.attack(
                self.view, images, self.targets[places], keys=keys[places], alone=alone, progress=report
            )
            done += len(rows)
            free = threat_model.for_images(images, keys[places])
            levels.extend(free.quantise(result.images, images)[share].cpu())
            with torch.inference_mode(), exact_convolutions():
                seen = map_batches(
                    lambda batch: self.network(batch).argmax(dim=1), result.images, batch_size=256, alone=alone
                )
            attacked.append(rows[share])
            categories.append(seen[share].cpu())
            iterations.append(result.iterations[share].cpu())
            if result.perturbation is not None:
                perturbations.append(result.perturbation.cpu())
        shard = Shard(np.concatenate(attacked), torch.cat(categories), torch.cat(iterations), tuple(perturbations))
        return shard, levels

    def save(self, shard: Shard, levels: Sequence[Tensor], folder: Path) -> None:
        """Save the images of a shard, and what was added to all of one size alike."""
        for row, image in zip(shard.rows, levels, strict=True):
            save_png(image, folder / self.paths[row])
        for perturbation in shard.perturbations:
            save_perturbation(perturbation, folder)

    def complete(self, shards: Sequence[Shard], folder: Path) -> FeatureTable:
        """Read back the images that all processes have saved, and write and return what comes of them.

        Raises:
            ThreatModelError: If an image has left the budget.
        """
        table, label, attack = self.table, self.label, self.attack
        threat_model = attack.threat_model.of(self.network)
        order = torch.from_numpy(np.concatenate([shard.rows for shard in shards]).argsort())
        seen = torch.cat([shard.categories for shard in shards])[order]
        iterations = torch.cat([shard.iterations for shard in shards])[order]
        read_back = [decode(folder / path) for path in self.paths]
        pairs = [
            (torch.from_numpy(now)[None], torch.from_numpy(then)[None])
            for now, then in zip(read_back, self.clean, strict=True)
        ]
        for row, (now, then) in enumerate(pairs):
            self.threat_model_of(row).verify_levels(now, then, first=row)

        after = predict(self.network, read_back)
        losses = feature_loss(table.features[torch.from_numpy(self.items)], after.features)
        distances, lengths = (torch.cat([measure(*pair) for pair in pairs]) for measure in (linf_levels, l2_levels))
        success_float = (seen == label) == attack.targeted
        before = torch.from_numpy(table.categories[self.items])
        # One process completes for all: it must not wait for what the others count.
        rates = AttackSuccessRate(targeted=attack.targeted, sync_on_compute=False)
        rates.update(before, after.categories, torch.full_like(before, label))
        success_bare = None
        if len(self.network.input_operations):
            without = predict(bare(self.network), read_back)
            success_bare = (without.categories == label) == attack.targeted
        values = rates.compute()
        rows = [
            AttackedItem(
                item_id=self.catalogue.item_ids[item],
                image=self.paths[row],
                category_before=table.category_names[table.categories[item]],
                category_after=table.category_names[int(after.categories[row])],
                probability_after=float(after.probabilities[row]),
                success_float=bool(success_float[row]),
                success=bool((after.categories[row] == label) == attack.targeted),
                iterations=int(iterations[row]),
                feature_loss=float(losses[row]),
                linf_levels=int(distances[row]),
                l2_levels=float(lengths[row]),
                success_bare=None if success_bare is None else bool(success_bare[row]),
            )
            for row, item in enumerate(self.items)
        ]
        forwards, backwards = (float(passes.double().mean()) for passes in attack.passes(iterations))
        queries = attack.queries_of(iterations)
        summary = AttackSummary(
            attack=attack.name,
            norm=threat_model.norm,
            epsilon=threat_model.epsilon,
            space=threat_model.space,
            clip=threat_model.clip,
            quantisation=threat_model.quantisation,
            purpose=attack.purpose(self.source, self.target),
            source=self.source,
            target=self.target,
            n_attacked=len(self.items),
            sr_float=float(success_float.double().mean()),
            sr=float(values["sr"]),
            sr_clean=float(values["sr_clean"]),
            sr_net=None if values["sr_net"].isnan() else float(values["sr_net"]),
            feature_loss=float(losses.mean()),
            linf_levels=int(distances.max()),
            l2_levels=float(lengths.mean()),
            forwards=forwards,
            backwards=backwards,
            sr_bare=None if success_bare is None else float(success_bare.double().mean()),
            access=attack.access,
            queries=None if queries is None else float(queries.double().mean()),
            mask=None if threat_model.mask is None else threat_model.mask.name,
        )
        _write_rows(folder / ITEMS_FILE, rows)
        required = columns_of(AttackSummary)[0]
        written = {name: value for name, value in asdict(summary).items() if name in required or value is not None}
        write_text(folder / SUMMARY_FILE, json.dumps(written, indent=2, ensure_ascii=False) + "\n")
        poisoned = table.poisoned(self.items, after.features)
        poisoned.write(folder, self.catalogue)
        return poisoned
