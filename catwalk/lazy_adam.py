"""What stands in :mod:`catwalk.recommenders.lazy_adam` now: configurations of before 0.2 name it here."""

from catwalk.moved import forward

__getattr__ = forward(__name__)
