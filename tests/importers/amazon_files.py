"""Files in the layouts of the McAuley Lab's three releases, with their quirks, and what should become of them."""

import gzip
import json
import random
from collections import Counter

from image_server import picture

WOMEN = "Clothing, Shoes & Jewelry > Women"
ROOT = "Clothing, Shoes & Jewelry"
PATHS = [
    [ROOT, "Women", "Clothing", "Dresses"],
    [ROOT, "Women", "Shoes", "Sandals", "Flats"],
    [ROOT, "Women", "Shoes"],
    [ROOT, "Women"],
    [ROOT, "Men", "Shoes"],
    ["Clothing", "Women", "Dresses"],
    [],
]


class Shop:
    """A made-up shop: what the files of a release are written from.

    Attributes:
        items: ``(id, path, title, has an address)`` in the order of the metadata, with repetitions.
        reviews: ``(user, item, time in days, stars)``.
    """

    def __init__(self, seed, items=40, users=30, reviews=700):
        chance = random.Random(seed)
        names = [f"B{number:09d}" for number in range(items)]
        titles = [
            "Plain",
            "Women's Dress",
            'A "nice" one',
            'Both: it\'s "nice"',
            "Köln &amp; Zürich",
            "back\\slash",
            "",
        ]
        self.items = [
            (name, chance.choices(PATHS, [6, 6, 3, 2, 2, 1, 1])[0], chance.choice(titles), chance.random() < 0.85)
            for name in names
        ]
        self.items += [
            (chance.choice(names), chance.choice(PATHS), "A second line", chance.random() < 0.8) for _ in range(5)
        ]
        chance.shuffle(self.items)
        names += ["B99999999X"]  # which the metadata lack
        self.reviews = [
            (
                f"A{min(chance.randrange(users), chance.randrange(users)):04d}",
                names[min(chance.randrange(len(names)), chance.randrange(len(names)))],
                chance.randrange(10_000, 10_060),
                chance.randrange(1, 6),
            )
            for _ in range(reviews)
        ]

    def expected(self, core, one_pass=False, min_rating=None, level=2, gone=()):
        """Return items with their categories and titles, purchases, and what is left out, by plain loops."""
        left_out = Counter()
        first = {}
        for line in self.items:
            if line[0] in first:
                left_out["metadata lines that repeat an item"] += 1
            first.setdefault(line[0], line)
        prefix = [ROOT, "Women"]
        chosen = {}
        for name, path, title, has_address in first.values():
            if path[:2] != prefix:
                left_out["items of other categories" if path else "items without a category"] += 1
                continue
            if not has_address:
                left_out["items without an image"] += 1
                continue
            behind = path[2:]
            chosen[name] = ((behind[level - 1 :] or behind[-1:] or ["Women"])[0], title.replace("&amp;", "&"))
        kept = []
        for user, item, day, stars in self.reviews:
            if item not in first:
                left_out["reviews of items that the metadata lack"] += 1
            elif first[item][1][:2] != prefix:
                left_out["reviews of items of other categories"] += 1
            elif item not in chosen:
                left_out["reviews of items without an image"] += 1
            elif min_rating is not None and stars < min_rating:
                left_out[f"reviews with fewer than {min_rating} stars"] += 1
            else:
                kept.append((user, item, day))
        earliest = {}
        for row, (user, item, day) in enumerate(kept):
            if (user, item) not in earliest or day < kept[earliest[user, item]][2]:
                earliest[user, item] = row
        left_out["repeated purchases of an item by the same user"] = len(kept) - len(earliest)
        kept = [kept[row] for row in sorted(earliest.values())]
        if gone:
            left_out["reviews of items whose image cannot be had"] = sum(item in gone for _, item, _ in kept)
            kept = [row for row in kept if row[1] not in gone]
        before = len(kept)
        while True:
            size = len(kept)
            for column in (0, 1):
                counts = Counter(row[column] for row in kept)
                kept = [row for row in kept if counts[row[column]] >= core]
            if one_pass or len(kept) == size:
                break
        how = "one pass" if one_pass else "repeated until nothing changes"
        left_out[f"purchases of users or items with fewer than {core} ({how})"] = before - len(kept)
        bought = {item for _, item, _ in kept}
        gone = set(gone) & set(chosen)
        left_out["items whose image is gone"] = len(gone)
        left_out["items without enough reviews"] = len(chosen) - len(bought) - len(gone)
        items = [(name, *chosen[name]) for name in first if name in bought]
        return items, kept, {cause: count for cause, count in left_out.items() if count}

    def write(self, folder, release, address=None, compress=True):
        """Write reviews and metadata as a release does; ``address`` gives the address of an item's image."""
        address = address or (lambda item: f"https://images.example/{item}.jpg")
        metadata, reviews = LAYOUTS[release]
        texts = {
            "metadata": [
                metadata(name, path, title, address(name) if has else None) for name, path, title, has in self.items
            ],
            "reviews": [reviews(*review) for review in self.reviews],
        }
        paths = {}
        for name, lines in texts.items():
            data = ("\n".join(lines) + "\n").encode()
            paths[name] = folder / f"{name}_{release}.json{'.gz' * compress}"
            paths[name].write_bytes(gzip.compress(data) if compress else data)
        return paths

    def write_images(self, folder):
        """Write an image for every item that has an address, with one of three endings."""
        folder.mkdir()
        for name, _, _, has_address in {line[0]: line for line in reversed(self.items)}.values():
            ending, form = [("jpg", "JPEG"), ("png", "PNG"), ("JPEG", "JPEG")][int(name[1:]) % 3]
            if has_address:
                (folder / f"{name}.{ending}").write_bytes(picture(int(name[1:]), form))
        (folder / "Thumbs.db").write_bytes(b"")


def metadata_2014(item, path, title, address):
    record = {"asin": item, "related": {"also_bought": ["B1", "B2"]}, "salesRank": {"Clothing": 7}, "price": 3.17}
    if title:
        record["title"] = title
    record["imUrl"] = address or "http://g-ecx.images-amazon.com/images/G/01/x-site/icons/no-img-sm._CB1_.gif"
    if path:
        record["categories"] = [["Sports"], path]
    return repr(record)


def review_2014(user, item, day, stars):
    return json.dumps(
        {
            "reviewerID": user,
            "asin": item,
            "reviewerName": 'Ann "A"',
            "helpful": [0, 0],
            "reviewText": "Nice – really\nnice",
            "overall": float(stars),
            "unixReviewTime": day * 86400,
        }
    )


def metadata_2018(item, path, title, address):
    escaped = [name.replace("&", "&amp;") for name in path]
    record = {"category": [*escaped, "x" * 100, "100% Cotton"], "tech1": "", "title": title, "asin": item}
    record |= {"imageURL": [], "imageURLHighRes": [address] if address else []}
    return json.dumps(record)


def review_2018(user, item, day, stars):
    record = {"overall": float(stars), "verified": True, "reviewTime": "01 1, 2015", "reviewerID": user, "asin": item}
    return json.dumps(record | {"style": {"Size:": " L"}, "unixReviewTime": day * 86400, "image": ["x"]})


def metadata_2023(item, path, title, address):
    views = [{"thumb": "", "large": "https://other.example/", "variant": "PT01", "hi_res": None}]
    if address:
        views.append({"thumb": None, "large": address, "variant": "MAIN", "hi_res": "https://large.example/"})
    record = {"main_category": "AMAZON FASHION", "title": title, "price": None, "images": views if address else []}
    return json.dumps(record | {"categories": path, "details": {"a": 1}, "parent_asin": item})


def review_2023(user, item, day, stars):
    record = {"rating": float(stars), "title": "t", "text": "", "images": [], "asin": "CHILD", "parent_asin": item}
    return json.dumps(record | {"user_id": user, "timestamp": day * 86_400_000 + 7, "verified_purchase": True})


LAYOUTS = {
    "2014": (metadata_2014, review_2014),
    "2018": (metadata_2018, review_2018),
    "2023": (metadata_2023, review_2023),
}


def write_release(folder, items=range(12), training=(), test=(), width=2, classes=None):
    """Write a release: pairs of user and item, in 2 columns or in 4 as the authors' script writes them."""
    images = folder / "original" / "images"
    images.mkdir(parents=True)
    for item in items:
        ending, form = [("jpg", "JPEG"), ("PNG", "PNG"), ("jpeg", "JPEG")][item % 3]
        (images / f"{item}.{ending}").write_bytes(picture(item, form))
    for name, pairs in (("trainingset.tsv", training), ("testset.tsv", test)):
        # The rows that the script moves from the test to the training have no rating and no time.
        rest = [("\t1.0\t0" if row % 5 else "\t\t") if width == 4 else "" for row in range(len(pairs))]
        (folder / name).write_text(
            "".join(f"{user}\t{item}{more}\n" for (user, item), more in zip(pairs, rest, strict=True))
        )
    if classes is not None:
        lines = [f'{item},{number},"{text}",0.9' for item, number, text in classes]
        (folder / "original" / "classes.csv").write_text("\n".join(["ImageID,ClassNum,ClassStr,Prob", *lines]) + "\n")
