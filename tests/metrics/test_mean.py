import pytest
import torch

from catwalk.metrics.mean import Float64Mean, ShareMean


class Mean(Float64Mean):
    def update(self, values: torch.Tensor) -> None:
        self.add(values)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_sum_keeps_float64_when_the_model_around_it_is_cast(dtype: torch.dtype) -> None:
    model = torch.nn.ModuleDict({"layer": torch.nn.Linear(2, 2), "mean": Mean()})
    model["mean"].update(torch.tensor([1 + 2**-30], dtype=torch.float64))
    model.to(dtype)
    assert model["layer"].weight.dtype == dtype
    for _ in range(600):
        model["mean"].update(torch.ones(1))
    assert model["mean"].compute().item() == (601 + 2**-30) / 601
    model["mean"].reset()
    assert model["mean"].total.dtype == torch.float64


def test_float32_values_are_added_in_float64() -> None:
    mean = Mean()
    mean.update(torch.tensor([2.0**25, 1.0, 1.0, 1.0]))
    assert mean.total.item() == 2**25 + 3


def test_state_follows_the_device() -> None:
    mean = Mean().to("meta")
    assert mean.total.device.type == mean.count.device.type == "meta"
    mean.reset()
    assert mean.total.device.type == "meta"


def test_shares_have_one_mean_in_every_order_and_in_any_parts() -> None:
    shares = torch.rand(10_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    shares[::7] = torch.nan
    means = set()
    for seed, size in ((0, 1), (1, 64), (2, 3000)):
        mean = ShareMean()
        for part in shares[torch.randperm(10_000, generator=torch.Generator().manual_seed(seed))].split(size):
            mean.update(part)
        means.add(mean.to(torch.bfloat16).compute().item())
    assert min(means) == pytest.approx(shares.nanmean().item(), abs=1e-12)
    assert len(means) == 1
    assert ShareMean().compute().isnan()
