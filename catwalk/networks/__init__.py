"""CNNs that classify product images and give their features."""

from catwalk.networks.compact_cnn import compact_cnn

__all__ = ["compact_cnn"]
