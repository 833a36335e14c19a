"""A tiny shop drawn in code, for tests and for trying things out in seconds.

Every image shows one article on a pale ground: its outline tells the category, and within a category articles differ
in cut, colour, pattern, size, position and angle. The purchases are drawn from the choice model of
:mod:`catwalk.importers.simulated_purchases`.
"""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from catwalk.errors import CatwalkError
from catwalk.importers.dataset_writer import DatasetWriter, check_destination, numbered
from catwalk.importers.simulated_purchases import ChoiceModel, random_stream, simulate_purchases
from catwalk.importers.summary import print_summary
from catwalk.limits import check_memory

FloatArray = NDArray[np.float64]
Cut = tuple[FloatArray, ...]
"""Three numbers in [0, 1] per image that vary the outline within its category, each ``(B, 1, 1)``."""

SIDES = (16, 256)
CHUNK = 256
"""Images that are drawn at a time. It is part of what a seed means."""


def synthetic(
    dest: Path,
    items: int = 240,
    users: int = 600,
    image_size: int = 32,
    train_images: int = 150,
    test_images: int = 40,
    seed: int = 0,
    photographs: int | None = None,
    mean_purchases: float = ChoiceModel.mean_purchases,
) -> None:
    """Write a tiny shop drawn in code, with simulated purchases, in about two seconds; or one as large as you like.

    Args:
        dest: The dataset folder to write; it must not exist, or be empty.
        items: How many items are on sale, at least 6, as many of one category as of another.
        users: How many users buy, at least 1.
        image_size: Height and width of the images in pixels, from 16 to 256.
        train_images: Labelled training images per category, at least 1.
        test_images: Labelled test images per category, at least 1.
        seed: Seed of the images and of the simulated purchases.
        photographs: How many photographs the items share, as many items one as another: a multiple of 6, so that those
            of one show the same category. By default every item has its own; a large shop is drawn many times faster
            with few.
        mean_purchases: Purchases of a user on average, at least 1.

    Raises:
        CatwalkError: If an argument is out of range, or DEST is not empty.
    """
    check_destination(dest)
    for argument, value, lowest in (
        ("items", items, len(CATEGORIES)),
        ("users", users, 1),
        ("train_images", train_images, 1),
        ("test_images", test_images, 1),
    ):
        if value < lowest:
            raise CatwalkError(f"{argument} must be at least {lowest}, got {value}")
        check_memory(8 * len(CATEGORIES) * value, f"{argument} {value}", "give fewer")  # a user's tastes, at least
    if photographs is not None and (photographs % len(CATEGORIES) or not len(CATEGORIES) <= photographs <= items):
        raise CatwalkError(
            f"photographs must be a multiple of {len(CATEGORIES)} from {len(CATEGORIES)} to the {items} items, got "
            f"{photographs}"
        )
    model = ChoiceModel(mean_purchases=mean_purchases)
    if not SIDES[0] <= image_size <= SIDES[1]:
        raise CatwalkError(f"image_size must lie in {SIDES[0]}..{SIDES[1]}, got {image_size}")
    names = np.array(CATEGORIES)
    shown = np.arange(items) % (photographs or items)  # by every item
    categories = {
        part: np.arange(count) % len(CATEGORIES)
        for part, count in (
            ("items", photographs or items),
            ("train", train_images * len(CATEGORIES)),
            ("test", test_images * len(CATEGORIES)),
        )
    }
    images = {part: draw(its, image_size, random_stream(seed, f"{part} images")) for part, its in categories.items()}
    paths = {part: [f"images/{part}/{name}.png" for name in numbered("", len(its))] for part, its in categories.items()}

    order = [CATEGORIES.index(name) for name in POPULARITY_ORDER]
    of_items = categories["items"][shown]
    shared = None if photographs is None else shown
    purchases = simulate_purchases(images["items"], of_items, order, users, seed, model, shared)
    item_ids, user_ids = numbered("item-", items), numbered("u", users)
    with DatasetWriter(dest) as writer:
        for part in images:
            writer.write_images(paths[part], images[part], f"Writing {part} images")
        writer.write_items(item_ids, [paths["items"][number] for number in shown], names[of_items].tolist())
        writer.write_interactions(
            [user_ids[user] for user in purchases.users],
            [item_ids[item] for item in purchases.items],
            purchases.timestamps.tolist(),
        )
        writer.write_labelled_images(
            paths["train"] + paths["test"],
            names[np.concatenate([categories["train"], categories["test"]])].tolist(),
            ["train"] * len(paths["train"]) + ["test"] * len(paths["test"]),
        )
        writer.describe(
            name="Synthetic",
            source="drawn by catwalk data synthetic",
            licence="CC0-1.0",
            categories=CATEGORIES,
            made_by={
                "importer": "synthetic",
                "items": items,
                "users": users,
                "image_size": image_size,
                "train_images": train_images,
                "test_images": test_images,
                "seed": seed,
                **({} if photographs is None else {"photographs": photographs}),
            },
            simulated_purchases={
                "model": "multinomial logit; see catwalk/importers/simulated_purchases.py",
                "parameters": asdict(model),
                "popularity_order": list(POPULARITY_ORDER),
            },
            left_out={"purchases beyond the last item on sale": purchases.num_unmet},
        )
    print_summary(writer, Console())


def draw(categories: NDArray[np.int64], side: int, random: np.random.Generator) -> NDArray[np.uint8]:
    """Draw one image per entry of ``categories``.

    Args:
        categories: int64 ``(N,)``, places in :data:`CATEGORIES`.
        side: Height and width in pixels.
        random: Source of all variation.

    Returns:
        uint8 ``(N, side, side, 3)``.
    """
    images = np.empty((len(categories), side, side, 3), dtype=np.uint8)
    for start in range(0, len(categories), CHUNK):
        chunk = slice(start, min(start + CHUNK, len(categories)))
        images[chunk] = _draw_chunk(categories[chunk], side, random)
    return images


def _draw_chunk(categories: NDArray[np.int64], side: int, random: np.random.Generator) -> NDArray[np.uint8]:
    count = len(categories)

    def uniform(low: float, high: float) -> FloatArray:
        return random.uniform(low, high, size=(count, 1, 1))

    # The article's own coordinates: it fills about -1..1 in both, whatever its size, place and angle in the image.
    centres = (np.arange(side) + 0.5) / side * 2 - 1
    scale, angle = uniform(0.45, 0.9), uniform(-0.5, 0.5)
    across = centres[None, None, :] - uniform(-0.25, 0.25)
    down = centres[None, :, None] - uniform(-0.25, 0.25)
    x = (across * np.cos(angle) + down * np.sin(angle)) / scale * random.choice([-1, 1], size=(count, 1, 1))
    y = (down * np.cos(angle) - across * np.sin(angle)) / scale
    cut = tuple(uniform(0, 1) for _ in range(3))
    distance = np.empty((count, side, side))
    for number, name in enumerate(CATEGORIES):
        members = categories == number
        if members.any():
            distance[members] = OUTLINES[name](x[members], y[members], tuple(part[members] for part in cut))
    pixel = 2 / side / scale
    cover = np.clip(0.5 - distance / pixel, 0, 1)[..., None]

    # The pattern: a second colour in stripes, checks or not at all, at any angle and width.
    turn, width = uniform(0, np.pi), uniform(0.12, 0.4)
    waves = np.sin((x * np.cos(turn) + y * np.sin(turn)) * np.pi / width)
    crossing = np.sin((y * np.cos(turn) - x * np.sin(turn)) * np.pi / width)
    kind = random.integers(3, size=(count, 1, 1))
    pattern = np.where(kind == 0, 0.0, np.where(kind == 1, waves > 0, waves * crossing > 0))[..., None]
    # Hues lean to the category's own but overlap widely: colour alone does not give the category away.
    hue = (categories / len(CATEGORIES))[:, None, None] + random.normal(0, 0.25, size=(count, 1, 1))
    colour = _colour(hue, uniform(0.1, 0.9), uniform(0.2, 0.95))
    second = _colour(hue + uniform(0.1, 0.9), uniform(0.1, 0.9), uniform(0.2, 0.95))
    article = colour + (second - colour) * pattern * uniform(0.3, 1)[..., None]
    shading = 1 - uniform(0, 0.25) * (y + 1) / 2

    ground = uniform(0.9, 1)[..., None] + random.uniform(-0.03, 0.03, size=(count, 1, 1, 3))
    ground = ground - uniform(0, 0.08)[..., None] * (down[..., None] + 1) / 2
    picture = ground + (article * shading[..., None] - ground) * cover
    picture = picture + random.normal(0, 1, size=picture.shape) * uniform(0.02, 0.1)[..., None]
    return np.round(np.clip(picture, 0, 1) * 255).astype(np.uint8)


def _colour(hue: FloatArray, saturation: FloatArray, value: FloatArray) -> FloatArray:
    """Turn hue (of period 1), saturation and value into RGB, with a last axis of 3."""
    sectors = (np.array([5, 3, 1]) + hue[..., None] * 6) % 6
    fall = np.clip(np.minimum(sectors, 4 - sectors), 0, 1)
    rgb: FloatArray = value[..., None] * (1 - saturation[..., None] * fall)
    return rgb


# Outlines are signed distances, or near enough: negative inside, zero at the edge, in the article's coordinates.


def _box(x: FloatArray, y: FloatArray, half_width: FloatArray | float, half_height: FloatArray | float) -> FloatArray:
    return np.maximum(np.abs(x) - half_width, np.abs(y) - half_height)


def _ring(x: FloatArray, y: FloatArray, radius_x: FloatArray, radius_y: FloatArray, width: FloatArray) -> FloatArray:
    """Return an elliptic band of about the given width."""
    return np.abs(np.hypot(x / radius_x, y / radius_y) - 1) * np.minimum(radius_x, radius_y) - width / 2


def _sneaker(x: FloatArray, y: FloatArray, cut: Cut) -> FloatArray:
    """A thick sole under a closed upper that falls from the ankle to the toe."""
    ankle, toe, sole = 0.55 + 0.4 * cut[0], 0.2 + 0.15 * cut[1], 0.08 + 0.06 * cut[2]
    height = toe + (ankle - toe) * np.clip((0.25 - x) / 0.5, 0, 1)
    upper = np.maximum(np.abs(x) - 0.8, np.maximum(y - 0.45, (0.45 - height - y) * 0.7))
    return np.minimum(upper, _box(x, y - 0.5, 0.9, sole))


def _sandal(x: FloatArray, y: FloatArray, cut: Cut) -> FloatArray:
    """A thin sole under open straps."""
    width, heel, spread = 0.1 + 0.1 * cut[0], 0.2 * cut[1], 0.25 + 0.2 * cut[2]
    sole = _box(x, y - 0.5 + heel * (x + 1) / 2, 0.9, 0.07)
    top = 0.45 - heel * (x + 1) / 2
    front = _ring(x - 0.45, y - top, spread, 0.45 + 0 * spread, width)
    back = _ring(x + 0.4, y - top, spread + 0.05, 0.75 + 0 * spread, width)
    return np.minimum(sole, np.maximum(np.minimum(front, back), y - top))


def _t_shirt(x: FloatArray, y: FloatArray, cut: Cut) -> FloatArray:
    """A trunk with short sleeves and a neckline."""
    waist, sleeve, neck = 0.4 + 0.12 * cut[0], 0.15 + 0.15 * cut[1], 0.15 + 0.12 * cut[2]
    trunk = _box(x, y, waist, 0.8)
    sleeves = _box(x, y + 0.8 - sleeve - 0.35 * np.maximum(np.abs(x) - 0.4, 0), 0.95, sleeve)
    return np.maximum(np.minimum(trunk, sleeves), neck - np.hypot(x, y + 0.85))


def _dress(x: FloatArray, y: FloatArray, cut: Cut) -> FloatArray:
    """A narrow top that widens to the hem."""
    flare, waist, length = 0.25 + 0.35 * cut[0], 0.18 + 0.1 * cut[1], 0.7 + 0.25 * cut[2]
    half_width = waist + flare * np.maximum(y + 0.25, 0) + 0.12 * np.maximum(-0.25 - y, 0)
    skirt = np.maximum((np.abs(x) - half_width) * 0.85, np.abs(y + 0.95 - length) - length)
    return np.maximum(skirt, 0.14 - np.hypot(x, y + 0.95))


def _bag(x: FloatArray, y: FloatArray, cut: Cut) -> FloatArray:
    """A wide body with a handle."""
    half_width, half_height, handle = 0.55 + 0.3 * cut[0], 0.3 + 0.2 * cut[1], 0.4 + 0.3 * cut[2]
    body = _box(x, y - 0.35, half_width, half_height)
    top = 0.35 - half_height
    ring = _ring(x, y - top, 0.6 * half_width, handle, np.full_like(handle, 0.12))
    return np.minimum(body, np.maximum(ring, y - top))


def _trousers(x: FloatArray, y: FloatArray, cut: Cut) -> FloatArray:
    """Two legs under a waistband."""
    leg, spread, length = 0.13 + 0.1 * cut[0], 0.2 * cut[1], 0.6 + 0.35 * cut[2]
    legs = _box(np.abs(x) - 0.26 - spread * (y + 0.9) / 2, y + 0.9 - length, leg, length)
    return np.minimum(legs, _box(x, y + 0.75, 0.26 + leg, 0.15))


OUTLINES: dict[str, Callable[[FloatArray, FloatArray, Cut], FloatArray]] = {
    "Bag": _bag,
    "Dress": _dress,
    "Sandal": _sandal,
    "Sneaker": _sneaker,
    "T-shirt": _t_shirt,
    "Trousers": _trousers,
}
CATEGORIES = tuple(OUTLINES)
POPULARITY_ORDER = ("Sneaker", "T-shirt", "Dress", "Bag", "Trousers", "Sandal")
"""The categories from the most to the least popular, as the simulated purchases have it."""
