"""What the examples compute, against NumPy, SciPy and timm."""

import doctest
import math

import category_entropy
import numpy as np
import pytest
import scipy.stats
import torch
from category_entropy import CategoryEntropy
from conv_mixer import conv_mixer
from cutout_images import CutoutImages, cutout
from noise_training import NoiseClassifier
from uniform_noise import UniformNoise
from visual_neighbours import VisualNeighbours

from catwalk.errors import CatwalkError
from datamodules import InteractionTriplets


def test_conv_mixer_computes_what_timms_does() -> None:
    timm = pytest.importorskip("timm")
    ours = conv_mixer(width=8, depth=3, kernel_size=5, patch_size=4, num_classes=7).eval()
    theirs = timm.models.convmixer.ConvMixer(dim=8, depth=3, kernel_size=5, patch_size=4, num_classes=7).eval()
    for layer in theirs.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(layer.running_mean), torch.nn.init.uniform_(layer.running_var, 0.5, 2)
    values = theirs.state_dict().values()
    ours.load_state_dict(dict(zip(ours.state_dict(), values, strict=True)))
    images = torch.rand(2, 3, 16, 20)
    torch.testing.assert_close(ours(images), theirs(images))


def test_noise_is_uniform_and_its_items_own() -> None:
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 16 * 16, 4))
    images, keys = torch.full((40, 3, 16, 16), 0.5), torch.arange(40)
    images[0] = 0
    attack = UniformNoise(epsilon=12, seed=3)
    targets = torch.zeros(40, dtype=torch.int64)
    result = attack(network, images, targets, keys=keys)
    noise = ((result.images - images) * 255)[1:].flatten().double().numpy()
    assert scipy.stats.kstest(noise, scipy.stats.uniform(-12, 24).cdf).pvalue > 0.01
    assert ((result.images[0] == 0).double().mean() - 0.5).abs() < 0.1  # cut off at 0
    assert result.iterations.tolist() == [0] * 40
    few = UniformNoise(epsilon=12, seed=3, batch_size=3)(network, images[5:9], targets[5:9], keys=keys[5:9])
    assert torch.equal(few.images, result.images[5:9])
    with pytest.raises(CatwalkError, match="epsilon"):
        UniformNoise(epsilon=-1)


def test_noise_training_minimises_the_loss_of_noisy_images(monkeypatch: pytest.MonkeyPatch) -> None:
    images, categories = torch.rand(6, 3, 4, 4), torch.tensor([0, 1, 2, 0, 1, 2])
    model = NoiseClassifier(epsilon=30)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3))
    model.network = network
    monkeypatch.setattr(model, "log", lambda *arguments, **settings: None)
    torch.manual_seed(0)
    loss = model.training_step((images, categories), 0)
    torch.manual_seed(0)
    draws = torch.rand(images.shape).double().numpy()
    noisy = np.clip(images.double().numpy() + 30 / 255 * (2 * draws - 1), 0, 1).reshape(6, -1)
    linear = network[1]
    logits = noisy @ linear.weight.detach().double().numpy().T + linear.bias.detach().double().numpy()
    expected = (scipy.special.logsumexp(logits, axis=1) - logits[np.arange(6), categories]).mean()
    assert float(loss) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("side", [1, 4, 5, 40])
def test_cutout_hides_a_square_around_each_centre(side: int) -> None:
    images = torch.rand(200, 3, 7, 9)
    hidden = cutout(images, side, torch.Generator().manual_seed(1)).numpy()
    random = torch.Generator().manual_seed(1)
    rows, columns = (torch.randint(length, (200, 1), generator=random)[:, 0].tolist() for length in (7, 9))
    for image, clean, row, column in zip(hidden, images.numpy(), rows, columns, strict=True):
        expected = clean.copy()
        top, left = row - side // 2, column - side // 2
        expected[:, max(top, 0) : max(top + side, 0), max(left, 0) : max(left + side, 0)] = 0.5
        np.testing.assert_array_equal(image, expected)
    assert set(rows) == set(range(7))


def test_cutout_refuses_a_square_of_nothing(shop) -> None:
    with pytest.raises(CatwalkError, match="side: must be at least 1, got 0"):
        CutoutImages(shop, side=0)


def test_neighbours_score_by_mean_cosine(shop, trained, tmp_path) -> None:
    trained.table.write(tmp_path / "features", trained.catalogue)
    data = InteractionTriplets(shop, tmp_path / "features")
    data.setup("test")
    recommender = VisualNeighbours(top_k=(5,))
    users = torch.tensor([3, 0, 150])
    items, scores = recommender.recommend(users, 5, data)
    features = trained.table.features.double().numpy()
    features = features / np.linalg.norm(features, axis=1, keepdims=True)
    for user, best, its_scores in zip(users.tolist(), items.tolist(), scores.tolist(), strict=True):
        bought = data.split.items[data.split.users == user]
        cosines = np.array([np.mean([item @ features[one] for one in bought]) for item in features])
        cosines[bought] = -np.inf
        np.testing.assert_allclose(its_scores, np.sort(cosines)[::-1][:5], rtol=1e-4)
        np.testing.assert_allclose(cosines[best], its_scores, rtol=1e-4)


def test_entropy_of_categories_is_scipys() -> None:
    assert doctest.testmod(category_entropy).failed == 0
    generator = np.random.default_rng(0)
    lists = torch.from_numpy(np.stack([generator.permutation(30)[:12] for _ in range(50)]))
    lists[7, 4:] = -1
    categories = torch.from_numpy(generator.integers(5, size=30))
    expected = []
    for row in lists[:, :10].tolist():
        counts = np.bincount([int(categories[item]) for item in row if item >= 0], minlength=5)
        expected.append(scipy.stats.entropy(counts) / math.log(5))
    values = category_entropy.category_entropy(lists, categories, 5, top_k=10)
    np.testing.assert_allclose(values, expected, atol=1e-12)
    metric = CategoryEntropy(10, categories, 5)
    for part in lists.split(17):
        metric.update(part)
    assert float(metric.compute()) == pytest.approx(np.mean(expected), abs=1e-12)
