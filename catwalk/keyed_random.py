"""Random numbers that depend on a seed and a key alone, whatever the batch, the order or the device."""

import math

import numpy as np
import torch
from torch import Tensor

_GAMMA = 0x9E3779B97F4A7C15
_MULTIPLIER_1 = 0xBF58476D1CE4E5B9
_MULTIPLIER_2 = 0x94D049BB133111EB


def uniform(seed: int, keys: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Draw uniform numbers for each key without keeping a state.

    The generator is counter-based (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011): the number
    at a position is a hash of (seed, key, position). The hash is SplitMix64 (Steele, Lea and Flood, "Fast Splittable
    Pseudorandom Number Generators", OOPSLA 2014): the seed's generator is split by key, and each key's generator
    is read at the counters 1, 2, 3, ... in the row-major order of ``shape``.

    Args:
        seed: Any integer; taken modulo 2⁶⁴.
        keys: int64 ``(N,)``, any values; equal keys get equal rows.
        shape: Shape of one key's row.

    Returns:
        float32 ``(N, *shape)`` in [0, 1), multiples of 2⁻²⁴, on the device of ``keys``.

    Raises:
        ValueError: If ``keys`` is not an int64 vector.

    Example:
        >>> import torch
        >>> from catwalk.keyed_random import uniform
        >>> both = uniform(seed=0, keys=torch.tensor([7, 9]), shape=(3,))
        >>> torch.equal(both[1:], uniform(seed=0, keys=torch.tensor([9]), shape=(3,)))  # whatever the batch
        True
    """
    counters = torch.ones(shape, dtype=torch.int64, device=keys.device).flatten().cumsum(0)
    bits = _mix(_key_states(seed, keys)[:, None] + counters * _signed(_GAMMA))
    # float32 holds 24 bits exactly, so the division rounds nothing up to 1.
    return (_shift_right(bits, 40).to(torch.float32) * 2.0**-24).reshape(len(keys), *shape)


def normal(seed: int, keys: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Draw standard normal numbers for each key: the distribution's quantiles at what :func:`uniform` draws.

    Args:
        seed: Any integer; taken modulo 2⁶⁴.
        keys: int64 ``(N,)``, any values; equal keys get equal rows.
        shape: Shape of one key's row.

    Returns:
        float32 ``(N, *shape)``, at most 5.4 in size, on the device of ``keys``.

    Raises:
        ValueError: If ``keys`` is not an int64 vector.
    """
    # At the middles of the draws' 2²⁴ intervals, where the quantile function is finite.
    return math.sqrt(2) * torch.erfinv(2 * uniform(seed, keys, shape) - (1 - 2.0**-24))


def integers(seed: int, keys: Tensor, highs: Tensor) -> Tensor:
    """Draw a uniform whole number for each key: the key's first 64 bits of :func:`uniform`'s generator, reduced.

    Args:
        seed: Any integer; taken modulo 2⁶⁴.
        keys: int64 ``(N,)``, any values; equal keys get equal bits.
        highs: How many numbers each key draws from, int64 ``(N,)``, each at least 1.

    Returns:
        int64 ``(N,)`` in ``0..highs - 1``, on the device of ``keys``. No number is more probable than another by more
        than a factor of ``1 + highs / 2⁶³``.

    Raises:
        ValueError: If ``keys`` is not an int64 vector.
    """
    return _shift_right(_first_bits(seed, keys), 1) % highs


def permutation(seed: int, count: int, device: torch.device | str = "cpu") -> Tensor:
    """Return the numbers ``0..count - 1`` in random order: sorted by what the generator of each gives.

    Args:
        seed: Any integer; taken modulo 2⁶⁴.
        count: How many.
        device: Where to work; it does not show in the result.

    Returns:
        int64 ``(count,)``.
    """
    return _first_bits(seed, torch.arange(count, device=device)).argsort(stable=True)


def content_keys(images: Tensor) -> Tensor:
    """Return a key for each image that depends on nothing but its pixels, for images that have no item to name them.

    Args:
        images: float32 ``(N, 3, H, W)`` in [0, 1]; their nearest 8-bit levels count.

    Returns:
        int64 ``(N,)``; different images have, but for a chance of about 2⁻⁶⁴, different keys.
    """
    levels = (images * 255).round().to(torch.int64).flatten(1)
    counters = torch.ones_like(levels[:1]).cumsum(1)
    weights = _mix(counters * _signed(_GAMMA)) | 1
    return _mix((levels * weights).sum(dim=1))


def derived_seed(*numbers: int) -> int:
    """Return a seed for a generator that has a state, which depends on all of the numbers, each at least 0.

    Unlike their sum, it gives no two steps of neighbouring seeds the same stream. That is said of calls with as many
    numbers: a 0 at the end is as good as none.

    Raises:
        ValueError: If a number is negative.
    """
    # NumPy strings the 32-bit words of all numbers together, so that larger ones need a place of a fixed width each.
    size = max(1, *(-(-number.bit_length() // 32) for number in numbers))
    if size == 1 or min(numbers) < 0:
        sequence = np.random.SeedSequence(numbers)
    else:
        words = [number >> 32 * place & 0xFFFFFFFF for number in numbers for place in range(size)]
        sequence = np.random.SeedSequence(words, spawn_key=(size,))
    return int(sequence.generate_state(1, np.uint64)[0])


def _first_bits(seed: int, keys: Tensor) -> Tensor:
    """Return 64 random bits for each key, as int64 ``(N,)``."""
    return _mix(_key_states(seed, keys) + _signed(_GAMMA))


def _key_states(seed: int, keys: Tensor) -> Tensor:
    """Return the state at which each key's generator begins, int64 ``(N,)``."""
    if keys.dtype != torch.int64 or keys.ndim != 1:
        raise ValueError(f"keys: must be int64 of shape (N,), got {keys.dtype} of shape {tuple(keys.shape)}")
    seed_state = _mix(torch.tensor(_signed(seed + _GAMMA), device=keys.device))
    return _mix(seed_state + keys * _signed(_GAMMA))


def _mix(bits: Tensor) -> Tensor:
    """Return SplitMix64's finaliser of int64 ``bits``; products wrap around modulo 2⁶⁴."""
    bits = (bits ^ _shift_right(bits, 30)) * _signed(_MULTIPLIER_1)
    bits = (bits ^ _shift_right(bits, 27)) * _signed(_MULTIPLIER_2)
    return bits ^ _shift_right(bits, 31)


def _shift_right(bits: Tensor, count: int) -> Tensor:
    """Shift right and fill with zeros; torch's own ``>>`` repeats the sign bit, and it has no uint64 arithmetic."""
    return (bits >> count) & ((1 << (64 - count)) - 1)


def _signed(value: int) -> int:
    """Return the int64 that has the same 64 bits as ``value`` modulo 2⁶⁴."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value
