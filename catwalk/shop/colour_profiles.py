"""ICC colour profiles of images: which say something else than sRGB, and the conversion of their colours."""

import io
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

TOLERANCE = 2
"""Levels by which the colours of a profile may differ from those of sRGB and still be left as they are: tables in
profiles of sRGB are rounded, and a conversion would move sound images by a level."""

SPACING = 15
"""Levels between the colours in which a profile is compared with sRGB."""

MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
"""Pillow's modes of the colour spaces of profiles that images can have."""

LONGEST_NAME = 60
"""Characters of a profile's name that messages show."""

_GREY = ("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N")
_OTHERS = ("CMYK", "LAB")


@dataclass(frozen=True)
class ForeignProfile:
    """A profile that is not that of sRGB.

    Attributes:
        name: The description in it, or what is wrong with it, and what is done about it.
        mode: Pillow's mode of the colours that it describes.
        transform: The conversion to sRGB; None for a profile that cannot be used.
    """

    name: str
    mode: str = "RGB"
    transform: ImageCms.ImageCmsTransform | None = None

    def convert(self, image: Image.Image) -> Image.Image:
        """Return an image of 8-bit colours as ``"RGB"`` in sRGB, or as it is if the profile cannot be used."""
        if self.transform is None:
            return image
        converted = self.transform.apply(image if image.mode == self.mode else image.convert(self.mode))
        converted.info = {}
        return converted


def foreign_profile(image: Image.Image) -> ForeignProfile | None:
    """Return the profile of an opened image; None where it has none or that of sRGB.

    A profile that is damaged, or describes other colours than the image has, is of no use: colours are taken for sRGB
    then, as browsers do.
    """
    content = image.info.get("icc_profile")
    if not isinstance(content, bytes) or not content:
        return None
    profile = _read(content)
    if profile is None or profile.transform is None:
        return profile
    # Grey images may have a profile of colours, as grey is one.
    fits = {"L": image.mode in _GREY, "CMYK": image.mode == "CMYK", "RGB": image.mode not in _OTHERS}
    if fits[profile.mode]:
        return profile
    return replace(profile, name="profile of other colours than the image has, left aside", transform=None)


@lru_cache(maxsize=16)
def _read(content: bytes) -> ForeignProfile | None:
    """Return what a profile's bytes say; None if it is sRGB."""
    useless = ForeignProfile("unreadable profile, left aside")
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(content))
        mode = MODES.get(profile.profile.xcolor_space.strip())
        if mode is None:
            return useless
        if mode != "CMYK" and _is_srgb(profile, mode):
            return None
        transform = _to_srgb(profile, mode, ImageCms.Intent.PERCEPTUAL)
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
        return useless
    return ForeignProfile(f"{_name(profile)}, converted", mode, transform)


def _to_srgb(profile: ImageCms.ImageCmsProfile, mode: str, intent: ImageCms.Intent) -> ImageCms.ImageCmsTransform:
    return ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), mode, "RGB", intent)


def _is_srgb(profile: ImageCms.ImageCmsProfile, mode: str) -> bool:
    """Return whether a profile gives every colour, or every grey, the one that sRGB gives it."""
    steps = np.arange(0, 256, SPACING, dtype=np.uint8)
    if mode == "L":
        grid = steps[None]
        expected = np.repeat(grid[..., None], 3, axis=2)
    else:
        grid = expected = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(1, -1, 3)
    transform = _to_srgb(profile, mode, ImageCms.Intent.RELATIVE_COLORIMETRIC)
    converted = np.asarray(transform.apply(Image.fromarray(grid)))
    return bool(np.abs(converted.astype(np.int16) - expected).max() <= TOLERANCE)


def _name(profile: ImageCms.ImageCmsProfile) -> str:
    try:
        name = ImageCms.getProfileDescription(profile)
    except ImageCms.PyCMSError:
        name = ""
    name = " ".join("".join(character if character.isprintable() else " " for character in name).split())
    return name[:LONGEST_NAME] or "a profile without a name"
