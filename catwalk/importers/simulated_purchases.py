"""Simulated purchases for photographs of articles that no one has bought.

Nothing here is data about people. Where a set of product photographs comes without purchases, this module draws some
from a stated model of choice, so that a recommender can be trained on them; whatever is measured with them holds for
that model. Dataset folders written with it say so in ``dataset.json`` and on the screen.

The model is the multinomial logit (McFadden 1974). Item i has for user u the utility

    U_ui = α t_{u,c(i)} + β (p_u · x_i) / √D + log π_i,        t_uc, p_u ~ N(0, 1)

with the user's taste in categories t_u, the user's taste in looks p_u, the item's looks x_i and its popularity π_i.

* *Looks* x_i are the leading D principal components of the item's pixels after the mean image of its category was taken
  off (what tells categories apart is in t already), each scaled to variance 1. They come from the photographs alone,
  from no neural network.
* *Popularity* π_i is that of the item's category, Zipf over a stated order of the categories, times that of the item
  within its category, Zipf over a seeded permutation of its items.

A user's first purchase is i with probability exp(U_ui) / Σ_j exp(U_uj); every further one follows the same rule over
the items that are left (Plackett–Luce). The items with the n largest values of U_ui + Gumbel noise, in falling order,
are an exact draw from it, so no user is served one purchase at a time. A user makes 1 + NB purchases, NB negative
binomial: most make few and a few make many.

Where several items share a photograph they have the same looks and the same category, so that their utilities differ in
log π alone. A purchase is then drawn in two steps, with the same probabilities: a photograph, with the popularities of
its items added up for its own, and one of its items in proportion to these. What the user has already is drawn again.
The cost is that of users times photographs, and not of users times items, so that a shop may have a million of both.

References:
    D. McFadden (1974): Conditional logit analysis of qualitative choice behavior. In: Frontiers in Econometrics.

    J. I. Yellott (1977): The relationship between Luce's choice axiom, Thurstone's theory of comparative judgment, and
    the double exponential distribution. Journal of Mathematical Psychology 15(2).
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from catwalk.errors import CatwalkError
from catwalk.limits import check_seed

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

THUMBNAIL_SIDE = 32
"""Looks are taken from images averaged down to between one and two times this many pixels a side: more detail than
the leading components use would only cost memory."""


@dataclass(frozen=True)
class ChoiceModel:
    """The parameters of the choice model; its defaults are plausible values, fitted to no outcome.

    The density follows the shops in which visual recommenders are usually compared: Amazon Men has 3.65 purchases per
    user and 12 per item, Amazon Women 3.27 and 18.

    Attributes:
        mean_purchases: Mean number of purchases of a user, at least 1.
        dispersion: Shape of the negative binomial part of that number; the smaller, the longer the tail.
        category_exponent: Zipf exponent over the order of the categories; 0 makes them equally popular.
        item_exponent: Zipf exponent over the items of a category; 0 makes them equally popular.
        category_taste: Standard deviation α of a user's taste in a category. At 1.5, the categories that a user likes
            best (one standard deviation up) are 4.5 times as likely as at average taste.
        visual_taste: Standard deviation β of a user's taste for an item's looks, over the items.
        num_looks: Number D of visual components that users see.
        first_timestamp: Earliest time of a purchase, in seconds since 1970.
        days: Length of the period over which purchases are spread evenly, in days.
    """

    mean_purchases: float = 3.5
    dispersion: float = 0.5
    category_exponent: float = 1.0
    item_exponent: float = 0.6
    category_taste: float = 1.5
    visual_taste: float = 1.5
    num_looks: int = 8
    first_timestamp: int = 1_640_995_200  # 2022-01-01
    days: int = 730

    def __post_init__(self) -> None:
        lowest = {
            "mean_purchases": 1,
            "category_exponent": 0,
            "item_exponent": 0,
            "category_taste": 0,
            "visual_taste": 0,
            "num_looks": 0,
            "days": 1,
        }
        for argument, bound in lowest.items():
            value = getattr(self, argument)
            if not value >= bound:
                raise CatwalkError(f"{argument} must be at least {bound}, got {value}")
        if not self.dispersion > 0:
            raise CatwalkError(f"dispersion must be above 0, got {self.dispersion}")


@dataclass(frozen=True)
class Shoppers:
    """Users with their tastes, in front of the items on sale, or of the photographs that these share.

    Attributes:
        model: The parameters.
        categories: Category of every item, int64 ``(N,)`` in ``0..C-1``.
        looks: Looks of every item, float64 ``(N, D)``.
        log_popularity: float64 ``(N,)``.
        category_tastes: float64 ``(U, C)``, standard normal.
        visual_tastes: float64 ``(U, D)``, standard normal.
        items: The items of every photograph, where they share them; what is said of items above is said of photographs.
    """

    model: ChoiceModel
    categories: IntArray
    looks: FloatArray
    log_popularity: FloatArray
    category_tastes: FloatArray
    visual_tastes: FloatArray
    items: "ItemsOfPhotographs | None" = None

    def utilities(self, users: slice) -> FloatArray:
        """Return the utilities of all items for some users, float64 ``(B, N)``."""
        by_category = self.model.category_taste * self.category_tastes[users][:, self.categories]
        # Over D, so that the spread of a user's taste over the items does not grow with the number of components.
        scale = self.model.visual_taste / max(1, self.looks.shape[1]) ** 0.5
        return by_category + scale * self.visual_tastes[users] @ self.looks.T + self.log_popularity


@dataclass(frozen=True)
class Purchases:
    """Simulated purchases in order of (timestamp, user).

    Attributes:
        users: int64 ``(M,)`` in ``0..U-1``; every user occurs, and no pair of user and item occurs twice.
        items: int64 ``(M,)`` in ``0..N-1``.
        timestamps: Seconds since 1970, int64 ``(M,)``; those of a user rise strictly in the order of choice.
        num_unmet: Purchases that users would have made beyond the last item on sale.
    """

    users: IntArray
    items: IntArray
    timestamps: IntArray
    num_unmet: int


def simulate_purchases(
    images: NDArray[np.uint8],
    categories: IntArray,
    popularity_order: Sequence[int],
    num_users: int,
    seed: int,
    model: ChoiceModel | None = None,
    photographs: IntArray | None = None,
) -> Purchases:
    """Draw the purchases of a shop's users.

    Args:
        images: Images of the items on sale, uint8 ``(P, H, W)`` or ``(P, H, W, 3)``.
        categories: Category of every item, int64 ``(N,)`` in ``0..C-1``.
        popularity_order: All C categories, from the most to the least popular.
        num_users: Number of users, at least 1.
        seed: Seed, at least 0.
        model: Parameters; the defaults where None.
        photographs: Number of every item's image, int64 ``(N,)`` in ``0..P-1``, each of them at least once and items of
            one category alone; by default every item has its own.

    Returns:
        The purchases.

    Raises:
        CatwalkError: If an argument is out of range.
    """
    model = ChoiceModel() if model is None else model
    shoppers = draw_shoppers(images, categories, popularity_order, num_users, seed, model, photographs)
    wanted = draw_numbers_of_purchases(num_users, model, random_stream(seed, "numbers of purchases"))
    counts = np.minimum(wanted, len(categories))
    noise = random_stream(seed, "choices")
    block = max(1, 2**21 // len(images))  # a few arrays of 16 MiB at a time
    chosen = []
    for start in range(0, num_users, block):
        some = slice(start, start + block)
        draw = choose if shoppers.items is None else shoppers.items.choose
        chosen.append(draw(shoppers.utilities(some), counts[some], noise))
    users = np.repeat(np.arange(num_users), counts)
    items = np.concatenate(chosen)
    timestamps = draw_timestamps(counts, model, random_stream(seed, "timestamps"))
    order = np.lexsort((users, timestamps))
    return Purchases(users[order], items[order], timestamps[order], int((wanted - counts).sum()))


def draw_shoppers(
    images: NDArray[np.uint8],
    categories: IntArray,
    popularity_order: Sequence[int],
    num_users: int,
    seed: int,
    model: ChoiceModel,
    photographs: IntArray | None = None,
) -> Shoppers:
    """Draw the users' tastes and the items' popularity; the arguments are those of :func:`simulate_purchases`."""
    if num_users < 1:
        raise CatwalkError(f"users must be at least 1, got {num_users}")
    if sorted(popularity_order) != list(range(len(popularity_order))):
        raise CatwalkError(f"popularity_order must name every category once, got {list(popularity_order)}")
    popularity, items = log_popularity(categories, popularity_order, model, random_stream(seed, "popularity")), None
    if photographs is not None:
        items = ItemsOfPhotographs(photographs, popularity)
        popularity, categories = items.log_popularity, categories[items.first]
    looks = visual_components(images, categories, model.num_looks)
    return Shoppers(
        model=model,
        categories=categories,
        looks=looks,
        log_popularity=popularity,
        items=items,
        category_tastes=random_stream(seed, "category tastes").standard_normal((num_users, len(popularity_order))),
        visual_tastes=random_stream(seed, "visual tastes").standard_normal((num_users, looks.shape[1])),
    )


def choose(utilities: FloatArray, counts: IntArray, random: np.random.Generator) -> IntArray:
    """Draw every user's purchases, one after the other without replacement, from the multinomial logit.

    Args:
        utilities: float64 ``(B, N)``.
        counts: Number of purchases of every user, int64 ``(B,)`` in ``1..N``.
        random: Source of the noise. The draw does not depend on how users are divided into blocks.

    Returns:
        Items, int64 ``(sum(counts),)``: those of the first user in the order of choice, then those of the second, ….
    """
    perturbed = utilities + random.gumbel(size=utilities.shape)
    most = int(counts.max())
    if most < perturbed.shape[1]:
        best = np.argpartition(perturbed, -most, axis=1)[:, -most:]
    else:
        best = np.broadcast_to(np.arange(perturbed.shape[1]), perturbed.shape)
    order = np.argsort(-np.take_along_axis(perturbed, best, axis=1), axis=1)
    ranked = np.take_along_axis(best, order, axis=1)
    items: IntArray = ranked[np.arange(most) < counts[:, None]].astype(np.int64)
    return items


class ItemsOfPhotographs:
    """The items that share photographs, of which a user chooses one with a photograph by its popularity.

    Args:
        photographs: Number of every item's photograph, int64 ``(N,)``, each of ``0..P-1`` at least once.
        log_popularity: float64 ``(N,)``.

    Attributes:
        first: An item of every photograph, int64 ``(P,)``.
        log_popularity: That of all items of a photograph together, float64 ``(P,)``.
    """

    ROUNDS = 20
    """How often a user draws again in the place of what the user has, before the rest is drawn among what is left."""

    def __init__(self, photographs: IntArray, log_popularity: FloatArray) -> None:
        self._items = np.argsort(photographs, kind="stable")
        self._photographs, self._of_items = photographs, log_popularity
        self._ends = np.cumsum(np.exp(log_popularity)[self._items])
        self._stops = np.cumsum(np.bincount(photographs))
        self._starts = self._stops - np.bincount(photographs)
        self.first = self._items[self._starts]
        before = np.concatenate([[0.0], self._ends])
        self._low, self._high = before[self._starts], before[self._stops]
        self.log_popularity: FloatArray = np.log(self._high - self._low)

    def choose(self, utilities: FloatArray, counts: IntArray, random: np.random.Generator) -> IntArray:
        """Do what :func:`choose` does, of utilities of photographs, float64 ``(B, P)``."""
        num_items, num_photographs = len(self._items), utilities.shape[1]
        shares = np.cumsum(np.exp(utilities - utilities.max(axis=1, keepdims=True)), axis=1)
        shares = shares / shares[:, -1:] + np.arange(len(utilities))[:, None]
        pairs, missing = np.zeros(0, dtype=np.int64), counts
        for _ in range(self.ROUNDS):
            users = np.repeat(np.arange(len(counts)), missing)
            places = np.searchsorted(shares.ravel(), users + random.random(len(users)), side="right")
            chosen = np.clip(places - users * num_photographs, 0, num_photographs - 1)
            popularity = self._low[chosen] + random.random(len(users)) * (self._high - self._low)[chosen]
            places = np.searchsorted(self._ends, popularity, side="right")
            items = self._items[np.clip(places, self._starts[chosen], self._stops[chosen] - 1)]
            pairs = np.concatenate([pairs, users * num_items + items])
            pairs = pairs[np.sort(np.unique(pairs, return_index=True)[1])]  # what the user has already is left out
            missing = counts - np.bincount(pairs // num_items, minlength=len(counts))
            if not missing.any():
                break
        for user in np.flatnonzero(missing):
            left = (utilities[user] - self.log_popularity)[self._photographs] + self._of_items
            left[pairs[pairs // num_items == user] % num_items] = -np.inf
            more = choose(left[None], missing[[user]], random)
            pairs = np.concatenate([pairs, user * num_items + more])
        return pairs[np.argsort(pairs // num_items, kind="stable")] % num_items


def visual_components(images: NDArray[np.uint8], categories: IntArray, num_components: int) -> FloatArray:
    """Return how items look: the leading principal components of their pixels within the categories.

    Args:
        images: uint8 ``(N, H, W)`` or ``(N, H, W, 3)``.
        categories: int64 ``(N,)``.
        num_components: Largest number of components; there are fewer where the images vary in fewer directions.

    Returns:
        float64 ``(N, D)``, each column with mean 0 and variance 1 over the items. Its sign, which no principal
        component has by itself, is such that the pixel with the largest weight has a positive one.
    """
    pixels = _thumbnails(images).reshape(len(images), -1)
    for category in np.unique(categories):
        members = categories == category
        pixels[members] -= pixels[members].mean(axis=0)
    left, strengths, weights = np.linalg.svd(pixels, full_matrices=False)
    # One grey level of one pixel has a strength above 1e-3; what is far below is rounding, not looks.
    kept = min(num_components, int((strengths > 1e-6).sum()))
    weights = weights[:kept]
    largest = np.abs(weights).argmax(axis=1)
    signs = np.sign(weights[np.arange(kept), largest])
    components: FloatArray = left[:, :kept] * signs * len(images) ** 0.5
    return components


def log_popularity(
    categories: IntArray, popularity_order: Sequence[int], model: ChoiceModel, random: np.random.Generator
) -> FloatArray:
    """Return the logarithm of every item's popularity, float64 ``(N,)``; ``exp`` of it sums to 1.

    A category's popularity does not depend on how many items it has; categories without any are passed over.
    """
    popularity = np.zeros(len(categories))
    for rank, category in enumerate(popularity_order, start=1):
        members = random.permutation(np.flatnonzero(categories == category))
        within = np.arange(1, len(members) + 1, dtype=np.float64) ** -model.item_exponent
        popularity[members] = rank**-model.category_exponent * within / within.sum()
    return np.log(popularity / popularity.sum())


def draw_numbers_of_purchases(num_users: int, model: ChoiceModel, random: np.random.Generator) -> IntArray:
    """Return how many purchases each user would make, int64 ``(U,)``, at least 1."""
    more = model.mean_purchases - 1
    # A negative binomial with shape r and success probability r / (r + m) has mean m.
    return 1 + random.negative_binomial(model.dispersion, model.dispersion / (model.dispersion + more), size=num_users)


def draw_timestamps(counts: IntArray, model: ChoiceModel, random: np.random.Generator) -> IntArray:
    """Return the times of every user's purchases, rising strictly within a user, int64 ``(sum(counts),)``."""
    users = np.repeat(np.arange(len(counts)), counts)
    place = np.arange(len(users)) - np.repeat(np.cumsum(counts) - counts, counts)
    # Sorted draws may tie; adding each one's place, out of a range that leaves room for it, parts them.
    room = model.days * 86_400 - int(counts.max())
    if room < 1:
        raise CatwalkError(f"days must leave a second for each of {int(counts.max())} purchases, got {model.days}")
    draws = random.integers(room, size=len(users))
    return model.first_timestamp + draws[np.lexsort((draws, users))] + place


def random_stream(seed: int, name: str) -> np.random.Generator:
    """Return the random numbers of one named purpose: drawing more of one stream leaves all others as they are.

    Raises:
        CatwalkError: If the seed is not in 0..2^32 - 1.
    """
    check_seed(seed)
    return np.random.default_rng([seed, int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")])


def _thumbnails(images: NDArray[np.uint8]) -> FloatArray:
    """Return images averaged over square blocks of pixels, in [0, 1]; small images stay as they are."""
    height, width = images.shape[1:3]
    step = max(1, min(height, width) // THUMBNAIL_SIDE)
    rows, columns = height // step, width // step
    blocks = images[:, : rows * step, : columns * step].reshape(len(images), rows, step, columns, step, -1)
    if step == 1:
        return blocks[:, :, 0, :, 0] / 255.0
    means: FloatArray = blocks.mean(axis=(2, 4), dtype=np.float64) / 255.0
    return means
