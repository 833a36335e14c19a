"""VBPR's scores, loss and gradients against NumPy in float64, and what its images are good for."""

import csv
from collections import Counter

import numpy as np
import pytest
import torch
from pytorch_lightning import seed_everything

from catwalk.importers.fashion_mnist import DEBIAN_FOLDER, fashion_mnist
from catwalk.importers.synthetic import synthetic
from catwalk.networks.classifier import load_classifier
from catwalk.networks.features import FeatureTable
from catwalk.networks.network import network_fingerprint
from catwalk.networks.prediction import predict
from catwalk.recommenders.feature_rows import FeatureRows
from catwalk.recommenders.vbpr import VBPRModel, VBPRSettings
from catwalk.shop.catalogue import Catalogue
from catwalk.shop.images import load_images
from datamodules import InteractionTriplets, ProductImages
from lightning_modules import BPRMF, VBPR, ProductClassifier

NUM_USERS, NUM_ITEMS, NUM_FEATURES = 5, 7, 6
USERS, POSITIVES, NEGATIVES = [0, 3, 3, 1, 3, 0], [2, 5, 5, 0, 2, 2], [5, 2, 1, 6, 1, 4]
"""A batch in which users and items occur several times, also on both sides."""


WITHOUT_PENALTY_ON_E = {"projection_regularization": 0.0}
"""It weighs on the images' part alone: without it, VBPR and BPR-MF differ in the images only."""


def make_model(**settings):
    """A VBPR in float64 with parameters large enough for every term to matter."""
    settings = VBPRSettings(**{"factors": 3, "visual_factors": 4} | settings)
    model = VBPRModel(NUM_USERS, NUM_ITEMS, NUM_FEATURES, settings).double()
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=random, dtype=torch.float64) / 2)
    # Multiples of 1/64, whose differences are exact in the float32 of features.
    model.look_at(FeatureRows(torch.randint(-256, 257, (NUM_ITEMS, NUM_FEATURES), generator=random) / 64), 3.0)
    return model


def plain_features(model):
    return model.features.features.double().numpy() / model.feature_scale


def loss_by_hand(p, q, rho, e, f, lam, lam_e):
    """Eq. 1 with Eq. 2, averaged over the batch, and its analytic gradients, triplet by triplet."""
    loss, gradients = 0.0, [np.zeros_like(parameter) for parameter in (p, q, rho, e)]
    grad_p, grad_q, grad_rho, grad_e = gradients
    count = len(USERS)
    for u, i, j in zip(USERS, POSITIVES, NEGATIVES, strict=True):
        x = p[u] @ q[i] + rho[u] @ (e.T @ f[i]) - p[u] @ q[j] - rho[u] @ (e.T @ f[j])
        slope = -1 / (1 + np.exp(x))  # the derivative of -ln σ(x)
        norms = sum((row**2).sum() for row in (p[u], q[i], q[j], rho[u]))
        loss += (np.log1p(np.exp(-x)) + lam * norms) / count
        grad_p[u] += (slope * (q[i] - q[j]) + 2 * lam * p[u]) / count
        grad_q[i] += (slope * p[u] + 2 * lam * q[i]) / count
        grad_q[j] += (-slope * p[u] + 2 * lam * q[j]) / count
        grad_rho[u] += (slope * e.T @ (f[i] - f[j]) + 2 * lam * rho[u]) / count
        grad_e += slope * np.outer(f[i] - f[j], rho[u]) / count
    return loss + lam_e * (e**2).sum(), [grad_p, grad_q, grad_rho, grad_e + 2 * lam_e * e]


@pytest.mark.parametrize(("lam", "lam_e"), [(0.0, 0.0), (0.3, 0.0), (0.3, 0.07)])
def test_loss_and_gradients_are_the_analytic_ones(lam, lam_e):
    model = make_model(regularization=lam, projection_regularization=lam_e)
    parameters = [model.users.weight, model.items.weight, model.visual_users.weight, model.projection]
    loss = model.loss(*(torch.tensor(rows) for rows in (USERS, POSITIVES, NEGATIVES)))
    loss.backward()
    arrays = [parameter.detach().numpy() for parameter in parameters]
    expected, gradients = loss_by_hand(*arrays, plain_features(model), lam, lam_e)
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        np.testing.assert_allclose(parameter.grad.numpy(), gradient, rtol=1e-9, atol=1e-12)


def test_the_product_of_the_vectors_is_equation_2():
    model = make_model()
    users = torch.tensor([4, 0, 4])
    scores = model.scores(users).detach().numpy()
    p, q, rho, e = (
        parameter.detach().numpy()
        for parameter in (model.users.weight, model.items.weight, model.visual_users.weight, model.projection)
    )
    f = plain_features(model)
    expected = [[p[u] @ q[i] + rho[u] @ (e.T @ f[i]) for i in range(NUM_ITEMS)] for u in (4, 0, 4)]
    np.testing.assert_allclose(scores, expected, rtol=1e-9)


def test_without_features_there_is_nothing_to_look_at():
    model = VBPRModel(NUM_USERS, NUM_ITEMS, NUM_FEATURES, VBPRSettings())
    with pytest.raises(ValueError, match="give them by look_at"):
        model.item_vectors()


def test_the_parameters_begin_small_and_depend_on_the_global_seed():
    models = []
    for seed in (0, 0, 1):
        seed_everything(seed, verbose=False)
        models.append(VBPRModel(300, 200, 100, VBPRSettings()))
    for first, again, other in zip(*(model.parameters() for model in models), strict=True):
        assert torch.equal(first, again)
        assert not torch.equal(first, other)
        assert first.abs().max() <= 0.02
        # A normal distribution that is cut off at two standard deviations has 0.880 of its own left.
        assert first.std().item() == pytest.approx(0.0088, rel=0.05)
        assert first.mean().abs() < 5e-4


def rare_items(shop, catalogue):
    """Which items have fewer than 10 purchases that no test holds out, counted in the file itself."""
    histories = {}
    with (shop / "interactions.csv").open() as file:
        for row in csv.DictReader(file):
            histories.setdefault(row["user_id"], []).append((int(row["timestamp"]), row["item_id"]))
    trained_on = Counter(
        item for history in histories.values() for _, item in (sorted(history)[:-1] if len(history) > 1 else history)
    )
    return np.array([trained_on[item] < 10 for item in catalogue.item_ids])


def compare_on_rare_items(shop, features, make_trainer, seeds, epochs, vbpr_settings):
    """Mean HR@20 and AUC of VBPR and BPR-MF, over the users whose test item has few training purchases."""
    catalogue = Catalogue.read(shop)
    rare = rare_items(shop, catalogue)
    means = {}
    for name in ("VBPR", "BPRMF"):
        values = []
        for seed in seeds:
            seed_everything(seed, verbose=False)
            model = VBPR(**vbpr_settings) if name == "VBPR" else BPRMF()
            data = InteractionTriplets(shop, features, seed=seed)
            make_trainer(max_epochs=epochs).fit(model, data)
            users, targets = data.split.test.users, data.split.test.items
            is_rare = torch.from_numpy(rare)[targets]
            items, _ = model.recommend(users[is_rare], len(catalogue))
            for ranked, target in zip(items.numpy(), targets[is_rare].numpy(), strict=True):
                rank = int(np.flatnonzero(ranked == target)[0]) + 1
                candidates = int((ranked >= 0).sum())
                values.append((rank <= 20, (candidates - rank) / (candidates - 1)))
        means[name] = np.mean(values, axis=0)
    return means, len(values) // len(seeds)


def features_of_a_trained_cnn(shop, folder, make_trainer, epochs, width, **data_settings):
    seed_everything(0, verbose=False)
    trainer = make_trainer(max_epochs=epochs)
    data = ProductImages(shop, **data_settings)
    trainer.fit(ProductClassifier("catwalk.networks.compact_cnn", {"width": width}), data)
    trainer.save_checkpoint(folder / "cnn.ckpt")
    classifier, catalogue = load_classifier(folder / "cnn.ckpt"), Catalogue.read(shop)
    predictions = predict(classifier.network, torch.tensor(load_images(shop, catalogue.images, None)))
    FeatureTable.from_predictions(
        predictions, classifier.category_names, catalogue.fingerprint, network_fingerprint(classifier.network)
    ).write(folder, catalogue)
    return folder


@pytest.mark.slow
def test_images_help_with_items_that_few_have_bought(tmp_path, make_trainer):
    synthetic(tmp_path / "shop", items=300, users=900, image_size=16, train_images=60, test_images=5)
    features = features_of_a_trained_cnn(tmp_path / "shop", tmp_path, make_trainer, epochs=8, width=8, batch_size=32)
    means, count = compare_on_rare_items(
        tmp_path / "shop", features, make_trainer, seeds=range(6), epochs=20, vbpr_settings=WITHOUT_PENALTY_ON_E
    )
    assert count > 150
    hit_rate, auc = means["VBPR"] - means["BPRMF"]
    assert hit_rate > 0.015
    assert auc > 0.03


@pytest.mark.slow
@pytest.mark.skipif(not DEBIAN_FOLDER.is_dir(), reason="Debian's package dataset-fashion-mnist is not installed")
def test_images_help_with_items_that_few_have_bought_in_real_photographs(tmp_path, make_trainer):
    fashion_mnist(tmp_path / "shop")
    features = features_of_a_trained_cnn(tmp_path / "shop", tmp_path, make_trainer, epochs=1, width=16)
    means, count = compare_on_rare_items(
        tmp_path / "shop",
        features,
        make_trainer,
        seeds=(0, 1),
        epochs=40,
        vbpr_settings=WITHOUT_PENALTY_ON_E,
    )
    assert count > 500
    hit_rate, auc = means["VBPR"] - means["BPRMF"]
    assert hit_rate > 0.015
    assert auc > 0.06
