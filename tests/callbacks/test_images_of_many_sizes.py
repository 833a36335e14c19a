"""Features of a catalogue whose images differ in size: in its order, whatever the batches and the processes."""

from pathlib import Path

import numpy as np
import pytest
import torch

from callbacks import WriteFeatures
from catwalk.networks.features import FeatureTable
from catwalk.shop.catalogue import Catalogue
from catwalk.shop.decoding import decode
from datamodules import ProductImages
from lightning_modules import ProductClassifier


@pytest.fixture(scope="module")
def written(shop_of_many_sizes: Path, trained, make_trainer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the features, written by one process."""
    folder = tmp_path_factory.mktemp("sizes")
    make_trainer(callbacks=[WriteFeatures(folder)]).predict(
        ProductClassifier("catwalk.networks.compact_cnn", {"width": 8}),
        ProductImages(shop_of_many_sizes, batch_size=32),
        ckpt_path=str(trained.checkpoint),
        return_predictions=False,
    )
    return folder


def test_each_row_is_what_the_network_makes_of_the_item(shop_of_many_sizes: Path, trained, written: Path) -> None:
    catalogue = Catalogue.read(shop_of_many_sizes)
    table = FeatureTable.read(written, catalogue)
    network = trained.classifier.network
    for item, path in enumerate(catalogue.images):
        image = torch.from_numpy(decode(shop_of_many_sizes / path)[None].astype(np.float32) / np.float32(255))
        with torch.no_grad():
            features, shares = network.features(image)[0], network(image)[0].softmax(dim=0)
        torch.testing.assert_close(table.features[item], features, rtol=1e-5, atol=1e-5)
        assert table.categories[item] == shares.argmax()
        assert table.probabilities[item] == pytest.approx(shares.max().item(), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("devices", "batch_size"), [(1, 5), (2, 32), (3, 7)])
def test_batches_and_processes_do_not_show(
    forked, shop_of_many_sizes: Path, trained, written: Path, tmp_path: Path, devices: int, batch_size: int
) -> None:
    script = Path(__file__).with_name("predict_in_sizes.py")
    arguments = shop_of_many_sizes, trained.checkpoint, batch_size, tmp_path
    forked.check(script, tmp_path, *arguments, processes=devices)
    for file in ("features.safetensors", "predictions.csv"):
        assert (tmp_path / file).read_bytes() == (written / file).read_bytes()
