"""LightningDataModules: product images for the CNN, interaction triplets for the recommenders."""

from datamodules.interaction_triplets import InteractionTriplets
from datamodules.product_images import ProductImages

__all__ = ["InteractionTriplets", "ProductImages"]
