"""A dataset folder in memory: catalogue, purchases, images, splits and triplets."""
