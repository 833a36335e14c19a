"""Notices of Lightning and its friends that are known, harmless, and would only clutter the screen."""

import logging
import sys
import warnings

WARNINGS = (
    # Nothing of ours uses worker processes: batches are made from arrays that are in memory or mapped.
    r".*does not have many workers which may be a bottleneck",
    r"Your `IterableDataset` has `__len__` defined",
    # A short epoch is a matter of the data; its last loss is on the progress bar.
    r"The number of training batches \(\d+\) is smaller than the logging interval",
    # Recommenders hold out nothing for validation unless told to; who asks for a validation is told so.
    r"Total length of `list` across ranks is zero",
    # A run's folder may be moved or mounted elsewhere.
    r"The dirpath has changed from",
    # PyTorch's own use of its sparse tensors.
    r"Sparse invariant checks are implicitly disabled",
    # Lightning's own use of PyTorch.
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
    r".*torch\.distributed\.nn\.functional\.all_gather.* is deprecated",
    # The folder of a checkpoint that is trained anew.
    r"Checkpoint directory .* exists and is not empty",
)
"""Beginnings of warnings, as regular expressions."""

LOG_LINES = (
    "💡 Tip:",
    "Seed set to",
    "TPU available: False",
    "HPU available: False",
    "Loading `train_dataloader` to estimate",
)
"""Beginnings of log lines."""


def hide() -> None:
    """Hide them for the rest of the process, and let Lightning's other news go where its tables and bars go.

    What is left on stderr are warnings, and the one line of an error.
    """
    for message in WARNINGS:
        warnings.filterwarnings("ignore", message=message)
    for name in ("pytorch_lightning", "lightning_fabric", "lightning.fabric"):
        for handler in logging.getLogger(name).handlers:
            handler.addFilter(_is_news)  # once: the same filter is not added again
            if type(handler) is logging.StreamHandler:  # no handler for files, or of somebody else's
                handler.setStream(_Stdout())


class _Stdout:
    """What ``sys.stdout`` is at the moment of writing, as a stream for a handler that lives longer."""

    def write(self, text: str) -> None:
        """Write."""
        sys.stdout.write(text)

    def flush(self) -> None:
        """Flush."""
        sys.stdout.flush()


def _is_news(record: logging.LogRecord) -> bool:
    """Return whether a log line is none of :data:`LOG_LINES`."""
    return not record.getMessage().startswith(LOG_LINES)
