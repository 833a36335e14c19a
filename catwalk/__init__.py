"""Catwalk: what adversarially poisoned product images do to visual recommenders, and what defends them."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("catwalk")
except PackageNotFoundError:  # running from a source tree that was never installed
    __version__ = "0+unknown"
