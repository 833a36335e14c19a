"""The rank attack against sums over all users by hand, and against the recommender that it knows."""

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from edge_images import make_images
from jsonargparse import ArgumentParser
from PIL import Image
from plain_descent import plain_descent, smooth_network
from pytorch_lightning import seed_everything
from torch import nn
from visual_models import parameters_of, visual_model

from catwalk.attacks import AttackContext, RankAttack
from catwalk.attacks.pgd import random_point
from catwalk.attacks.rank_attack import Surrogate
from catwalk.errors import CatwalkError
from catwalk.networks.building import build_network
from catwalk.networks.features import FeatureTable
from catwalk.poisoning.attack_files import read_summary
from catwalk.poisoning.poison import poison
from catwalk.recommenders.checkpoints import read_visual_model
from catwalk.recommenders.feature_rows import FeatureRows
from catwalk.recommenders.sensitivity import visual_sensitivity
from datamodules import InteractionTriplets
from lightning_modules import AMR, BPRMF, VBPR

every_objective = pytest.mark.parametrize("objective", ["exponential", "mean"])
every_norm = pytest.mark.parametrize(("norm", "epsilon"), [("linf", 8.0), ("l2", 60.0)])
NUM_ITEMS = 9


def make_scorer(num_users=37, num_features=32, size=1.0):
    """A recommender of users who disagree."""
    random = torch.Generator().manual_seed(3)
    shapes = (num_users, 4), (NUM_ITEMS, 4), (num_users, 3), (num_features, 3)
    return visual_model(*(size * torch.randn(shape, generator=random) for shape in shapes))


def make_attack(*scorers, **settings):
    attack = RankAttack(**settings)
    attack.scorers = list(scorers or [make_scorer()])
    return attack


def scores_by_hand(scorer, features, items):
    """Eq. 2 for every item and user, one after the other, in float64."""
    p, q, rho, e = (tensor.double() for tensor in parameters_of(scorer))
    return torch.stack(
        [
            torch.stack([p[u] @ q[i] + rho[u] @ (e.T @ f) for u in range(len(p))])
            for f, i in zip(features.double(), items, strict=True)
        ]
    )


def objective_by_hand(scorer, network, image, item, objective):
    """The sum over the users, of one image by a network in float64."""
    scores = scores_by_hand(scorer, network.features(image[None]), [item])[0]
    if objective == "mean":
        return sum(scores) / len(scores)
    return sum(score.exp() for score in scores)


def test_scores_are_equation_2():
    scorer, random = make_scorer(), np.random.default_rng(0)
    features, items = random.normal(size=(6, 32)).astype(np.float32), [4, 0, 4, 8, 1, 2]
    p, q, rho, e = (tensor.numpy().astype(np.float64) for tensor in parameters_of(scorer))
    expected = np.zeros((6, 37))
    for row, item in enumerate(items):
        for user in range(37):
            expected[row, user] = p[user] @ q[item] + rho[user] @ (e.T @ features[row])
    scores = scorer.scores_of_images(torch.from_numpy(features), torch.tensor(items))
    np.testing.assert_allclose(scores.numpy(), expected, rtol=1e-4, atol=1e-4)


@every_objective
@every_norm
@pytest.mark.parametrize("random_start", [True, False])
@pytest.mark.parametrize(("share_of_step", "iterations"), [(None, 10), (1.5, 6), (0.3, 1)])
def test_equals_a_reference_step_by_step(objective, norm, epsilon, random_start, share_of_step, iterations):
    network, images, scorer = smooth_network(), make_images(4), make_scorer(size=0.5)
    items, keys = torch.tensor([3, 0, 8, 3]), torch.randperm(1000)[:4]
    start = random_point(images, norm, epsilon, 11, keys) if random_start else images
    step = None if share_of_step is None else share_of_step * epsilon
    settings = {"norm": norm, "random_start": random_start, "seed": 11, "objective": objective}
    result = make_attack(scorer, epsilon=epsilon, step=step, iterations=iterations, **settings)(
        network, images, items, keys=keys
    )
    assert result.iterations.tolist() == [iterations] * 4
    network.double()
    for row in range(4):

        def loss(image, item=int(items[row])):
            return -objective_by_hand(scorer, network, image, item, objective)

        lengths = norm, epsilon / 255, (epsilon / 10 if step is None else step) / 255, iterations
        values, points = plain_descent(loss, images[row].double().numpy(), start[row].double().numpy(), *lengths)
        # A gradient within rounding of 0 may take either sign.
        assert (abs(result.images[row].numpy() - points[int(np.argmin(values))]) < 2e-6).mean() > 0.98
        with torch.no_grad():
            assert loss(result.images[row].double()).item() == pytest.approx(min(values), rel=1e-3)
            clean = loss(images[row].double()).item()
        assert bool(result.success[row]) == (min(values) < clean)


@every_objective
def test_a_step_goes_along_the_gradient_of_the_sum_over_the_users(objective):
    """Far from every wall, where a step is not cut short, and with L2, where it keeps the gradient's proportions."""
    network, scorer = smooth_network(), make_scorer()
    images, items = 0.3 + 0.4 * torch.rand(3, 3, 6, 6), torch.tensor([2, 7, 0])
    attack = make_attack(scorer, epsilon=60, step=30, iterations=1, norm="l2", objective=objective)
    moves = attack(network, images, items).images - images
    signs = make_attack(scorer, epsilon=8, step=8, iterations=1, objective=objective)(network, images, items).images
    network.double()
    for row in range(3):
        variable = images[row].double().requires_grad_()
        objective_by_hand(scorer, network, variable, items[row], objective).backward()
        unit = variable.grad / variable.grad.norm()
        torch.testing.assert_close(moves[row].double() * 255 / 30, unit, rtol=0, atol=1e-4)
        agree = (signs[row] - images[row]).sign() == variable.grad.sign()
        assert agree.float().mean() > 0.98
    assert not torch.equal(moves[0].sign(), moves[1].sign()), "the items have users of their own"


def test_the_objectives_want_different_things():
    network, images, items = smooth_network(), make_images(8), torch.arange(8)
    results = [make_attack(objective=name)(network, images, items).images for name in ("exponential", "mean")]
    with torch.no_grad():
        scores = [scores_by_hand(make_scorer(), network.features(images), items) for images in results]
    assert (scores[0].exp().sum(1) > scores[1].exp().sum(1)).all()
    assert (scores[0].mean(1) < scores[1].mean(1)).all()


def test_the_exponential_of_large_scores_does_not_overflow():
    network, images, items = smooth_network(), make_images(4), torch.tensor([1, 2, 5, 8])
    scorer = make_scorer(size=25.0)
    result = make_attack(scorer, epsilon=60, step=20, iterations=1, norm="l2")(network, images, items)
    network.double()
    scores = scores_by_hand(scorer, network.features(images.double()), items)
    assert scores.max() > 750, "whose exponential is more than a float64 can hold"
    for row in range(4):
        variable = images[row].double().requires_grad_()
        scores = scores_by_hand(scorer, network.features(variable[None]), items[row : row + 1])[0]
        weights = (scores - scores.max()).exp().detach()
        (weights * scores).sum().backward()
        expected = images[row].double() + 20 / 255 * variable.grad / variable.grad.norm()
        torch.testing.assert_close(result.images[row].double(), expected.clamp(0, 1), rtol=0, atol=1e-4)
    assert result.success.all()


@every_objective
@pytest.mark.parametrize("num_users", [1, 37, 203])
@pytest.mark.parametrize("settings", [{}, {"norm": "l2", "epsilon": 60.0}, {"random_start": True}])
def test_the_result_does_not_depend_on_batch_size_order_or_company(objective, num_users, settings):
    torch.manual_seed(0)
    network = build_network("catwalk.networks.compact_cnn", {"width": 4}, 5)
    for _ in range(3):
        network(torch.rand(16, 3, 9, 9))
    network.eval()
    images, items, keys = torch.rand(37, 3, 9, 9), torch.randint(NUM_ITEMS, (37,)), torch.randperm(500)[:37]
    scorer = make_scorer(num_users)

    def attacked(rows, batch_size=64):
        attack = make_attack(scorer, iterations=4, batch_size=batch_size, objective=objective, **settings)
        result = attack(network, images[rows], items[rows], keys=keys[rows])
        return [result.images, result.success, result.iterations]

    everyone = torch.arange(37)
    whole = attacked(everyone)
    assert not torch.equal(whole[0], images)
    for batch_size in (1, 7, 16, 32):
        assert all(map(torch.equal, attacked(everyone, batch_size), whole))
    for rows in (torch.randperm(37), everyone[20:], everyone[36:]):
        assert all(map(torch.equal, attacked(rows), [tensor[rows] for tensor in whole]))


@every_objective
def test_succeeds_where_the_objective_rises(objective):
    network, images, items = smooth_network(), make_images(20), torch.arange(20) % NUM_ITEMS
    high = make_attack(epsilon=255, step=10, iterations=80, objective=objective)(network, images[:10], items[:10])
    images[:10] = high.images  # from where no long step leads further up
    result = make_attack(epsilon=100, step=90, iterations=1, objective=objective)(network, images, items)
    with torch.no_grad():
        features = [network.features(points) for points in (images, result.images)]
    before, after = (scores_by_hand(make_scorer(), values, items) for values in features)
    rises = after.mean(1) > before.mean(1) if objective == "mean" else after.exp().sum(1) > before.exp().sum(1)
    assert torch.equal(result.success, rises)
    assert torch.equal(result.success, (result.images != images).flatten(1).any(1))
    assert result.success[:10].sum() < 5
    assert result.success[10:].all()


def other_scorer(size, num_users=11, seed=8):
    """A recommender of other users, with scores of another size."""
    random = torch.Generator().manual_seed(seed)
    shapes = (num_users, 4), (NUM_ITEMS, 4), (num_users, 3), (32, 3)
    return visual_model(*(size * torch.randn(shape, generator=random) for shape in shapes))


@every_objective
@every_norm
def test_nuking_equals_a_reference_step_by_step(objective, norm, epsilon):
    network, images, scorer, items = smooth_network(), make_images(3), make_scorer(size=0.5), torch.tensor([3, 0, 8])
    attack = make_attack(scorer, epsilon=epsilon, iterations=6, norm=norm, objective=objective, intent="nuke")
    result = attack(network, images, items)
    network.double()
    for row in range(3):

        def loss(image, item=int(items[row])):
            return objective_by_hand(scorer, network, image, item, objective)

        image = images[row].double().numpy()
        values, points = plain_descent(loss, image, image, norm, epsilon / 255, epsilon / 2550, 6)
        assert (abs(result.images[row].numpy() - points[int(np.argmin(values))]) < 2e-6).mean() > 0.98
        with torch.no_grad():
            assert bool(result.success[row]) == (min(values) < loss(images[row].double()).item())


def test_the_sensitivity_is_the_mean_square_of_the_gradients_of_all_users():
    scorer = make_scorer(size=0.7)
    scorer.feature_scale = 3.0
    features = torch.randn(1, 32, requires_grad=True)
    scores = scorer.scores_of_images(features, torch.tensor([4]))[0]
    squares = [torch.autograd.grad(score, features, retain_graph=True)[0].square().sum() for score in scores]
    torch.testing.assert_close(visual_sensitivity(scorer), torch.stack(squares).mean().sqrt(), rtol=1e-5, atol=0)


@every_objective
@pytest.mark.parametrize("intent", ["push", "nuke"])
def test_a_step_on_several_recommenders_goes_along_the_mean_of_their_normalised_gradients(objective, intent):
    network, scorers = smooth_network(), [make_scorer(), other_scorer(0.1), other_scorer(3.0, 5, 9)]
    images, items = 0.3 + 0.4 * torch.rand(3, 3, 6, 6), torch.tensor([2, 7, 0])
    settings = {"epsilon": 60, "step": 30, "iterations": 1, "norm": "l2", "objective": objective, "intent": intent}
    moves = make_attack(*scorers, **settings)(network, images, items).images - images
    network.double()
    for row in range(3):
        total = torch.zeros(3, 6, 6, dtype=torch.float64)
        for scorer in scorers:
            rho, e = (tensor.double() for tensor in parameters_of(scorer)[2:])
            sensitivity = (rho @ e.T).square().sum(1).mean().sqrt()
            variable = images[row].double().requires_grad_()
            value = objective_by_hand(scorer, network, variable, items[row], objective)
            value = value if objective == "mean" else value.log()
            (value / sensitivity).backward()
            total += variable.grad if intent == "push" else -variable.grad
        torch.testing.assert_close(moves[row].double() * 255 / 30, total / total.norm(), rtol=0, atol=1e-4)


def test_an_ensemble_counts_each_recommender_alike_whatever_the_size_of_its_scores():
    """By the mean objective, for which a larger projection is nothing but another unit."""
    network, images, items = smooth_network(), make_images(6), torch.arange(6)
    p, q, rho, e = parameters_of(other_scorer(1.0))
    results = [
        make_attack(make_scorer(), visual_model(p, q, rho, size * e), objective="mean", iterations=5)(
            network, images, items
        ).images
        for size in (1.0, 64.0)
    ]
    assert ((results[0] - results[1]).abs() < 1e-6).float().mean() > 0.98
    alone = make_attack(objective="mean", iterations=5)(network, images, items).images
    assert ((results[0] - alone).abs() > 1e-3).float().mean() > 0.05, "the other one has a say"


def test_refuses_one_of_several_that_does_not_look_at_images():
    p, q, rho, e = parameters_of(make_scorer())
    attack = make_attack(make_scorer(), visual_model(p, q, rho, 0 * e))
    with pytest.raises(CatwalkError, match="recommender: one of several has no score that depends on images"):
        attack(smooth_network(), make_images(1), torch.zeros(1).long())


@pytest.fixture(scope="module")
def features(trained, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("features")
    trained.table.write(folder, trained.catalogue)
    return folder


def fit(model, shop, features, make_trainer, path):
    seed_everything(0, verbose=False)
    data = InteractionTriplets(shop, features, batch_size=32)
    trainer = make_trainer(max_epochs=5)
    trainer.fit(model, data)
    trainer.save_checkpoint(path)
    return path


@pytest.fixture(scope="module")
def vbpr(shop, features, make_trainer, tmp_path_factory):
    """A VBPR that was trained on the clean features, and its checkpoint."""
    model = VBPR(
        factors=4,
        visual_factors=4,
        regularization=0.0,
        projection_regularization=0.0,
        top_k=[5],
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=0.005),
    )
    return model, fit(model, shop, features, make_trainer, tmp_path_factory.mktemp("vbpr") / "vbpr.ckpt")


@torch.no_grad()
def scores_of(model, features=None):
    """Scores by the module itself, ``(N, U)``, with its own features or with others."""
    vbpr = model.model.sharing_parameters()
    if features is not None:
        vbpr.look_at(FeatureRows(features), vbpr.feature_scale)
    return vbpr.scores(torch.arange(model.sizes["num_users"])).T


def test_the_checkpoint_gives_the_scores_of_the_recommender(trained, vbpr):
    model, path = vbpr
    assert trained.table.scale > 1.5, "dividing by it must not be forgotten, nor done twice"
    scores = read_visual_model(path).scores_of_images(trained.table.features, torch.arange(90))
    expected = scores_of(model)
    assert scores.shape == expected.shape == (90, 200)
    assert expected.std() > 0.1
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {"item_bias": True},
        {"visual_bias": True},
        {"shared_user_factors": True},
        {"item_bias": True, "visual_bias": True, "shared_user_factors": True},
    ],
)
def test_biases_and_shared_factors_are_read_too(trained, shop, features, make_trainer, tmp_path, settings):
    model = AMR(factors=4, visual_factors=4, regularization=0.001, top_k=[5], **settings)
    path = fit(model, shop, features, make_trainer, tmp_path / "amr.ckpt")
    scores = read_visual_model(path).scores_of_images(trained.table.features, torch.arange(90))
    torch.testing.assert_close(scores, scores_of(model), rtol=1e-4, atol=1e-5)
    biases = [weight for name, weight in model.named_parameters() if "bias" in name]
    assert len(biases) == len(settings) - ("shared_user_factors" in settings)
    assert all(bool((bias != 0).any()) for bias in biases)


def test_a_recommender_that_was_trained_on_poisoned_features(trained, shop, make_trainer, tmp_path):
    features = trained.table.features.clone()
    features[:10] *= 7  # beyond the clean ones' scale, by which they are divided all the same
    poisoned = trained.table.poisoned(np.arange(10), features[:10])
    poisoned.write(tmp_path, trained.catalogue)
    model = VBPR(factors=4, visual_factors=4, top_k=[5])
    path = fit(model, shop, tmp_path, make_trainer, tmp_path / "vbpr.ckpt")
    scores = read_visual_model(path).scores_of_images(
        FeatureTable.read(tmp_path, trained.catalogue).features, torch.arange(90)
    )
    torch.testing.assert_close(scores, scores_of(model), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_recommenders_own_precision_may_be_another(trained, vbpr, tmp_path, dtype):
    """As that of one trained with ``--trainer.precision=64-true``."""
    checkpoint = torch.load(vbpr[1], weights_only=True)
    weights = {name: weight.to(dtype) for name, weight in checkpoint["state_dict"].items()}
    torch.save(checkpoint | {"state_dict": weights}, tmp_path / "vbpr.ckpt")
    scorer = read_visual_model(tmp_path / "vbpr.ckpt")
    scores = scorer.scores_of_images(trained.table.features[:5], torch.arange(5))
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, scores_of(vbpr[0])[:5], rtol=0, atol=1e-5 if dtype == torch.float64 else 0.1)


@every_objective
@every_norm
def test_the_recommender_gives_the_attacked_items_higher_scores(trained, vbpr, tmp_path, objective, norm, epsilon):
    model, path = vbpr
    attack = RankAttack(epsilon, iterations=15, objective=objective, recommender=path, norm=norm)
    arguments = trained.classifier, attack, trained.catalogue, trained.table, tmp_path
    poisoned = poison(*arguments, source="Sandal", target=None)
    is_attacked = trained.table.categories == trained.table.category_names.index("Sandal")
    before, after = scores_of(model), scores_of(model, poisoned.features)
    assert np.array_equal((before != after).any(1).numpy(), is_attacked)
    (items,) = np.nonzero(is_attacked)
    rises = (after - before)[items]
    if objective == "exponential":
        assert (after[items].exp().sum(1) > before[items].exp().sum(1)).all()
        assert rises.mean() > 0
    else:
        assert (rises.mean(1) > 0).all()

    levels = np.stack([np.asarray(Image.open(trained.catalogue.folder / trained.catalogue.images[i])) for i in items])
    clean = torch.from_numpy(levels).permute(0, 3, 1, 2).float() / 255
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    noise = noise.sign() if norm == "linf" else noise / noise.flatten(1).norm(dim=1)[:, None, None, None]
    with torch.no_grad():
        features = trained.classifier.network.features((clean + epsilon / 255 * noise).clamp(0, 1))
    with_noise = poisoned.features.clone()
    with_noise[items] = features
    by_noise = (scores_of(model, with_noise) - before)[items]
    assert rises.mean() > 5 * by_noise.mean().abs(), "what is no attack does as much"

    summary = read_summary(tmp_path)
    assert (summary.attack, summary.target, summary.n_attacked) == (attack.name, None, len(items))
    assert summary.purpose == "raise the scores of Sandal"


def test_the_attack_reads_its_recommender_once_and_leaves_it_alone(vbpr, trained, tmp_path):
    _, path = vbpr
    content = path.read_bytes()
    attack = RankAttack(iterations=1, recommender=path)
    network, images = trained.classifier.network, torch.rand(2, 3, 16, 16)
    first = attack(network, images, torch.tensor([0, 5])).images
    (scorer,) = attack.scorers
    weights = [tensor.clone() for tensor in scorer.parameters()]
    assert torch.equal(attack(network, images, torch.tensor([0, 5])).images, first)
    assert attack.scorers[0] is scorer
    assert all(map(torch.equal, scorer.parameters(), weights))
    assert not any(tensor.requires_grad for tensor in scorer.parameters())
    assert path.read_bytes() == content


def test_several_checkpoints_are_as_several_models(vbpr, trained, shop, features, make_trainer, tmp_path):
    amr = fit(AMR(factors=4, visual_factors=4, top_k=[5]), shop, features, make_trainer, tmp_path / "amr.ckpt")
    by_path = RankAttack(iterations=2, recommender=[vbpr[1], amr])
    by_model = make_attack(*map(read_visual_model, (vbpr[1], amr)), iterations=2)
    arguments = trained.classifier.network, torch.rand(4, 3, 16, 16), torch.arange(4)
    assert torch.equal(by_path(*arguments).images, by_model(*arguments).images)
    assert not torch.equal(by_path(*arguments).images, RankAttack(iterations=2, recommender=vbpr[1])(*arguments).images)


@pytest.mark.parametrize("stated", ["a.ckpt", ["a.ckpt", "b.ckpt"], None])
def test_a_configuration_names_one_checkpoint_or_several_and_is_saved_as_it_was(stated):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(RankAttack, "attack")
    parsed = parser.parse_object({"attack": {"recommender": copy.copy(stated)}})
    assert yaml.safe_load(parser.dump(parsed))["attack"].get("recommender") == stated
    made = parser.instantiate_classes(parsed)["attack"]
    expected = [Path(path) for path in stated] if isinstance(stated, list) else stated and Path(stated)
    assert made.recommender == expected


def test_poisons_where_gradients_are_off(vbpr, trained, tmp_path):
    for name in ("on", "off"):
        attack = RankAttack(iterations=2, recommender=vbpr[1])
        with torch.inference_mode(name == "off"):
            arguments = trained.classifier, attack, trained.catalogue, trained.table, tmp_path / name
            poison(*arguments, source="Sandal", target=None)
    on, off = ((tmp_path / name / "features.safetensors").read_bytes() for name in ("on", "off"))
    assert on == off


def test_needs_a_recommender():
    with pytest.raises(CatwalkError, match="recommender: RankAttack needs the checkpoint of the recommender"):
        RankAttack()(smooth_network(), make_images(1), torch.zeros(1).long())
    with pytest.raises(CatwalkError, match="surrogates: name recommenders of a study; give their checkpoints as"):
        RankAttack(surrogates=["VBPR"])(smooth_network(), make_images(1), torch.zeros(1).long())


def test_refuses_other_files(trained, shop, features, vbpr, make_trainer, tmp_path):
    bpr_mf = fit(BPRMF(factors=4, top_k=[5]), shop, features, make_trainer, tmp_path / "bpr_mf.ckpt")
    (tmp_path / "damaged.ckpt").write_bytes(vbpr[1].read_bytes()[:900])
    torch.save([1, 2], tmp_path / "list.ckpt")
    checkpoint = torch.load(vbpr[1], weights_only=True)
    torch.save(
        {**checkpoint, "built_for": checkpoint["built_for"] | {"feature_scale": 0.0}}, tmp_path / "no scale.ckpt"
    )
    checkpoint["state_dict"]["model.items.weight"][3, 1] = math.nan
    torch.save(checkpoint, tmp_path / "diverged.ckpt")
    none_of_such = "is not a checkpoint of a recommender that looks at images, such as VBPR"
    for path, message in [
        (bpr_mf, f"bpr_mf.ckpt {none_of_such}"),
        (trained.checkpoint, f"classifier.ckpt {none_of_such}"),
        (tmp_path / "missing.ckpt", "missing.ckpt does not exist"),
        (tmp_path / "damaged.ckpt", "damaged.ckpt cannot be read"),
        (tmp_path / "list.ckpt", "list.ckpt holds no dictionary"),
        (tmp_path / "no scale.ckpt", f"no scale.ckpt {none_of_such}"),
        (tmp_path / "diverged.ckpt", "diverged.ckpt holds a recommender whose parameters are not finite"),
    ]:
        with pytest.raises(CatwalkError, match=message) as caught:
            RankAttack(recommender=path)(trained.classifier.network, torch.rand(1, 3, 16, 16), torch.zeros(1).long())
        assert "\n" not in str(caught.value)


def test_refuses_a_network_with_other_features(vbpr):
    attack = RankAttack(recommender=vbpr[1])
    message = "recommender: was trained on features of 64 values, and the network gives 32"
    with pytest.raises(CatwalkError, match=message):
        attack(smooth_network(), make_images(1), torch.zeros(1).long())
    with pytest.raises(CatwalkError, match=r"network: must have a method features\(images\)"):
        attack(nn.Sequential(nn.Flatten(), nn.Linear(108, 5)), make_images(1), torch.zeros(1).long())


@every_objective
def test_refuses_scores_that_overflow(objective):
    """All parameters are finite."""
    attack = make_attack(make_scorer(size=1e25), objective=objective)
    with pytest.raises(CatwalkError, match="recommender: its scores overflow on the first image; train it again"):
        attack(smooth_network(), make_images(4), torch.zeros(4).long())


@pytest.mark.parametrize("wrong", [-1, NUM_ITEMS])
def test_refuses_items_that_the_recommender_does_not_know(wrong):
    items = torch.zeros(4).long()
    items[2] = wrong
    with pytest.raises(CatwalkError, match=rf"targets: must be in 0\.\.8, .* has 9 items; got {wrong} for image 2"):
        make_attack()(smooth_network(), make_images(4), items)
    with pytest.raises(ValueError, match=r"targets: must be int64 of shape \(4,\)"):
        make_attack()(smooth_network(), make_images(4), items.float())


def make_scene(number, known=None):
    return AttackContext(
        items=torch.tensor([1, 4, 5]),
        item_ids=[str(item) for item in range(number)],
        category=2,
        category_names=["a", "b", "c"],
        features=torch.rand(number, 32),
        categories=torch.zeros(number, dtype=torch.int64),
        purchases=known,
    )


def test_aims_at_the_items_themselves():
    assert make_attack().targets_of(make_scene(NUM_ITEMS)).tolist() == [1, 4, 5]


@pytest.mark.parametrize("number", [NUM_ITEMS - 1, NUM_ITEMS + 1])
def test_refuses_a_recommender_of_another_catalogue(number):
    """Also one of more items, whose numbers all exist."""
    with pytest.raises(CatwalkError, match=f"recommender: was trained on another catalogue, of 9 items.* has {number}"):
        make_attack().targets_of(make_scene(number))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"intent": "pull"}, "intent must be one of push, nuke, got 'pull'"),
        ({"recommender": []}, "recommender: must name at least one checkpoint, got an empty list"),
        ({"recommender": Path("x"), "surrogates": ["VBPR"]}, "surrogates: are recommenders of a study.*one of the two"),
        ({"surrogates": ["VBPR@x"]}, "surrogates: each must be a name, or a name with a seed .*, got 'VBPR@x'"),
        ({"surrogates": ["@1"]}, "surrogates: each must be a name, .*, got '@1'"),
        ({"surrogates": ["VBPR@1", "VBPR@1"]}, "surrogates: each may occur once, got VBPR@1, VBPR@1"),
        ({"objective": "max"}, "objective: must be one of exponential, mean, got 'max'"),
        ({"epsilon": -1.0}, "epsilon: .* got -1.0"),
        ({"step": 0.0}, "step: .* epsilon / 10, got 0.0"),
        ({"iterations": 0}, "iterations: must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size: must be at least 1, got 0"),
    ],
)
def test_refuses_other_values(arguments, message):
    with pytest.raises(CatwalkError, match=message):
        RankAttack(**arguments)


def test_what_it_is_called_and_what_it_must_know():
    attack = RankAttack()
    assert (attack.name, attack.targeted) == ("Rank attack (ε = 8)", False)
    assert attack.knowledge == "network and recommender"
    assert attack.purpose("Sandal", None) == "raise the scores of Sandal"
    attack = RankAttack(intent="nuke", surrogates=["VBPR", "A@B@12"])
    assert attack.name == "Nuking rank attack (ε = 8)"
    assert attack.purpose("Sandal", None) == "lower the scores of Sandal"
    assert attack.surrogates == [Surrogate("VBPR", None), Surrogate("A@B", 12)]
