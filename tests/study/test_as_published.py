"""The protocol ``as_published`` on a shop of fifteen items, against a re-computation in NumPy of what that code does.

Two networks are fixed matrices. NumPy chooses the items, perturbs, saves, reads back, mixes and divides the features,
divides the purchases, trains VBPR and AMR step by step with gradients written out, and counts. It shares with the
project the initial parameters, which are drawn, and the triplets, whose negatives nobody could draw again.
"""

import csv
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from PIL import Image
from pytorch_lightning import Callback
from torch import nn

from callbacks import CategoryHitRatio
from catwalk.attacks import FGSM
from catwalk.networks.classifier import Classifier
from catwalk.networks.features import FeatureTable
from catwalk.networks.network import IMAGENET_MEAN, IMAGENET_STD, Network, network_fingerprint
from catwalk.networks.prediction import predict
from catwalk.poisoning.mixed_features import mix_features
from catwalk.poisoning.poison import items_to_attack, poison
from catwalk.poisoning.protocol import AS_PUBLISHED
from catwalk.shop.catalogue import Catalogue
from catwalk.shop.decoding import decode
from catwalk.study import Grid, Training
from catwalk.study.shop import Shop
from catwalk.study.trainings import RecommenderTraining

NAMES = ("sandal", "running shoe", "jersey")
SOURCE, TARGET = 0, 1
ITEMS, USERS, WIDTH, EPSILON, TOP_K = 15, 9, 7, 8, 4
PIXELS = 3 * 4 * 4
FACTORS, BATCH, EPOCHS = 5, 8, 6


@dataclass(frozen=True)
class Matrices:
    """A network as two matrices: ``features = max(0, pixels @ body)``, ``logits = features @ head``."""

    body: np.ndarray
    head: np.ndarray

    @classmethod
    def drawn(cls, seed, size):
        drawn = np.random.default_rng(seed)
        body, head = drawn.normal(0, size, (PIXELS, WIDTH)), drawn.normal(0, 1, (WIDTH, len(NAMES)))
        return cls(body.astype(np.float32).astype(float), head.astype(np.float32).astype(float))

    def normalised(self, levels):
        return (levels / 255 - MEAN) / STD

    def features(self, levels):
        return np.maximum(0, self.normalised(levels).reshape(-1, PIXELS) @ self.body)

    def classes(self, levels):
        return (self.features(levels) @ self.head).argmax(axis=1)

    def network(self):
        body, head = nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, WIDTH, bias=False), nn.ReLU()), None
        head = nn.Linear(WIDTH, len(NAMES), bias=False)
        body[1].weight.data = torch.tensor(self.body.T, dtype=torch.float32)
        head.weight.data = torch.tensor(self.head.T, dtype=torch.float32)
        return Network(body, head, IMAGENET_MEAN, IMAGENET_STD).eval()


MEAN = np.array(IMAGENET_MEAN, dtype=np.float32).astype(float).reshape(1, 3, 1, 1)
STD = np.array(IMAGENET_STD, dtype=np.float32).astype(float).reshape(1, 3, 1, 1)
UNDEFENDED, DEFENDED = Matrices.drawn(5, 0.3), Matrices.drawn(8, 0.05)


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """Return the shop's folder and its images' levels, ``(N, 3, 4, 4)``; some items are bought last by users alone."""
    folder = tmp_path_factory.mktemp("miniature") / "shop"
    (folder / "images").mkdir(parents=True)
    drawn = np.random.default_rng(0)
    levels = drawn.integers(20, 236, (ITEMS, 3, 4, 4))
    with (folder / "items.csv").open("w") as file:
        file.write("item_id,image,category\n")
        for item in range(ITEMS):
            Image.fromarray(levels[item].transpose(1, 2, 0).astype(np.uint8)).save(folder / f"images/{item}.png")
            file.write(f"{item},images/{item}.png,{'sandal' if item % 2 else 'jersey'}\n")
    rows = []
    for user in range(USERS):
        bought = drawn.permutation(ITEMS - 1)[: 4 + user % 3].tolist()
        # Nobody has the last item but as what is held out: three users.
        rows += [(user, item) for item in bought] + [(user, ITEMS - 1)] * (user in (2, 5, 7))
    rows.append((99, 3))  # a single purchase
    order = drawn.permutation(len(rows))
    last = [place for place in order if rows[place][1] == ITEMS - 1]
    order = [place for place in order if place not in last] + last
    with (folder / "interactions.csv").open("w") as file:
        file.write("user_id,item_id,timestamp\n")
        # Times say the opposite of the file's order, and count for nothing.
        file.writelines(f"{rows[row][0]},{rows[row][1]},{1000 - place}\n" for place, row in enumerate(order))
    return folder, levels


@pytest.fixture(scope="module")
def protocol_run(shop, tmp_path_factory):
    """Attack the defended network as published, and return the mixed features, as files, and the attack's folder."""
    folder, levels = shop
    catalogue, out = Catalogue.read(folder), tmp_path_factory.mktemp("attack")
    tables = {}
    for name, matrices in (("undefended", UNDEFENDED), ("defended", DEFENDED)):
        network = matrices.network()
        predictions = predict(network, torch.tensor(levels, dtype=torch.uint8))
        tables[name] = FeatureTable.from_predictions(
            predictions, NAMES, catalogue.fingerprint, network_fingerprint(network)
        )
    poisoned = poison(
        Classifier(DEFENDED.network(), NAMES, (4, 4)),
        FGSM(epsilon=EPSILON),
        catalogue,
        tables["defended"],
        out,
        source=NAMES[SOURCE],
        target=NAMES[TARGET],
        protocol=AS_PUBLISHED,
        undefended=tables["undefended"],
    )
    mixed = mix_features(
        catalogue,
        background=tables["undefended"],
        rows=poisoned,
        items=items_to_attack(
            tables["defended"], catalogue, NAMES[SOURCE], AS_PUBLISHED.source_items, tables["undefended"]
        ),
        categories=tables["defended"],
        scale=AS_PUBLISHED.feature_scale,
    )
    mixed.write(out / "mixed", catalogue)
    return out, FeatureTable.read(out / "mixed", catalogue)


def numpy_attack(levels):
    """Return the attacked items, and the levels of their images as they are saved."""
    items = np.flatnonzero(UNDEFENDED.classes(levels) == SOURCE)
    clean = DEFENDED.normalised(levels[items])
    hidden = clean.reshape(-1, PIXELS) @ DEFENDED.body
    logits = np.maximum(0, hidden) @ DEFENDED.head
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    shares[:, TARGET] -= 1  # of cross-entropy
    gradient = ((shares @ DEFENDED.head.T) * (hidden > 0)) @ DEFENDED.body.T
    moved = clean - EPSILON / 255 * np.sign(gradient).reshape(clean.shape)  # after normalisation, and not clipped
    return items, np.floor((moved * STD + MEAN) * 255)


def numpy_features(levels):
    """Return the mixed matrix, divided by its own largest value."""
    items, attacked = numpy_attack(levels)
    matrix = UNDEFENDED.features(levels)
    matrix[items] = DEFENDED.features(attacked)
    return matrix / np.abs(matrix).max()


def test_the_images_are_those_of_the_published_code(shop, protocol_run):
    levels = shop[1]
    items, attacked = numpy_attack(levels)
    assert 2 <= len(items) < ITEMS
    assert set(items) != set(np.flatnonzero(DEFENDED.classes(levels) == SOURCE))
    with (protocol_run[0] / "attacked_items.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["item_id"]) for row in rows] == items.tolist()
    for row, expected in zip(rows, attacked, strict=True):
        assert np.array_equal(decode(protocol_run[0] / row["image"]), expected)
        assert row["success"] == str(DEFENDED.classes(expected[None])[0] == TARGET)
    # ε = 8 is about 1.8 levels: one more, or, where the fraction is cut off, two less.
    assert set(np.unique(attacked - levels[items])) == {-2, 1}


def test_the_features_are_mixed_and_divided_by_their_own_largest(shop, protocol_run):
    _, levels = shop
    mixed = protocol_run[1]
    np.testing.assert_allclose(
        mixed.features.double().numpy() / mixed.scale, numpy_features(levels), rtol=2e-5, atol=1e-6
    )
    assert np.array_equal(mixed.categories, DEFENDED.classes(levels))
    assert mixed.category_names == NAMES


def numpy_split(folder):
    """Return users' training items and the test items, by user."""
    with (folder / "interactions.csv").open() as file:
        rows = [(row["user_id"], int(row["item_id"])) for row in csv.DictReader(file)]
    train = {}
    for user, item in rows:
        train.setdefault(user, []).append(item)
    test = {user: items.pop() for user, items in train.items() if len(items) > 1}
    for item in sorted(set(test.values()) - {item for items in train.values() for item in items}):
        moved = next(user for user, its in rows if its == item)
        train[moved].append(item)
        test = {user: its for user, its in test.items() if its != item}
    return train, test


class Recorder(Callback):
    """Keeps the parameters with which a training begins, and its triplets."""

    def __init__(self):
        self.batches = []

    def on_train_start(self, trainer, pl_module):
        self.begin = {name: weight.double().numpy().copy() for name, weight in pl_module.model.state_dict().items()}

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.batches.append([column.numpy().copy() for column in batch])


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


class Adagrad:
    """One accumulator for each parameter, which begins at 0.1."""

    def __init__(self, parameters):
        self.sums = {name: np.full_like(value, 0.1) for name, value in parameters.items()}

    def step(self, parameters, gradients):
        for name, rate in (("P", 0.01), ("Q", 1e-4), ("E", 1e-3)):
            self.sums[name] += gradients[name] ** 2
            parameters[name] -= rate * gradients[name] / np.sqrt(self.sums[name])


def add_pairwise(gradients, parameters, users, positives, negatives, f_i, f_j, weight):
    """Add weight × the gradient of Σ softplus(-(s_ui - s_uj)), ``s = P_u · (Q_i + E f_i)``; return the slopes."""
    p, q, e = parameters["P"], parameters["Q"], parameters["E"]
    v_i, v_j = q[positives] + f_i @ e, q[negatives] + f_j @ e
    slope = -weight * sigmoid(-((p[users] * (v_i - v_j)).sum(axis=1)))[:, None]
    np.add.at(gradients["P"], users, slope * (v_i - v_j))
    np.add.at(gradients["Q"], positives, slope * p[users])
    np.add.at(gradients["Q"], negatives, -slope * p[users])
    gradients["E"] += (f_i - f_j).T @ (slope * p[users])
    return slope


def numpy_training(parameters, batches, features, adversary):
    """Train in place: losses and a linear regulariser added up, and, for AMR, items moved by 1 along the gradient."""
    optimizer = Adagrad(parameters)
    for users, positives, negatives in batches:
        p, e = parameters["P"], parameters["E"]
        f_i, f_j = features[positives], features[negatives]
        gradients = {name: np.zeros_like(value) for name, value in parameters.items()}
        slope = add_pairwise(gradients, parameters, users, positives, negatives, f_i, f_j, 1.0)
        if adversary:
            of_features = np.zeros_like(features)
            np.add.at(of_features, positives, slope * p[users] @ e.T)
            np.add.at(of_features, negatives, -slope * p[users] @ e.T)
            moves = of_features / np.sqrt(np.maximum((of_features**2).sum(axis=1, keepdims=True), 1e-12))
            add_pairwise(
                gradients,
                parameters,
                users,
                positives,
                negatives,
                f_i + 1.0 * moves[positives],
                f_j + 1.0 * moves[negatives],
                0.1,
            )
        # l1·ΣP_u + l2·(Σ(Q_i + E f_i) + Σ(Q_j + E f_j)) + l3·ΣE
        np.add.at(gradients["P"], users, 0.1)
        for items in (positives, negatives):
            np.add.at(gradients["Q"], items, 0.001)
            gradients["E"] += 0.001 * features[items].sum(axis=0)[:, None]
        optimizer.step(parameters, gradients)


@pytest.fixture(scope="module")
def trained(shop, protocol_run, make_trainer, tmp_path_factory):
    """Train VBPR, half of it, and from there AMR, as a study under the protocol does; return what each did."""
    model = {"init_args": {"factors": FACTORS}}
    settings = {"data": {"batch_size": BATCH}}
    grid = Grid(
        dataset=shop[0],
        source=NAMES[SOURCE],
        target=NAMES[TARGET],
        extractors={"T": Training({})},
        attacks=[],
        recommenders={
            "VBPR": Training(
                model | {"class_path": "lightning_modules.VBPR"}, **settings, trainer={"max_epochs": EPOCHS}
            ),
            "AMR": Training(
                model | {"class_path": "lightning_modules.AMR"},
                **settings,
                trainer={"max_epochs": EPOCHS // 2},
                warm_start="VBPR",
            ),
        },
        seeds=[0],
        top_k=TOP_K,
    )
    trainings = {}
    for name in grid.recommenders:
        trainings[name] = RecommenderTraining.of(grid, Shop.read(shop[0]), name, trainings, AS_PUBLISHED)
    half_way = trainings["AMR"].start
    assert half_way is not None
    outcomes, checkpoint = {}, tmp_path_factory.mktemp("half") / "recommender.ckpt"
    for training in (trainings["VBPR"], half_way, trainings["AMR"]):
        torch.manual_seed(3)
        recorder, counter = Recorder(), CategoryHitRatio([TOP_K], ncdcg_ideal=AS_PUBLISHED.ncdcg_ideal)
        counter.categories_by = AS_PUBLISHED.categories_by
        trainer = make_trainer(max_epochs=training.trainer["max_epochs"], callbacks=[recorder, counter])
        recommender = training.model.instantiate()
        if training is trainings["AMR"]:
            recommender.warm_start = checkpoint
        data = training.data_on(protocol_run[0] / "mixed", 0).instantiate()
        trainer.fit(recommender, data)
        if training is half_way:
            trainer.save_checkpoint(checkpoint)
        values = trainer.test(recommender, data, verbose=False)[0]
        outcomes[training.name] = (recorder, recommender, values, data)
    return outcomes


KEYS = {"P": "users.weight", "Q": "items.weight", "E": "projection"}


def parameters_of(state):
    return {name: state[key] for name, key in KEYS.items()}


@pytest.fixture(scope="module")
def expected(shop, trained):
    """Return NumPy's parameters of VBPR and AMR, from the parameters that were drawn and the triplets alone."""
    features = numpy_features(shop[1])
    found = {}
    for name, adversary, begin in (("VBPR", False, None), ("VBPR half-way", False, None), ("AMR", True, "half")):
        recorder = trained[name][0]
        start = parameters_of(recorder.begin) if begin is None else found["VBPR half-way"]
        found[name] = {key: value.copy() for key, value in start.items()}
        numpy_training(found[name], recorder.batches, features, adversary)
    return found


def test_purchases_and_batches_are_those_of_the_published_code(shop, trained):
    train, test = numpy_split(shop[0])
    data = trained["VBPR"][3]
    ids = data.split.user_ids
    ours = {user: set() for user in ids}
    for user, item in zip(data.split.users, data.split.items, strict=True):
        ours[ids[user]].add(int(item))
    assert ours == {user: set(items) for user, items in train.items()}
    held_out = data.split.test
    of_test = {ids[user]: item for user, item in zip(held_out.users.tolist(), held_out.items.tolist(), strict=True)}
    assert of_test == test
    assert len(test) == USERS - 3  # one purchase of the last item is trained on, and two are dropped
    count = sum(map(len, train.values()))
    assert count % BATCH
    for name, epochs in (("VBPR", EPOCHS), ("VBPR half-way", EPOCHS // 2), ("AMR", EPOCHS // 2)):
        batches = trained[name][0].batches
        assert [len(users) for users, _, _ in batches] == [BATCH] * (count // BATCH * epochs)
        bought = {item for items in train.values() for item in items}
        for users, positives, negatives in batches:
            for user, positive, negative in zip(users, positives, negatives, strict=True):
                assert positive in train[ids[user]]
                assert negative in bought - set(train[ids[user]])


@pytest.mark.parametrize("name", ["VBPR", "VBPR half-way", "AMR"])
def test_parameters_are_those_of_the_published_code(trained, expected, name):
    recorder, recommender, _, _ = trained[name]
    found = parameters_of({key: weight.double().numpy() for key, weight in recommender.model.state_dict().items()})
    begin = parameters_of(recorder.begin)
    for key, value in expected[name].items():
        change = np.abs(value - begin[key]).max()
        # float32 against float64: a thousandth of what training has changed.
        np.testing.assert_allclose(found[key], value, atol=1e-3 * change, rtol=0)
        assert change > 1e-5


def test_amr_begins_with_vbpr_half_way(trained):
    half = trained["VBPR half-way"][1].model.state_dict()
    for key, weight in trained["AMR"][0].begin.items():
        assert np.array_equal(weight, half[key].double().numpy())


@pytest.mark.parametrize("name", ["VBPR", "AMR"])
def test_chr_counts_what_the_attacked_network_sees(shop, trained, expected, name):
    folder, levels = shop
    parameters, features = expected[name], numpy_features(levels)
    train, _ = numpy_split(folder)
    scores = parameters["P"] @ (parameters["Q"] + features @ parameters["E"]).T
    classes = DEFENDED.classes(levels)
    hits, gains, ids = np.zeros(3), np.zeros(3), trained[name][3].split.user_ids
    for user, row in zip(ids, scores, strict=True):
        row = np.where(np.isin(np.arange(ITEMS), train[user]), -np.inf, row)
        best = np.argsort(-row, kind="stable")[:TOP_K]
        assert np.diff(np.sort(row[np.isfinite(row)])).min() > 1e-7  # float32 ranks alike
        for category in range(3):
            discounts = 1 / np.log2(np.arange(TOP_K) + 2)
            hits[category] += (classes[best] == category).sum()
            ideal = discounts[: min((classes == category).sum(), TOP_K)].sum()  # what is bought counts as well
            gains[category] += discounts[classes[best] == category].sum() / ideal
    values = trained[name][2]
    for category, label in enumerate(NAMES):
        assert values[f"test/chr@{TOP_K}/{label}"] == pytest.approx(hits[category] / len(ids))
        assert values[f"test/ncdcg@{TOP_K}/{label}"] == pytest.approx(gains[category] / len(ids))
