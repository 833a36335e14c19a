"""Writing a dataset folder: whole, or not at all."""

import contextlib
import csv
import json
import os
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

from catwalk import __version__
from catwalk.errors import CatwalkError
from catwalk.files.locks import LockedError, locked
from catwalk.shop.catalogue import Catalogue, check_image_paths
from catwalk.shop.decoding import decode
from catwalk.terminal.progress import Progress

PNG_COMPRESS_LEVEL = 1
"""On product photographs of this size, higher levels save a few bytes of a 4 KiB disk block and cost time."""

THREADS = min(4, os.cpu_count() or 1)
"""More of them only wait for each other: little of the work on a small image is done outside Python."""

CHUNK = 256
"""Images that a thread writes before it takes the next ones."""


class DatasetWriter:
    """Writes a dataset folder aside and puts it in its place when all of it is there.

    Used as a context manager. Everything goes into a hidden folder beside ``dest``. When the block is left without an
    error, ``dataset.json`` is written, last of all, and the folder is renamed to ``dest``; when it is left with one,
    the hidden folder is removed. What a killed run left behind is removed at the next start. So ``dest`` is complete
    whenever it exists.

    Example:
        >>> import numpy as np
        >>> pixels = np.zeros((1, 32, 32, 3), dtype=np.uint8)
        >>> with DatasetWriter(Path("shop")) as writer:
        ...     writer.write_images(["images/1.png"], pixels)
        ...     writer.write_items(["1"], ["images/1.png"], ["Sandal"])
        ...     writer.write_interactions(["ada"], ["1"], [1640995200])
        ...     writer.describe(name="Shop", source="own photographs", licence="CC0-1.0", categories=["Sandal"])

    Attributes:
        dest: The dataset folder to be.
        folder: The hidden folder, for files that are written by other means.
        info: What ``dataset.json`` holds, once the block has been left.
    """

    def __init__(self, dest: Path) -> None:
        self.dest = Path(dest).resolve()
        self.folder = self.dest.with_name(f".{self.dest.name}.partial") if self.dest.name else self.dest
        self.info: dict[str, Any] = {}
        self._given = Path(dest)
        self._description: dict[str, Any] | None = None
        self._counts: dict[str, Any] = {}
        self._categories_of_items: dict[str, str] = {}
        self._purchases: Counter[str] = Counter()
        self._users: set[str] = set()
        self._allow_truncated = False
        self._lock = contextlib.ExitStack()

    def __enter__(self) -> "DatasetWriter":
        check_destination(self._given)
        with self._reporting():
            # So that a second import into the same place does not take the hidden folder for a leftover.
            try:
                self._lock.enter_context(locked(self.folder.with_suffix(".lock"), wait=False))
            except LockedError as error:
                raise CatwalkError(
                    f"{self._given} is being written by another import ({error}): wait for it, or give another folder"
                ) from error
            try:
                if self.folder.is_dir():
                    shutil.rmtree(self.folder)
                self.folder.mkdir()
            except BaseException:
                self._lock.close()
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                with self._reporting():
                    self._complete()
        finally:
            if not self.info:
                shutil.rmtree(self.folder, ignore_errors=True)
            self._lock.close()
        if isinstance(error, OSError):
            raise CatwalkError(f"{self._given} cannot be written: {error}") from error

    def write_images(self, paths: Sequence[str], images: NDArray[np.uint8], title: str = "Writing images") -> None:
        """Write images as PNG files, which keep every level, with a progress bar on standard error.

        Args:
            paths: Paths relative to the folder, N of them.
            images: uint8 ``(N, H, W)`` for grey images or ``(N, H, W, 3)`` for RGB.
            title: What the progress bar says.
        """
        if len(paths) != len(images):
            raise ValueError(f"{len(paths)} paths for {len(images)} images")
        for parent in sorted({(self.folder / path).parent for path in paths}):
            parent.mkdir(parents=True, exist_ok=True)

        def write(row: int) -> None:
            image = Image.fromarray(np.ascontiguousarray(images[row]))
            image.save(self.folder / paths[row], format="PNG", compress_level=PNG_COMPRESS_LEVEL)

        _in_threads(write, len(paths), title)

    def copy_images(
        self,
        root: Path,
        sources: Sequence[str],
        paths: Sequence[str],
        *,
        allow_truncated: bool = False,
        leave_out_damaged: bool = False,
        title: str = "Copying images",
    ) -> list[int]:
        """Copy image files, byte by byte, after decoding each of them, with a progress bar on standard error.

        Args:
            root: The folder that the files are in; links that lead out of it are refused.
            sources: The files, relative to that, N of them.
            paths: Where they go, relative to the folder.
            allow_truncated: Take files that end too early; they are counted, and ``dataset.json`` says that whoever
                reads the folder is to take them as far as they go.
            leave_out_damaged: Leave out files that cannot be decoded, rather than refuse them.
            title: What the progress bar says.

        Returns:
            The rows of the files that are left out, in order.

        Raises:
            CatwalkError: If a file is missing, lies outside ``root``, or cannot be decoded; all of those are listed
                on standard error before, where they are several.
        """
        sources = check_image_paths(root, sources, lambda row: f"the source, {sources[row]}")
        for parent in sorted({(self.folder / path).parent for path in paths}):
            parent.mkdir(parents=True, exist_ok=True)
        damaged: dict[int, str] = {}

        def copy(row: int) -> None:
            try:
                decode(root / sources[row])
            except CatwalkError as error:
                damaged[row] = str(error)
            else:
                self._copy(root / sources[row], paths[row])

        _in_threads(copy, len(paths), title)
        # After the others: what allows truncated files allows them to all threads, and none would be counted.
        ends_early = {row for row in sorted(damaged) if _ends_early(root / sources[row])}
        if allow_truncated:
            for row in sorted(ends_early):
                self._copy(root / sources[row], paths[row])
                del damaged[row]
            self._allow_truncated = True
            self._counts["truncated_images"] = self._counts.get("truncated_images", 0) + len(ends_early)
        if damaged and (not leave_out_damaged or len(damaged) == len(paths)):
            raise _refuse_damaged([damaged[row] for row in sorted(damaged)], len(paths), bool(ends_early & {*damaged}))
        return sorted(damaged)

    def _copy(self, source: Path, path: str) -> None:
        # On file systems that know no capitals, "A.jpg" must not overwrite "a.jpg".
        with open(source, "rb") as file, open(self.folder / path, "xb") as target:
            shutil.copyfileobj(file, target)

    def remove_images(self, paths: Iterable[str]) -> None:
        """Remove images that were copied and whose items are left out after all, and folders that become empty."""
        for path in paths:
            (self.folder / path).unlink()
            with contextlib.suppress(OSError):
                (self.folder / path).parent.rmdir()

    def write_items(
        self, item_ids: Sequence[str], images: Sequence[str], categories: Sequence[str], titles: Sequence[str] = ()
    ) -> None:
        """Write ``items.csv``.

        Args:
            item_ids: The shop's own ids.
            images: Path of every item's image, relative to the folder.
            categories: Name of every item's category.
            titles: Title of every item, or none at all.
        """
        columns = {"item_id": item_ids, "image": images, "category": categories}
        self._write_table("items", columns | ({"title": titles} if titles else {}))
        self._categories_of_items = dict(zip(item_ids, categories, strict=True))
        self._counts["items"] = len(item_ids)

    def write_interactions(
        self, user_ids: Sequence[str], item_ids: Sequence[str], timestamps: Iterable[int | float | str]
    ) -> None:
        """Write ``interactions.csv``, one row per purchase; times are numbers or ISO 8601."""
        self._write_table("interactions", {"user_id": user_ids, "item_id": item_ids, "timestamp": timestamps})
        self._count_purchases(user_ids, item_ids)

    def _count_purchases(self, user_ids: Sequence[str], item_ids: Sequence[str]) -> None:
        self._purchases.update(item_ids)
        self._users.update(user_ids)
        self._counts["users"] = len(self._users)
        self._counts["interactions"] = self._counts.get("interactions", 0) + len(item_ids)

    def write_split(
        self, part: str, user_ids: Sequence[str], item_ids: Sequence[str], timestamps: Iterable[int | float | str]
    ) -> None:
        """Write a part of the publisher's split, ``splits/train.csv``, ``validation.csv`` or ``test.csv``.

        Args:
            part: ``train``, ``validation`` or ``test``.
            user_ids: The user of every purchase.
            item_ids: Its item.
            timestamps: Its time; none at all where the publisher gives no times.
        """
        columns: dict[str, Iterable[Any]] = {"user_id": user_ids, "item_id": item_ids}
        times = list(timestamps)
        (self.folder / "splits").mkdir(exist_ok=True)
        self._write_table(f"splits/{part}", columns | ({"timestamp": times} if times else {}))
        self._count_purchases(user_ids, item_ids)
        self._counts.setdefault("splits", {})[part] = len(item_ids)

    def write_labelled_images(self, images: Sequence[str], categories: Sequence[str], splits: Sequence[str]) -> None:
        """Write ``labelled_images.csv``: the images from which a CNN learns the categories."""
        self._write_table("labelled_images", {"image": images, "category": categories, "split": splits})
        self._counts["labelled_images"] = dict(Counter(splits))

    def describe(
        self,
        *,
        name: str,
        source: str,
        licence: str,
        categories: Sequence[str],
        made_by: Mapping[str, Any] | None = None,
        simulated_purchases: Mapping[str, Any] | None = None,
        left_out: Mapping[str, int] | None = None,
        repaired: Mapping[str, int] | None = None,
        remarks: Sequence[str] = (),
    ) -> None:
        """State what ``dataset.json`` is to say beyond the counts.

        Nothing in it may depend on the time or the machine, so that the same command writes the same bytes.

        Args:
            name: Name of the dataset, for tables.
            source: Where the data comes from and who is to be cited.
            licence: Under which licence it may be used.
            categories: The category names, in their order.
            made_by: The command and its arguments.
            simulated_purchases: How the purchases were simulated; None where they are real.
            left_out: How many things of the source are not in the folder, by cause.
            repaired: How many things were written in another way in the source, by kind.
            remarks: What is doubtful about the source, a sentence each.
        """
        self._description = {
            "name": name,
            "source": source,
            "licence": licence,
            "categories": list(categories),
            "left_out": dict(left_out or {}),
            "made_by": dict(made_by or {}) | {"catwalk_version": __version__},
            "simulated_purchases": None if simulated_purchases is None else dict(simulated_purchases),
        }
        mended = {what: count for what, count in (repaired or {}).items() if count}
        if mended:
            self._description["repaired"] = mended
        if remarks:
            self._description["remarks"] = list(dict.fromkeys(remarks))

    def _complete(self) -> None:
        """Write ``dataset.json`` and put the folder in its place."""
        if self._description is None:
            raise RuntimeError("describe() was not called")
        per_category = {category: {"items": 0, "interactions": 0} for category in self._description["categories"]}
        for item, category in self._categories_of_items.items():
            per_category[category]["items"] += 1
            per_category[category]["interactions"] += self._purchases[item]
        info = self._description | {"counts": self._counts | {"per_category": per_category}}
        if self._allow_truncated:
            info["allow_truncated"] = True
        # The fingerprint covers the categories' order, which the catalogue reads from the file that is to hold it.
        self._write_json(info)
        info = info | {"fingerprint": Catalogue.read(self.folder).fingerprint}
        self._write_json(info)
        _sync_folder(self.folder)
        # An empty folder may be in the place; one that was filled in the meantime makes this fail.
        if self.dest.is_dir():
            self.dest.rmdir()
        self.folder.rename(self.dest)
        self.info = info
        _sync_folder(self.dest.parent)

    def _write_table(self, stem: str, columns: Mapping[str, Iterable[Any]]) -> None:
        with open(self.folder / f"{stem}.csv", "w", encoding="utf-8", newline="") as file:
            # A cell with a character of the line ending is quoted, and a lone carriage return has to be as well.
            lines = SimpleNamespace(write=lambda line: file.write(line[:-2] + "\n"))
            table = csv.writer(lines, lineterminator="\r\n")
            table.writerow(columns)
            table.writerows(zip(*columns.values(), strict=True))
            file.flush()
            os.fsync(file.fileno())

    def _write_json(self, info: Mapping[str, Any]) -> None:
        with open(self.folder / "dataset.json", "w", encoding="utf-8", newline="\n") as file:
            json.dump(info, file, indent=2, ensure_ascii=False)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())

    @contextlib.contextmanager
    def _reporting(self) -> Iterator[None]:
        """Turn the file system's refusals into messages."""
        try:
            yield
        except OSError as error:
            raise CatwalkError(f"{self._given} cannot be written: {error}") from error


def _refuse_damaged(reasons: Sequence[str], count: int, some_end_early: bool) -> CatwalkError:
    """Return what is said of images that cannot be decoded, after all of them were listed."""
    remedy = "remove the file to leave its item out, or give --leave-out-damaged"
    allow = ", or --allow-truncated: it only ends too early"
    if len(reasons) > 1:
        console = Console(stderr=True)
        for reason in reasons:
            console.print(f"• {_printable(reason)}", soft_wrap=True, highlight=False, markup=False)
        reasons = [f"{len(reasons):,} of {count:,} images cannot be read, all listed above; the first: {reasons[0]}"]
        remedy = "remove the files to leave their items out, or give --leave-out-damaged"
        allow = ", or --allow-truncated for those that only end too early"
    return CatwalkError(f"{reasons[0]}; {remedy}{allow if some_end_early else ''}")


def _printable(text: str) -> str:
    """Return a text without what would be a command to a terminal."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def _ends_early(path: Path) -> bool:
    """Return whether an image can be decoded as far as it goes."""
    try:
        decode(path, allow_truncated=True)
    except CatwalkError:
        return False
    return True


def _in_threads(work: Callable[[int], None], count: int, title: str) -> None:
    """Call ``work`` with every number below ``count``, in threads and with a progress bar on standard error."""
    stopped = threading.Event()

    def chunk(start: int) -> int:
        stop = min(start + CHUNK, count)
        for number in range(start, stop):
            if stopped.is_set():
                break
            work(number)
        return stop - start

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar, ThreadPoolExecutor(THREADS) as pool:
        task = bar.add_task(title, total=count)
        try:
            for done in pool.map(chunk, range(0, count, CHUNK)):
                bar.advance(task, done)
        except BaseException:
            stopped.set()
            pool.shutdown(cancel_futures=True)
            raise


def check_destination(dest: Path) -> None:
    """Raise a CatwalkError unless a dataset folder can be put at ``dest``, which may be an empty folder."""
    try:
        if not dest.exists() and not dest.is_symlink():
            return
        if not dest.is_dir():
            raise CatwalkError(f"{dest} exists and is not a folder: give another folder")
        if any(dest.iterdir()):
            raise CatwalkError(f"{dest} exists and is not empty: give another folder or remove it")
    except OSError as error:
        raise CatwalkError(f"{dest} cannot be looked into: {error}") from error
    if os.path.ismount(dest) or dest.samefile(Path.cwd()):
        # The finished folder replaces the empty one, which would pull a mount or a shell's own folder away.
        raise CatwalkError(f"{dest} is a mount point or the current folder: give a folder inside it")


def numbered(prefix: str, count: int) -> list[str]:
    """Return ids with as many digits as the last needs, so that their order as text is that of their numbers."""
    width = len(str(count - 1))
    return [f"{prefix}{number:0{width}d}" for number in range(count)]


def _sync_folder(folder: Path) -> None:
    """Make a folder's entries durable, where the system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
