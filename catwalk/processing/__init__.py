"""What a shop or a defence does to images before a network sees them."""

from catwalk.processing.codecs import JPEG, ColourConversion, WebP
from catwalk.processing.denoiser import Denoiser
from catwalk.processing.noise import GaussianNoise
from catwalk.processing.non_local_means import NonLocalMeans
from catwalk.processing.operation import FileOperation, Operation, StraightThrough
from catwalk.processing.resizing import RandomResizePad, Resize, Thumbnail
from catwalk.processing.squeezing import BitDepth, GaussianSmoothing, Median, TotalVariation

__all__ = [
    "JPEG",
    "BitDepth",
    "ColourConversion",
    "Denoiser",
    "FileOperation",
    "GaussianNoise",
    "GaussianSmoothing",
    "Median",
    "NonLocalMeans",
    "Operation",
    "RandomResizePad",
    "Resize",
    "StraightThrough",
    "Thumbnail",
    "TotalVariation",
    "WebP",
]
