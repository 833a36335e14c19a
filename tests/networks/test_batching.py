import numpy as np
import pytest
import torch
from torch import nn

from catwalk.networks.batching import ROW_MULTIPLE, map_batches, padded_batches, padded_rows, size_buckets


@pytest.mark.parametrize("num_rows", [1, 2, 15, 16, 17, 63, 64, 65, 100])
@pytest.mark.parametrize("batch_size", [1, 7, 16, 30, 64])
def test_every_row_comes_once_and_in_order(num_rows, batch_size):
    batches = list(padded_batches(num_rows, batch_size))
    new = torch.cat([rows[:count] for rows, count in batches])
    assert torch.equal(new, torch.arange(num_rows))
    for rows, count in batches:
        assert len(rows) % ROW_MULTIPLE == 0
        assert len(rows) < batch_size + ROW_MULTIPLE
        assert len(rows) - count < ROW_MULTIPLE
        assert (rows[count:] == num_rows - 1).all()


def test_no_rows_give_no_batches():
    assert list(padded_batches(0, 8)) == []


def test_rows_that_run_alone_are_not_padded():
    for batch_size in (1, 64):
        batches = list(padded_batches(5, batch_size, alone=True))
        assert [(rows.tolist(), count) for rows, count in batches] == [([row], 1) for row in range(5)]


class TestSizeBuckets:
    def test_every_row_is_in_the_bucket_of_its_size(self):
        random = np.random.default_rng(0)
        sizes = [*random.integers(1, 4, size=(200, 2)).tolist(), [9, 9]]
        buckets = size_buckets(sizes)
        assert len(buckets) == len({tuple(size) for size in sizes}) == 10
        assert sorted(row for rows, _ in buckets for row in rows.tolist()) == list(range(201))
        for rows, _ in buckets:
            assert rows.dtype == np.int64
            assert (np.diff(rows) > 0).all()
            assert len({tuple(sizes[row]) for row in rows}) == 1
        assert [rows[0] for rows, _ in buckets] == sorted(rows[0] for rows, _ in buckets)

    def test_few_of_a_size_run_alone(self):
        sizes = [(2, 3)] * 15 + [(3, 2)] * 16 + [(4, 4)] + [(5, 5)] * 17
        assert [(len(rows), alone) for rows, alone in size_buckets(sizes)] == [
            (15, True),
            (16, False),
            (1, True),
            (17, False),
        ]

    @pytest.mark.parametrize("count", [1, 15, 16])
    def test_images_of_one_size_do_not(self, count):
        ((rows, alone),) = size_buckets([(4, 5)] * count)
        assert (rows.tolist(), alone) == (list(range(count)), False)


def test_map_batches_gives_the_same_bits_for_every_batch_size():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(12 * 64, 30)).eval()
    images, scales = torch.rand(53, 3, 8, 8), torch.rand(53, 1)

    @torch.no_grad()
    def scaled(images, scales):
        return network(images) * scales

    whole = map_batches(scaled, images, scales, batch_size=64)
    assert whole.shape == (53, 30)
    torch.testing.assert_close(whole, scaled(images, scales))
    for batch_size in (1, 7, 16, 32):
        assert torch.equal(map_batches(scaled, images, scales, batch_size=batch_size), whole)
    for row in (0, 30, 52):
        alone = map_batches(scaled, images[row : row + 1], scales[row : row + 1], batch_size=1)
        assert torch.equal(alone[0], whole[row])


def test_map_batches_hands_over_multiples_and_keeps_rows_together():
    seen = []

    def pair(a, b):
        seen.append(len(a))
        return torch.stack([a, b], dim=1)

    a, b = torch.arange(20), torch.arange(20) * 10
    assert torch.equal(map_batches(pair, a, b, batch_size=16), torch.stack([a, b], dim=1))
    assert seen == [16, 16]


def test_map_batches_refuses_no_rows():
    with pytest.raises(ValueError, match="at least one row"):
        map_batches(lambda rows: rows, torch.zeros(0, 2), batch_size=4)


@pytest.mark.parametrize(("size", "chosen", "expected"), [(32, [3, 20], [3] + [20] * 15), (1, [0], [0]), (5, [1], [1])])
def test_rows_that_go_on_are_padded_as_the_batch_was(size, chosen, expected):
    mask = torch.zeros(size, dtype=torch.bool)
    mask[chosen] = True
    rows, count = padded_rows(mask)
    assert rows.tolist() == expected
    assert count == len(chosen)


def test_a_full_batch_goes_on_as_it_is():
    rows, count = padded_rows(torch.ones(16, dtype=torch.bool))
    assert (rows.tolist(), count) == (list(range(16)), 16)
