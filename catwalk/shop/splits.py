"""Which purchases are trained on, and which are held out for validation and for the test."""

import abc
import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from catwalk.errors import CatwalkError
from catwalk.limits import check_seed
from catwalk.shop.catalogue import Catalogue
from catwalk.shop.columns import find_table
from catwalk.shop.ids import Spellings
from catwalk.shop.interactions import IntArray, Interactions
from catwalk.shop.user_items import UserItems

TRAIN, VALIDATION, TEST = 0, 1, 2
LEFT_OUT = 3
"""A purchase that is neither trained on nor held out."""


@dataclass(frozen=True)
class Split:
    """Training pairs, and any number of validation and test items per user.

    Attributes:
        user_ids: The shop's own ids of the U users.
        users: Users of the training pairs, int64 ``(M,)``.
        items: Items of the training pairs, int64 ``(M,)``.
        validation: What is held out of every user for validation.
        test: What is held out of every user for the test.
        num_repeats: Rows left out because the user had interacted with the item before.
        num_ties: Users of whom something is held out that has the same timestamp as something that is not, or that is
            held out for the other purpose; the order of the file decided.
        num_left_out: Users left out because all that they bought would have been held out.
        num_seen_future: Test purchases that are earlier than some training purchase: the recommender knows the future
            of other users. 0 where the table does not tell time.
        remarks: What was repaired or is doubtful about ids and times, a sentence each.
    """

    user_ids: tuple[str, ...]
    users: IntArray
    items: IntArray
    validation: UserItems
    test: UserItems
    num_repeats: int = 0
    num_ties: int = 0
    num_left_out: int = 0
    num_seen_future: int = 0
    remarks: tuple[str, ...] = ()

    @property
    def num_users(self) -> int:
        """Number of users, U."""
        return len(self.user_ids)

    @cached_property
    def purchases_per_user(self) -> IntArray:
        """Training pairs of every user, int64 ``(U,)``."""
        return np.bincount(self.users, minlength=self.num_users)

    @cached_property
    def trained_on(self) -> str:
        """A hash of the training pairs, which recommenders' checkpoints keep."""
        return hashlib.sha256(self.users.tobytes() + self.items.tobytes()).hexdigest()[:16]

    @property
    def num_asked(self) -> int:
        """Number of users of whom something is held out."""
        return int((self.validation.counts + self.test.counts > 0).sum())

    @property
    def num_cold(self) -> int:
        """Number of held-out purchases of items that nobody bought in training."""
        bought = np.bincount(self.items, minlength=self.test.num_items) > 0
        return sum(int((~bought[held_out.items.numpy()]).sum()) for held_out in (self.validation, self.test))

    def facts(self) -> Iterator[str]:
        """Yield what a user is told of it: its sizes, what was decided for the user, and what is doubtful."""
        validated, tested = (_purchases(held_out) for held_out in (self.validation, self.test))
        yield (
            f"{self.num_users:,} users, {self.test.num_items:,} items, {len(self.users):,} purchases to train on, "
            f"{validated} to validate, {tested} to test"
        )
        if self.num_repeats:
            yield f"{_count(self.num_repeats, 'repeated purchase')} left out"
        if self.num_left_out:
            yield f"{_count(self.num_left_out, 'user')} left out, with no purchases to train on"
        if self.num_cold:
            yield f"{_count(self.num_cold, 'held-out purchase')} of items that nobody bought in training"
        if self.num_ties:
            yield (
                f"{self.num_ties:,} of {self.num_asked:,} users' held-out purchases tie in time with one that is not "
                "held out: the file's order decided"
            )
        if self.num_seen_future:
            yield (
                "tested purchases that are earlier than a training purchase of another user: "
                f"{self.num_seen_future:,} of {len(self.test):,}, so that recommenders are trained on the future; "
                "catwalk.shop.splits.DateSplit, a global split by time, prevents that"
            )
        yield from self.remarks


class SplitRule(abc.ABC):
    """Base of the rules that divide purchases into training, validation and test.

    A user is never without training purchases: a recommender knows users by these. Whom a rule leaves none is left out,
    and counted.
    """

    @abc.abstractmethod
    def parts(self, interactions: Interactions, moments: NDArray[Any], validation: bool) -> NDArray[np.int8]:
        """Say of every purchase whether it is trained on or held out.

        Args:
            interactions: All purchases.
            moments: What takes the place of their timestamps, ``(M,)``.
            validation: Whether to hold anything out for validation.

        Returns:
            int8 ``(M,)`` of :data:`TRAIN`, :data:`VALIDATION`, :data:`TEST` and :data:`LEFT_OUT`.
        """

    def moments(self, interactions: Interactions) -> NDArray[Any]:
        """Return what orders a user's purchases, ``(M,)``; equals are in the order of the file."""
        return interactions.timestamps

    def split(self, interactions: Interactions, num_items: int, validation: bool = False) -> Split:
        """Divide purchases.

        Args:
            interactions: All purchases.
            num_items: Size of the catalogue.
            validation: Whether to hold something out for validation; it is trained on otherwise.

        Raises:
            CatwalkError: If the rule does not fit the purchases.
        """
        moments = self.moments(interactions)
        parts = self.parts(interactions, moments, validation)
        is_known = np.bincount(interactions.users[parts == TRAIN], minlength=interactions.num_users) > 0
        numbers = np.cumsum(is_known) - 1
        kept = is_known[interactions.users]
        users, items = numbers[interactions.users[kept]], interactions.items[kept]
        moments, parts = moments[kept], parts[kept]
        num_users = int(is_known.sum())
        return Split(
            user_ids=tuple(user for user, known in zip(interactions.user_ids, is_known, strict=True) if known),
            users=users[parts == TRAIN],
            items=items[parts == TRAIN],
            validation=_user_items(users[parts == VALIDATION], items[parts == VALIDATION], num_users, num_items),
            test=_user_items(users[parts == TEST], items[parts == TEST], num_users, num_items),
            num_repeats=interactions.num_repeats,
            num_ties=_count_ties(users, moments, parts),
            num_left_out=interactions.num_users - num_users,
            num_seen_future=_count_seen_future(interactions, kept, parts),
            remarks=(*interactions.remarks, *self.remarks(parts)),
        )

    def remarks(self, parts: NDArray[np.int8]) -> Iterator[str]:
        """Yield what is doubtful about what became of the purchases, a sentence each."""
        left_out = int((parts == LEFT_OUT).sum())
        if left_out:
            yield f"{_count(left_out, 'purchase')} neither trained on nor held out"


class LastPurchases(SplitRule):
    """Base of the rules that hold out the last purchases of every user, by (timestamp, order of the file).

    Users have their last purchases at different times, so that a recommender is trained on what other users bought
    after a purchase that it is tested on. :class:`DateSplit`, a global split by time, has no such look ahead.

    References:
        Y. Ji, A. Sun, J. Zhang, C. Li (2023): A Critical Study on Data Leakage in Recommender System Offline
        Evaluation. ACM Transactions on Information Systems 41(3).
    """

    @abc.abstractmethod
    def numbers(self, purchases: IntArray) -> tuple[IntArray, IntArray]:
        """Say how many purchases are held out of users who have so many.

        Args:
            purchases: int64 ``(U,)``.

        Returns:
            ``(validation, test)``, int64 ``(U,)`` each, together less than ``purchases``.
        """

    def parts(self, interactions: Interactions, moments: NDArray[Any], validation: bool) -> NDArray[np.int8]:
        """Hold out each user's last purchases for the test, and those before them for validation."""
        users = interactions.users
        purchases = np.bincount(users, minlength=interactions.num_users)
        for_validation, for_test = self.numbers(purchases)
        order = np.lexsort((np.arange(len(users)), moments, users))
        after = np.empty(len(users), dtype=np.int64)  # how many of its user's purchases come after each
        after[order] = np.cumsum(purchases)[users[order]] - 1 - np.arange(len(users))
        parts = np.full(len(users), TRAIN, dtype=np.int8)
        if validation:
            parts[after < (for_validation + for_test)[users]] = VALIDATION
        parts[after < for_test[users]] = TEST
        return parts


@dataclass(frozen=True)
class LeaveLastOut(LastPurchases):
    """Time-aware leave-one-out: every user's last purchase is tested (He et al. 2018, section 5.1).

    For validation the one before it is held out as well, from users with at least three. Users with a single purchase
    have it in training and are not tested. Purchases of one moment are taken in the order of the file.
    """

    def numbers(self, purchases: IntArray) -> tuple[IntArray, IntArray]:
        """Return one of at least three, and one of at least two."""
        return (purchases >= 3).astype(np.int64), (purchases >= 2).astype(np.int64)


@dataclass(frozen=True)
class LastInFile(LeaveLastOut):
    """Leave-one-out as the reproduced paper's published code does it: a user's last purchase in the *file* is tested.

    Times count for nothing. Of every item that is held out and that nobody has in training, one purchase is trained on
    after all; its user is not tested then, and neither are the others of whom that item was held out, whose purchases
    of it are left out. The published code draws the one purchase without a seed; here it is the first in the file.
    """

    def moments(self, interactions: Interactions) -> NDArray[Any]:
        """Return the places in the file."""
        return np.arange(len(interactions))

    def parts(self, interactions: Interactions, moments: NDArray[Any], validation: bool) -> NDArray[np.int8]:
        """Hold out each user's last purchase, and move the items that only the test has."""
        parts = super().parts(interactions, moments, validation)
        trained = np.isin(interactions.items, interactions.items[parts == TRAIN])
        only_tested = np.flatnonzero((parts == TEST) & ~trained)
        _, first = np.unique(interactions.items[only_tested], return_index=True)
        parts[only_tested] = LEFT_OUT
        parts[only_tested[first]] = TRAIN
        return parts


@dataclass(frozen=True)
class LeaveRandomOut(LeaveLastOut):
    """Leave-one-out by chance: :class:`LeaveLastOut` with the purchases in an order that is drawn.

    Args:
        seed: Seed of the order.

    Raises:
        CatwalkError: If the seed is not in 0..2^32 - 1.
    """

    seed: int = 0

    def __post_init__(self) -> None:
        check_seed(self.seed, "LeaveRandomOut.seed")

    def moments(self, interactions: Interactions) -> NDArray[Any]:
        """Return random numbers, one per purchase."""
        return np.random.default_rng(self.seed).random(len(interactions))


@dataclass(frozen=True)
class RatioSplit(LastPurchases):
    """Every user's last purchases are tested, a share of them; those before them validate.

    A share of a user's purchases is rounded to the nearest number, a half up: 0.29 of 50 is 14.5 and becomes 15, though
    the float 0.29 is a little less. At least one purchase stays in training:
    validation gives way first, then the test.

    Args:
        test_share: Share of a user's purchases to test.
        validation_share: Share of a user's purchases to hold out for validation.

    Raises:
        CatwalkError: If a share is not between 0 and 1, or both together leave nothing.
    """

    test_share: float = 0.2
    validation_share: float = 0.1

    def __post_init__(self) -> None:
        for name in ("test_share", "validation_share"):
            share = getattr(self, name)
            if not 0 < share < 1:
                raise CatwalkError(f"RatioSplit.{name} must be more than 0 and less than 1, got {share}")
        if sum(Fraction(repr(float(share))) for share in (self.test_share, self.validation_share)) >= 1:
            raise CatwalkError(
                "RatioSplit.test_share and validation_share must leave something to train on, "
                f"got {self.test_share} and {self.validation_share}"
            )

    def numbers(self, purchases: IntArray) -> tuple[IntArray, IntArray]:
        """Return the two shares of them."""
        validation, test = (_rounded(share, purchases) for share in (self.validation_share, self.test_share))
        test = np.minimum(test, np.maximum(purchases - 1, 0))
        return np.minimum(validation, np.maximum(purchases - 1 - test, 0)), test


def _rounded(share: float, purchases: IntArray) -> IntArray:
    """Return a share of each number, a half rounded up; the share is the decimal that a user wrote, not its float."""
    exact = Fraction(repr(float(share)))
    counts, places = np.unique(purchases, return_inverse=True)
    return np.array([math.floor(exact * count + Fraction(1, 2)) for count in counts.tolist()], dtype=np.int64)[places]


@dataclass(frozen=True)
class DateSplit(SplitRule):
    """What was bought from a moment on is tested, whoever bought it: the past is trained on, and the future predicted.

    Users who bought nothing before are left out, for nothing is known of them. Items that nobody bought before stay:
    the whole catalogue is ranked, and visual recommenders know items by their images.

    Args:
        test_from: The first moment that is tested: a date or time in ISO 8601 where the timestamps are dates, otherwise
            a number. One without a time zone is in UTC where the timestamps have one.
        validation_from: The first moment that is held out for validation, which ends where the test begins.

    Example:
        >>> from catwalk.shop.catalogue import Catalogue
        >>> from catwalk.shop.splits import DateSplit, read_split
        >>> catalogue = Catalogue.read("data/synthetic")
        >>> read_split(catalogue, rule=DateSplit(test_from=1654041600)).num_seen_future  # 1 June 2022
        0
    """

    test_from: str | float
    validation_from: str | float | None = None

    def parts(self, interactions: Interactions, moments: NDArray[Any], validation: bool) -> NDArray[np.int8]:
        """Hold out what was bought from the two moments on.

        Raises:
            CatwalkError: If a moment is none, or there is nothing to train on, to validate or to test.
        """
        starts = {TEST: self._start("test_from", interactions)}
        if validation:
            starts[VALIDATION] = self._start("validation_from", interactions)
            if not starts[VALIDATION] < starts[TEST]:
                raise CatwalkError(
                    f"DateSplit.validation_from must be before test_from, got {self.validation_from} and "
                    f"{self.test_from}"
                )
        parts = np.full(len(moments), TRAIN, dtype=np.int8)
        for part in sorted(starts):
            parts[moments >= starts[part]] = part
        is_known = np.bincount(interactions.users[parts == TRAIN], minlength=interactions.num_users) > 0
        for part, name in ((VALIDATION, "validation_from"), (TEST, "test_from")):
            if part in starts and not (is_known[interactions.users] & (parts == part)).any():
                raise CatwalkError(
                    f"DateSplit.{name}: no user has purchases from {getattr(self, name)} on to hold out, and some "
                    f"before to train on; the purchases are from {_range(interactions)}"
                )
        return parts

    def _start(self, name: str, interactions: Interactions) -> float:
        value = getattr(self, name)
        if value is None:
            raise CatwalkError(f"DateSplit.{name}: give it, to hold out purchases for validation")
        return _moment(value, interactions.time_type, f"DateSplit.{name}")


def read_split(catalogue: Catalogue, validation: bool = False, rule: SplitRule | None = None) -> Split:
    """Read a dataset folder's purchases, divided by a rule; by default as their publisher did.

    Without a rule, ``splits/train.csv`` and ``splits/test.csv`` (and perhaps ``splits/validation.csv``) are used as
    they are where the folder has them, and :class:`LeaveLastOut` divides ``interactions.csv`` where it does not. A
    published split needs no timestamps.

    Args:
        catalogue: The catalogue of the folder.
        validation: Whether to hold something out for validation; a published split does that or does not.
        rule: How to divide ``interactions.csv``, whatever else the folder has.

    Raises:
        CatwalkError: If a table is missing or malformed, the rule does not fit the purchases, or a published split has
            an item of a user in two of its parts.

    Example:
        >>> from catwalk.shop.catalogue import Catalogue
        >>> from catwalk.shop.splits import read_split
        >>> split = read_split(Catalogue.read("data/synthetic"))
        >>> split.num_users, int(split.test.counts.max())  # one purchase is held out of each user with several
        (600, 1)
    """
    if rule is None:
        paths = published_split(catalogue)
        if paths:
            return _read_published(paths, catalogue)
        rule = LeaveLastOut()
    return rule.split(Interactions.read(catalogue), len(catalogue), validation)


def published_split(catalogue: Catalogue) -> dict[str, Path]:
    """Return the tables of the split with which a dataset was published, by part; none where it was without.

    Raises:
        CatwalkError: If one of the two that are needed is missing.
    """
    folder = catalogue.folder / "splits"
    found = {name: find_table(folder, name) for name in ("train", "validation", "test")} if folder.is_dir() else {}
    paths = {name: path for name, path in found.items() if path is not None}
    if paths and not {"train", "test"} <= paths.keys():
        raise CatwalkError(f"{folder} needs both train.csv and test.csv to be a split")
    return paths


def _read_published(paths: dict[str, Path], catalogue: Catalogue) -> Split:
    tables = {name: Interactions.from_tables([path], catalogue) for name, path in paths.items()}
    spelled = [user for table in tables.values() for user in table.user_ids]
    texts = list(dict.fromkeys(spelled))
    spellings = Spellings.of(texts)  # a user may be spelled in one way in one part and otherwise in another
    numbers = dict(zip(texts, spellings.places.tolist(), strict=True))
    pairs = {
        name: (np.array([numbers[user] for user in table.user_ids])[table.users], table.items)
        for name, table in tables.items()
    }
    keys = {name: users * len(catalogue) + items for name, (users, items) in pairs.items()}
    for one, other in (("validation", "train"), ("test", "train"), ("test", "validation")):
        if one in keys and other in keys and np.isin(keys[one], keys[other]).any():
            raise CatwalkError(f"{paths[one]} holds an item that the same user has in {paths[other].name}")
    nothing = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    validation, test = (
        _user_items(*pairs.get(name, nothing), len(spellings.names), len(catalogue)) for name in ("validation", "test")
    )
    repeats = sum(table.num_repeats for table in tables.values())
    remarks = [f"{paths[name].name}: {remark}" for name, table in tables.items() for remark in table.remarks]
    if spellings.rewritten.any():
        remarks.append(f"users are spelled otherwise in one part of the split than in another: {spellings.example}")
    return Split(spellings.names, *pairs["train"], validation, test, repeats, remarks=tuple(remarks))


def _user_items(users: IntArray, items: IntArray, num_users: int, num_items: int) -> UserItems:
    return UserItems.from_pairs(torch.from_numpy(users), torch.from_numpy(items), num_users, num_items)


def _count_ties(users: IntArray, moments: NDArray[Any], parts: NDArray[np.int8]) -> int:
    """Return how many users have purchases of one moment in two parts."""
    order = np.lexsort((parts, moments, users))
    users, moments, parts = users[order], moments[order], parts[order]
    is_tie = (users[1:] == users[:-1]) & (moments[1:] == moments[:-1]) & (parts[1:] != parts[:-1])
    return len(np.unique(users[1:][is_tie]))


def _count_seen_future(interactions: Interactions, kept: NDArray[np.bool_], parts: NDArray[np.int8]) -> int:
    """Return how many of the test purchases are earlier than some training purchase."""
    if interactions.time_type is None or not len(parts):
        return 0
    times = interactions.timestamps[kept]
    return int((times[parts == TEST] < times[parts == TRAIN].max()).sum())


def _moment(value: str | float, kind: pa.DataType | None, argument: str) -> float:
    """Return the smallest number that timestamps from a moment on can have; a whole one for whole timestamps."""
    if kind is None:
        raise CatwalkError(f"{argument}: the purchases do not tell time in one way")
    if pa.types.is_timestamp(kind):
        return _time(value, kind, argument)
    try:
        number = int(value) if isinstance(value, str) else value
    except ValueError:
        try:
            number = float(value)
        except ValueError:
            number = math.nan
    if not math.isfinite(number):
        raise CatwalkError(f"{argument}: must be a number, as the timestamps are, got {value!r}")
    return math.ceil(number) if pa.types.is_integer(kind) else number


def _time(value: str | float, kind: pa.TimestampType, argument: str) -> int:
    """Return a moment in the unit of ``kind``."""
    zones: Sequence[str | None] = (None,) if kind.tz is None else (kind.tz, None)
    if isinstance(value, str):
        for unit in (kind.unit, "ns"):  # a moment may be told more exactly than the purchases
            for zone in zones:
                try:
                    moment = pa.scalar(value).cast(pa.timestamp(unit, zone)).value
                except pa.ArrowInvalid:
                    continue
                return moment if unit == kind.unit else -(-moment // 1000)
    zone = " with or without a time zone" if kind.tz is not None else " without a time zone"
    raise CatwalkError(f"{argument}: must be a date or time{zone} in ISO 8601, as the timestamps are, got {value!r}")


def _range(interactions: Interactions) -> str:
    """Return the first and the last moment, as a user reads them."""
    ends = pa.array([interactions.timestamps.min(), interactions.timestamps.max()])
    if interactions.time_type is not None:
        ends = ends.cast(interactions.time_type)
    first, last = ends.cast(pa.string()).to_pylist()
    return f"{first} to {last}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _purchases(held_out: UserItems) -> str:
    """Return the number of held-out purchases, and of users where these have several."""
    users = int((held_out.counts > 0).sum())
    return f"{len(held_out):,}" if users == len(held_out) else f"{len(held_out):,} (of {users:,} users)"
