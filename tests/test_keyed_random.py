import itertools

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from catwalk.keyed_random import content_keys, derived_seed, integers, permutation, uniform

MASK = (1 << 64) - 1


def splitmix64(state, number):
    """The first ``number`` outputs of SplitMix64 in plain Python, as its authors publish it."""
    outputs = []
    for _ in range(number):
        state = (state + 0x9E3779B97F4A7C15) & MASK
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        outputs.append(z ^ (z >> 31))
    return outputs


def finalise(z):
    return splitmix64(z - 0x9E3779B97F4A7C15, 1)[0]


def outputs_of_key(seed, key, number):
    seed_state = splitmix64(seed, 1)[0]
    key_state = finalise((seed_state + key * 0x9E3779B97F4A7C15) & MASK)
    return splitmix64(key_state, number)


def reference(seed, key, number):
    return np.array([z >> 40 for z in outputs_of_key(seed, key, number)], dtype=np.float64) / 2**24


def test_the_reference_is_splitmix64():
    # Published outputs for the seed 1234567 (Rosetta Code, "Pseudo-random numbers/Splitmix64").
    assert splitmix64(1234567, 5) == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


@pytest.mark.parametrize("seed", [0, 1, 42, -1, 2**63 - 1, 2**64 + 5])
def test_equals_the_reference_bit_for_bit(seed):
    keys = [0, 1, 2, 7371, -1, -(2**63), 2**63 - 1]
    numbers = uniform(seed, torch.tensor(keys), (3, 5, 4))
    assert numbers.shape == (7, 3, 5, 4)
    assert numbers.dtype == torch.float32
    expected = np.stack([reference(seed, key, 60) for key in keys])
    assert np.array_equal(numbers.flatten(1).double().numpy(), expected)


def test_a_row_depends_on_its_seed_and_key_alone():
    keys = torch.randint(-(2**62), 2**62, (50,))
    whole = uniform(3, keys, (4, 6))
    order = torch.randperm(50)
    assert torch.equal(uniform(3, keys[order], (4, 6)), whole[order])
    assert torch.equal(torch.cat([uniform(3, part, (4, 6)) for part in keys.split(7)]), whole)
    assert torch.equal(uniform(3, keys[[9, 9]], (4, 6)), whole[[9, 9]])
    assert not torch.equal(uniform(4, keys, (4, 6)), whole)


def test_leaves_the_global_generator_alone():
    state = torch.get_rng_state()
    uniform(0, torch.arange(3), (5,))
    assert torch.equal(torch.get_rng_state(), state)


def correlation(a, b):
    return np.corrcoef(a.ravel(), b.ravel())[0, 1]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_moments_and_correlations(seed):
    numbers = uniform(seed, torch.arange(1000), (1000,)).double().numpy()
    count = numbers.size
    assert numbers.min() >= 0
    assert numbers.max() < 1
    # Five standard errors each: a good generator fails once in a million.
    assert abs(numbers.mean() - 1 / 2) < 5 * np.sqrt(1 / 12 / count)
    assert abs(numbers.var() - 1 / 12) < 5 * np.sqrt(1 / 180 / count)
    histogram = np.histogram(numbers, bins=256, range=(0, 1))[0]
    chi_squared = ((histogram - count / 256) ** 2 / (count / 256)).sum()
    assert abs(chi_squared - 255) < 5 * np.sqrt(2 * 255)
    for mean in (numbers.mean(axis=0), numbers.mean(axis=1)):
        assert abs(mean - 1 / 2).max() < 6 * np.sqrt(1 / 12 / 1000)
    limit = 5 / np.sqrt(count)
    assert abs(correlation(numbers[1:], numbers[:-1])) < limit, "neighbouring keys"
    assert abs(correlation(numbers[:, 1:], numbers[:, :-1])) < limit, "neighbouring positions"
    assert abs(correlation(numbers[1:, :-1], numbers[:-1, 1:])) < limit, "a key's stream is its neighbour's, shifted"
    other_seed = uniform(seed + 1, torch.arange(1000), (1000,)).double().numpy()
    assert abs(correlation(numbers, other_seed)) < limit, "neighbouring seeds"


@pytest.mark.parametrize("keys", [torch.zeros(3), torch.zeros(3, dtype=torch.int32), torch.zeros(3, 1).long()])
def test_refuses_keys_of_another_kind(keys):
    with pytest.raises(ValueError, match="keys: must be int64"):
        uniform(0, keys, (2,))


def test_takes_no_keys():
    assert uniform(0, torch.arange(0), (3, 2)).shape == (0, 3, 2)


@pytest.mark.parametrize("seed", [0, 42, -1, 2**64 - 1])
def test_integers_are_the_reference_reduced(seed):
    keys = [0, 1, 2, 7371, -1, -(2**63), 2**63 - 1]
    highs = [1, 2, 3, 7371, 10**12, 2**62, 2**63 - 1]
    drawn = integers(seed, torch.tensor(keys), torch.tensor(highs))
    assert drawn.dtype == torch.int64
    expected = [(outputs_of_key(seed, key, 1)[0] >> 1) % high for key, high in zip(keys, highs, strict=True)]
    assert drawn.tolist() == expected
    assert integers(seed, torch.tensor(keys[3:4]), torch.tensor(highs[3:4])).tolist() == expected[3:4]


@pytest.mark.parametrize("high", [2, 7, 100])
def test_integers_are_uniform_and_independent_of_their_neighbours(high):
    drawn = integers(1, torch.arange(60_000), torch.full((60_000,), high)).numpy()
    assert chisquare(np.bincount(drawn, minlength=high)).pvalue > 1e-3
    assert chisquare(np.bincount(drawn[1::2] * high + drawn[::2], minlength=high**2)).pvalue > 1e-3


@pytest.mark.parametrize("seed", [0, 7, 2**64 - 1])
def test_a_permutation_sorts_numbers_by_their_bits(seed):
    def bits(number):
        output = outputs_of_key(seed, number, 1)[0]
        return output - 2**64 if output >> 63 else output

    assert permutation(seed, 500).tolist() == sorted(range(500), key=bits)


def test_permutations_of_few_are_uniform():
    orders = [tuple(permutation(seed, 4).tolist()) for seed in range(6000)]
    assert len(set(orders)) == 24
    assert all(sorted(order) == [0, 1, 2, 3] for order in set(orders))
    assert chisquare(np.unique(orders, axis=0, return_counts=True)[1]).pvalue > 1e-3


@pytest.mark.parametrize("count", [0, 1, 2, 1000, 64_641])
def test_a_permutation_has_every_number_once(count):
    order = permutation(3, count)
    assert order.sort().values.tolist() == list(range(count))
    if count > 2:
        assert abs(correlation(order.numpy(), np.arange(count))) < 5 / np.sqrt(count)
        assert not torch.equal(order, permutation(4, count))


def test_content_keys_are_a_hash_of_the_levels():
    images = torch.randint(256, (4, 3, 5, 6), generator=torch.Generator().manual_seed(0)) / 255
    keys = content_keys(images)
    for image, key in zip(images, keys, strict=True):
        levels = (image * 255).round().flatten().tolist()
        total = 0
        for position, level in enumerate(levels, 1):
            total += int(level) * (finalise(position * 0x9E3779B97F4A7C15 & MASK) | 1)
        assert int(key) & MASK == finalise(total & MASK)


def test_content_keys_depend_on_the_pixels_alone():
    images = torch.randint(256, (300, 3, 8, 8), generator=torch.Generator().manual_seed(0)) / 255
    keys = content_keys(images)
    assert len(keys.unique()) == 300
    order = torch.randperm(300)
    assert torch.equal(content_keys(images[order]), keys[order])
    assert torch.equal(torch.cat([content_keys(image[None]) for image in images]), keys)
    changed = images.clone()
    changed[:, 1, 2, 3] = (images[:, 1, 2, 3] * 255 + 1) % 256 / 255
    assert not (content_keys(changed) == keys).any()
    assert torch.equal(content_keys(images.contiguous(memory_format=torch.channels_last)), keys)


def test_derived_seeds_do_not_meet():
    seeds = {derived_seed(seed, step, rank) for seed in range(12) for step in range(12) for rank in range(4)}
    assert len(seeds) == 12 * 12 * 4
    assert all(0 <= seed < 2**64 for seed in seeds)
    large = [0, 1, 5, 2**31, 2**32 - 1, 2**32, 2**32 + 5, 2**33, 2**63, 2**64 - 1, 2**64]
    for count in (1, 2, 3):
        combinations = list(itertools.product(large, repeat=count))
        assert len({derived_seed(*numbers) for numbers in combinations}) == len(combinations)
    assert derived_seed(1, 2) == int(np.random.SeedSequence([1, 2]).generate_state(1, np.uint64)[0])
