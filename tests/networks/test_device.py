"""What is said of devices before they compute."""

import warnings

import pytest
import torch
from small_networks import quiet_trainer, small_classifier, small_images

from catwalk.attacks import FGSM
from catwalk.networks import device as module
from catwalk.networks.building import build_network
from catwalk.networks.device import slow_in_bfloat16

CPU = torch.device("cpu")
WITHOUT = "processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: fpu sse4_2 avx2 avx512f\n"
WITH = [
    WITHOUT.replace("avx512f", "avx512f avx512_bf16"),
    WITHOUT.replace("avx2", "avx2 amx_tile amx_bf16"),
    "processor\t: 0\nFeatures\t: fp asimd i8mm bf16\n",
    "processor\t: 0\n",  # nobody says what it can do
]


@pytest.fixture
def processor(tmp_path, monkeypatch):
    """Return a function that lets the processor be another one."""

    def be(text):
        path = tmp_path / "cpuinfo"
        path.write_text(text)
        monkeypatch.setattr(module, "CPUINFO", path)

    return be


def test_who_is_slow_in_bfloat16(processor, tmp_path, monkeypatch):
    processor(WITHOUT)
    assert "AMX" in slow_in_bfloat16(CPU)
    assert slow_in_bfloat16(torch.device("cuda", 0)) is None
    for text in WITH:
        processor(text)
        assert slow_in_bfloat16(CPU) is None
    monkeypatch.setattr(module, "CPUINFO", tmp_path / "none")
    assert slow_in_bfloat16(CPU) is None


def test_an_attack_says_so(processor):
    network = build_network("catwalk.networks.compact_cnn", {"width": 4}, num_classes=3)
    images, targets = torch.rand(1, 3, 16, 16), torch.zeros(1, dtype=torch.int64)
    processor(WITHOUT)
    with pytest.warns(UserWarning, match=r"FGSM.precision: this processor has no .*; leave it at 32"):
        FGSM(precision="bf16")(network, images, targets)
    processor(WITH[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        FGSM(precision="bf16")(network, images, targets)


def test_a_training_says_so(processor, shop):
    processor(WITHOUT)
    trainer = quiet_trainer(precision="bf16-mixed", max_steps=1, limit_val_batches=0)
    with pytest.warns(UserWarning, match=r"trainer.precision: this processor has no .*; leave it at 32-true"):
        trainer.fit(small_classifier(), small_images(shop))
