"""Random changes of images, against loops over single images."""

import numpy as np
import pytest
import torch

from catwalk.networks.augmentation import random_flip, random_shift


@pytest.fixture
def images():
    return torch.randint(256, (300, 3, 6, 5), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_each_image_is_mirrored_or_not(images):
    flipped = random_flip(images, generator())
    count = 0
    for image, result in zip(images.numpy(), flipped.numpy(), strict=True):
        mirrored = np.array_equal(result, image[:, :, ::-1])
        assert mirrored or np.array_equal(result, image)
        count += mirrored
    assert abs(count - 150) < 5 * np.sqrt(300 / 4)


@pytest.mark.parametrize("pixels", [1, 2, 7])
def test_each_image_is_moved_on_its_own(images, pixels):
    moved = random_shift(images, pixels, generator())
    assert moved.shape == images.shape
    assert moved.dtype == images.dtype
    found = set()
    for image, result in zip(images.numpy(), moved.numpy(), strict=True):
        # np.pad repeats the border; a window of the image's size is cut out of that.
        padded = np.pad(image, ((0, 0), (pixels, pixels), (pixels, pixels)), mode="edge")
        windows = {
            padded[:, down : down + 6, right : right + 5].tobytes(): (down - pixels, right - pixels)
            for down in range(2 * pixels + 1)
            for right in range(2 * pixels + 1)
        }
        found.add(windows[result.tobytes()])
    if pixels <= 2:
        assert len(found) == (2 * pixels + 1) ** 2  # every direction occurs among 300 images


def test_floats_are_changed_as_levels_are(images):
    for change in (random_flip, lambda images, random: random_shift(images, 2, random)):
        assert torch.equal(change(images.float(), generator()), change(images, generator()).float())


def test_the_generator_decides(images):
    for change in (random_flip, lambda images, random: random_shift(images, 2, random)):
        before = images.clone()
        state = torch.get_rng_state()
        first = change(images, generator())
        assert torch.equal(change(images, generator()), first)
        assert not torch.equal(change(images, generator(1)), first)
        assert torch.equal(images, before)
        assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_choice_is_the_same_on_a_gpu(images):
    for change in (random_flip, lambda images, random: random_shift(images, 2, random)):
        assert torch.equal(change(images.cuda(), generator()).cpu(), change(images, generator()))
