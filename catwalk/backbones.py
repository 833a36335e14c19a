"""What stands in :mod:`catwalk.networks` now: configurations and checkpoints of before 0.2 name it here."""

from catwalk.moved import forward

__getattr__ = forward(__name__)
