"""Distances between adversarial images and their originals: LPIPS, SSIM, PSNR and distances between pixels."""

from catwalk.perceptual.distances import ImageDistances, image_distances
from catwalk.perceptual.lpips_distance import LPIPS, load_lpips

__all__ = ["LPIPS", "ImageDistances", "image_distances", "load_lpips"]
