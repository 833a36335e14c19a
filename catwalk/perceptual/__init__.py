"""How different adversarial images look from their originals: LPIPS, SSIM, PSNR and distances between pixels."""

from catwalk.perceptual.distances import PerceptualFigures, perceptual_figures
from catwalk.perceptual.lpips_distance import LPIPS, load_lpips

__all__ = ["LPIPS", "PerceptualFigures", "load_lpips", "perceptual_figures"]
