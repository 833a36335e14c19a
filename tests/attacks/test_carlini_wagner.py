"""C&W against the same algorithm written image by image with torch.optim.Adam, against geometry, and against peers."""

import csv
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from catwalk.attacks import PGD, Attack, CarliniWagner
from catwalk.attacks.carlini_wagner import _Box, _Search
from catwalk.attacks.threat_model import ThreatModel, l2_levels
from catwalk.errors import CatwalkError
from catwalk.poisoning.poison import poison
from catwalk.shop.images import load_images

QUICK = {"iterations": 60, "check_every": 10, "searches": 4, "initial_c": 0.03, "learning_rate": 0.02}


def make_network(num_classes=5, seed=0):
    """A small network that tells random images apart, with an odd number of values per image."""
    torch.manual_seed(seed)
    network = nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(96, num_classes),
    )
    for _ in range(3):
        network(torch.rand(16, 3, 9, 9))
    return network.eval()


def make_images(number, seed=0):
    """Images on 8-bit levels, a third of whose values are exactly 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    levels = torch.randint(-64, 320, (number, 3, 9, 9), generator=generator).clamp(0, 255)
    return levels.to(torch.float32) / 255


def other_categories(network, images):
    """Categories that the network does not see, the nearest to the furthest in turn."""
    with torch.no_grad():
        order = network(images).argsort(1, descending=True)
    return order.gather(1, torch.arange(len(images))[:, None] % (order.shape[1] - 1) + 1)[:, 0]


def reference(network, image, category, *, targeted, confidence, initial_c, searches, iterations, rate, check_every):
    """The algorithm by the book: return the image, its distance (infinite without success) and the steps taken."""
    x, t, c = image[None], int(category), initial_c
    lower, upper, steps_taken = 0.0, math.inf, 0
    nearest, least = image, math.inf
    for _ in range(searches):
        w = torch.zeros_like(x, requires_grad=True)
        optimizer = torch.optim.Adam([w], lr=rate)
        succeeded, losses = False, []
        for step in range(iterations + 1):
            adversarial = (torch.tanh(w + torch.atanh(0.999999 * (2 * x - 1))) + 1) / 2
            z = network(adversarial)[0]
            other = max(z[j] for j in range(len(z)) if j != t)
            unwanted, wanted = (other, z[t]) if targeted else (z[t], other)
            distance = ((adversarial - x) ** 2).sum()
            loss = distance + c * torch.clamp(unwanted - wanted + confidence, min=0)
            if wanted > unwanted and wanted - unwanted >= confidence:
                succeeded = True
                if distance.item() < least:
                    nearest, least = adversarial[0].detach(), distance.item()
            losses.append(loss.item())
            if step % check_every == 0 and step >= 2 * check_every:
                before, last = losses[-2 * check_every : -check_every], losses[-check_every:]
                if not min(last) < 0.9999 * min(before):
                    break
            if step < iterations:
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                steps_taken += 1
        if succeeded:
            upper = min(upper, c)
        else:
            lower = max(lower, c)
        c = (lower + upper) / 2 if upper < math.inf else 10 * c
    return nearest, math.sqrt(least), steps_taken


@pytest.mark.parametrize(
    ("targeted", "confidence", "initial_c"),
    [(True, 0.0, 0.03), (True, 0.1, 0.3), (False, 0.0, 0.4), (False, 0.1, 0.03)],
)
def test_equals_the_algorithm_by_the_book(targeted, confidence, initial_c):
    network, images = make_network(), make_images(4)
    categories = other_categories(network, images) if targeted else network(images).argmax(1)
    settings = {**QUICK, "initial_c": initial_c}
    attack = CarliniWagner(confidence=confidence, targeted=targeted, rounded=False, **settings)
    result = attack(network, images, categories)

    network.double()
    precise, iterations = attack.perturb(network, images.double(), categories, None)
    rate = settings.pop("learning_rate")
    expected, distances, steps = zip(
        *(
            reference(network, image, category, targeted=targeted, confidence=confidence, rate=rate, **settings)
            for image, category in zip(images.double(), categories, strict=True)
        ),
        strict=True,
    )
    torch.testing.assert_close(precise, torch.stack(expected), rtol=0, atol=1e-9)
    assert iterations.tolist() == list(steps)
    assert len(set(steps)) > 1, "images stop at different times"
    assert max(steps) > 2 * 60, "and some go on"

    is_success = torch.tensor([distance < math.inf for distance in distances])
    assert is_success.any()
    assert torch.equal(result.success, is_success)
    measured = torch.linalg.vector_norm((result.images - images).flatten(1), dim=1)
    torch.testing.assert_close(measured[is_success], torch.tensor(distances)[is_success], rtol=1e-2, atol=1e-4)
    torch.testing.assert_close(result.images, torch.stack(expected).float(), rtol=0, atol=1e-2)


def test_every_c_is_judged_by_itself(monkeypatch):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 2)).eval()
    image = 0.4 + 0.2 * torch.rand(1, 3, 4, 4)
    target = network(image).argmin(1)
    with torch.no_grad():
        network[1].bias[target] -= 0.5
        lead = (network(image).max() - network(image).min()).item()
    # Before a hyperplane, the hinge outweighs the distance from this c on.
    least_c = 2 * lead / (network[1].weight[1] - network[1].weight[0]).square().sum().item()
    judged = []
    conclude = _Search.conclude
    monkeypatch.setattr(
        _Search, "conclude", lambda search, found: (judged.append((search.c / least_c, found)), conclude(search, found))
    )
    attack = CarliniWagner(initial_c=3 * least_c, searches=3, iterations=300, check_every=300, learning_rate=0.01)
    attack(network, image, target)
    # A batch has sixteen rows, all of this image.
    assert {(round(c, 6), found) for c, found in judged} == {(3.0, True), (1.5, True), (0.75, False)}


def test_c_is_searched_for_by_bisection_and_by_growth():
    search = _Search(0, 0.01)
    tried = []
    for found in (False, False, True, False, True, True):
        tried.append(search.c)
        search.conclude(found)
    assert tried == pytest.approx([0.01, 0.1, 1.0, 0.55, 0.775, 0.6625])
    assert search.c == pytest.approx((0.55 + 0.6625) / 2)
    search = _Search(0, 0.01)
    for _ in range(2):
        search.conclude(True)
    assert search.c == pytest.approx(0.0025)


def test_growth_of_c_ends_where_float32_holds_it():
    search = _Search(0, 0.01)
    for _ in range(60):
        search.conclude(False)
    assert search.c == 1e10


@pytest.mark.parametrize("initial_c", [0.01, 10.0])
def test_finds_the_nearest_point_of_a_hyperplane(initial_c):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 2)).eval()
    images = 0.4 + 0.2 * torch.rand(5, 3, 4, 4)
    with torch.no_grad():
        network[1].weight *= 3
        network[1].bias.copy_(torch.tensor([2.0, 0.0]) - network[1](network[0](images)).mean(0))
        logits = network(images)
    # The distance of a point from a hyperplane; the nearest points are inside of the box.
    normal = network[1].weight[1] - network[1].weight[0]
    expected = (logits[:, 0] - logits[:, 1]) / normal.norm()
    assert (expected > 0.5).all()
    attack = CarliniWagner(initial_c=initial_c, iterations=600, searches=8, learning_rate=0.01)
    result = attack(network, images, torch.ones(5).long())
    difference = (result.images - images).flatten(1)
    assert result.success.all()
    assert (difference.norm(dim=1) >= expected * (1 - 1e-5)).all()
    assert (difference.norm(dim=1) <= expected * 1.02).all()
    assert (nn.functional.cosine_similarity(difference, normal[None].detach()) > 0.98).all()


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_white_and_black_pixels_move(value):
    network = nn.Sequential(nn.Flatten(), nn.Linear(243, 2)).eval()
    with torch.no_grad():
        network[1].weight.copy_(torch.tensor([[-1.0], [1.0]]) * (1 - 2 * value))
        network[1].bias.copy_(-network[1].weight.sum(1) * value + torch.tensor([60.0, 0]))
    images = torch.full((3, 3, 9, 9), value)
    result = CarliniWagner(initial_c=10.0, iterations=300, searches=2, learning_rate=0.05)(
        network, images, torch.ones(3).long()
    )
    assert result.success.all()
    moved = (result.images - images).abs() * 255
    # Each of the 243 values must move by 60 / 486 on average.
    assert moved.min() > 10
    assert moved.mean() == pytest.approx(255 * 60 / 486, rel=0.05)


class MovedFromTheBorder(nn.Module):
    """Sees category 1 in images whose values are further than 2.5 levels from 0 or 1 on average."""

    def forward(self, images):
        moved = torch.where(images > 0.5, 1 - images, images).flatten(1).mean(dim=1, keepdim=True) * 255
        return torch.cat([torch.zeros_like(moved), 10 * (moved - 2.5)], dim=1)


def at_the_border(size):
    white = torch.ones(3, size, size)
    red, checks, spot = white.clone(), white.clone(), white.clone()
    red[1:] = 0
    checks[:, ::2, ::2] = 0
    spot[:, 2, 3] = 254 / 255
    return torch.stack([white, torch.zeros_like(white), red, checks, spot])


@pytest.mark.parametrize("settings", [{}, {"searches": 5, "iterations": 300, "learning_rate": 0.01}])
def test_it_finds_what_pgd_finds_where_all_values_are_at_the_border(settings):
    """With the defaults, which stop early, and with the demo's settings."""
    network, images, targets = MovedFromTheBorder(), at_the_border(9), torch.ones(5).long()
    assert PGD(epsilon=8.0)(network, images, targets, keys=torch.arange(5)).success.all()
    result = CarliniWagner(**settings)(network, images, targets)
    assert result.success.all()
    moved = (result.images - images).abs().flatten(1) * 255
    assert (moved.mean(dim=1) < 3.1).all()
    assert (moved.mean(dim=1) > 2.4).all()


@pytest.mark.parametrize(("extreme", "is_at_border"), [(0.5, False), (0.97, False), (0.985, True), (1.0, True)])
def test_only_images_at_the_border_begin_elsewhere(extreme, is_at_border):
    """All others begin at the place of the authors' code, to the bit, whatever stands beside them."""
    random = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, 20, 20, generator=random) * 0.9 + 0.05
    flat = images[0].flatten()
    count = int(extreme * len(flat))
    flat[:count] = (torch.rand(count, generator=random) < 0.5).float()
    images[0] = flat.reshape(3, 20, 20)
    box = _Box.of(ThreatModel("l2", None), images)
    assert box.at_border(images).tolist() == [is_at_border, False]
    places = box.places(images)
    share = 0.999 if is_at_border else 0.999999
    assert torch.equal(places[0], torch.atanh(share * (2 * images[0].double() - 1)).float())
    assert torch.equal(places[1], torch.atanh(0.999999 * (2 * images[1].double() - 1)).float())


def test_an_image_is_the_same_alone_in_any_company_and_for_every_batch_size():
    network, images = make_network(), make_images(100)
    targets = other_categories(network, images)
    settings = {**QUICK, "iterations": 30, "check_every": 5, "searches": 3, "learning_rate": 0.04}
    whole = CarliniWagner(batch_size=100, **settings)(network, images, targets)
    assert len(set(whole.iterations.tolist())) > 2, "images leave the batch at different times"
    assert 0 < whole.success.sum() < 100
    for row in (41, 99, int(whole.iterations.argmax()), int(whole.iterations.argmin())):
        one = slice(row, row + 1)
        alone = CarliniWagner(**settings)(network, images[one], targets[one])
        assert torch.equal(alone.images, whole.images[one])
        assert torch.equal(alone.iterations, whole.iterations[one])
    order = torch.randperm(100, generator=torch.Generator().manual_seed(3))
    result = CarliniWagner(batch_size=37, **settings)(network, images[order], targets[order])
    assert torch.equal(result.images, whole.images[order])
    assert torch.equal(result.success, whole.success[order])
    assert torch.equal(result.iterations, whole.iterations[order])


def test_failure_gives_the_clean_image():
    network, images = make_network(), make_images(5)
    with torch.no_grad():
        network[5].weight.zero_()
        network[5].bias.copy_(torch.tensor([3.0, 2, 1, 0, 2.5]))
    result = CarliniWagner(**QUICK)(network, images, torch.full((5,), 2))
    assert not result.success.any()
    assert torch.equal(result.images, images)
    # A tie is no success either.
    with torch.no_grad():
        network[5].bias.fill_(1.0)
    assert torch.equal(CarliniWagner(**QUICK)(network, images, torch.full((5,), 0)).images, images)


def test_a_network_that_breaks_down_on_the_way_is_a_failure():
    class BreaksDown(nn.Module):
        def forward(self, images):
            moved = (images - 0.5).abs().amax((1, 2, 3)) > 0.01
            logits = torch.stack([images.mean((1, 2, 3)), torch.full((len(images),), -1.0)], 1)
            return torch.where(moved[:, None], math.nan, logits)

    images = torch.full((3, 3, 9, 9), 0.5)
    images[2] += 0.5 / 255
    result = CarliniWagner(**{**QUICK, "initial_c": 10.0})(BreaksDown(), images, torch.ones(3).long())
    assert not result.success.any()
    assert torch.equal(result.images, images)


def test_stops_where_the_loss_does_not_fall():
    network, images = make_network(), torch.full((5, 3, 9, 9), 0.5)
    with torch.no_grad():
        network[5].weight.zero_()
        network[5].bias.copy_(torch.tensor([3.0, 2, 1, 0, 2.5]))
    result = CarliniWagner(**QUICK)(network, images, torch.full((5,), 2))
    # Nothing moves: each of the four searches ends at its second check.
    assert result.iterations.tolist() == [4 * 20] * 5


def test_without_checks_every_step_is_taken():
    network, images = make_network(), make_images(3)
    settings = {**QUICK, "check_every": 60}
    result = CarliniWagner(**settings)(network, images, other_categories(network, images))
    assert result.iterations.tolist() == [4 * 60] * 3
    assert CarliniWagner().check_every == 100
    assert CarliniWagner(iterations=5).check_every == 1


@pytest.mark.parametrize("targeted", [True, False])
def test_a_success_leads_by_the_confidence(targeted):
    network, images = make_network(), make_images(20)
    categories = other_categories(network, images) if targeted else network(images).argmax(1)
    lengths, successes = [], []
    for confidence in (0.0, 0.1, 0.3):
        attack = CarliniWagner(confidence=confidence, targeted=targeted, **{**QUICK, "initial_c": 1.0})
        result = attack(network, images, categories)
        with torch.no_grad():
            logits = network(result.images)
        of_category = logits.gather(1, categories[:, None])[:, 0]
        others = logits.scatter(1, categories[:, None], -math.inf).amax(1)
        lead = of_category - others if targeted else others - of_category
        assert ((lead > 0) == result.success).all()
        assert (lead[result.success] > confidence - 1e-5).all()
        lengths.append(l2_levels(result.images, images))
        successes.append(result.success)
    everywhere = torch.stack(successes).all(0)
    assert everywhere.sum() >= 4
    assert (lengths[0] < lengths[1])[everywhere].all()
    assert (lengths[1] < lengths[2])[everywhere].all()


def test_leaves_the_network_and_the_arguments_as_they_were():
    network = make_network().train()
    network[1].eval()
    network[5].weight.grad = torch.ones_like(network[5].weight)
    images = make_images(5)
    targets = torch.arange(5)
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    flags, random_state, clean = (
        [module.training for module in network.modules()],
        torch.get_rng_state(),
        images.clone(),
    )
    with torch.inference_mode():
        result = CarliniWagner(**QUICK)(network, images, targets)
    assert [module.training for module in network.modules()] == flags
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())
    assert all((parameter.grad is None) == (parameter is not network[5].weight) for parameter in network.parameters())
    assert (network[5].weight.grad == 1).all()
    assert torch.equal(torch.get_rng_state(), random_state)
    assert torch.equal(images, clean)
    assert torch.equal(result.images, CarliniWagner(**QUICK)(network.eval(), images, targets).images)


def test_attacks_a_network_of_lower_precision():
    class InBFloat16(nn.Module):
        def __init__(self, network):
            super().__init__()
            self.network = network.bfloat16()

        def forward(self, images):
            return self.network(images.bfloat16())

    images = make_images(16)
    network = InBFloat16(make_network())
    targets = other_categories(network, images)
    result = CarliniWagner(**{**QUICK, "initial_c": 1.0})(network, images, targets)
    assert result.success.float().mean() > 0.7
    assert torch.equal(result.success, network(result.images).argmax(1) == targets)


@pytest.fixture(scope="module")
def sandals(trained):
    """Images of the tiny shop with the network that has learnt them, and a target that it does not see in any."""
    names = trained.table.category_names
    items = np.flatnonzero(trained.table.categories == names.index("Sandal"))
    levels = torch.tensor(
        load_images(trained.catalogue.folder, [trained.catalogue.images[item] for item in items], None)
    )
    return trained.classifier.network.eval(), levels.float() / 255, torch.full((len(items),), names.index("Sneaker"))


SEARCH = {"searches": 3, "iterations": 100, "check_every": 50, "learning_rate": 0.02, "initial_c": 1.0}


@pytest.fixture(scope="module")
def nearest_sandals(sandals):
    return CarliniWagner(**SEARCH)(*sandals)


def test_reaches_as_many_as_foolbox_as_near(sandals, nearest_sandals):
    foolbox = pytest.importorskip("foolbox")
    network, images, targets = sandals
    peer = foolbox.attacks.L2CarliniWagnerAttack(
        binary_search_steps=3, steps=100, stepsize=0.02, initial_const=1.0, confidence=0
    )
    model = foolbox.PyTorchModel(network, bounds=(0, 1), device="cpu")
    _, theirs, success = peer(model, images, foolbox.criteria.TargetedMisclassification(targets), epsilons=None)
    result = nearest_sandals
    success &= (theirs != 0).flatten(1).any(1)  # a failure comes as a black image
    assert (result.success >= success).all()
    assert success.any()
    ours, theirs = (l2_levels(those, images)[success].mean() for those in (result.images, theirs.detach()))
    assert ours <= 1.02 * theirs


@pytest.mark.parametrize("c", [1.0, 100.0])
def test_reaches_more_than_torchattacks_and_nearer(sandals, nearest_sandals, c):
    torchattacks = pytest.importorskip("torchattacks")
    network, images, targets = sandals
    peer = torchattacks.CW(network, c=c, steps=100, lr=0.02)
    peer.set_mode_targeted_by_label(quiet=True)
    theirs = peer(images, targets).detach()
    success = network(theirs).argmax(1) == targets
    result = nearest_sandals
    assert (result.success >= success).all()
    assert success.any()
    assert l2_levels(result.images, images)[success].mean() <= l2_levels(theirs, images)[success].mean()


def test_poisons_a_catalogue(trained, sandals, nearest_sandals, tmp_path):
    attack = CarliniWagner(**SEARCH)
    poison(trained.classifier, attack, trained.catalogue, trained.table, tmp_path, source="Sandal", target="Sneaker")
    network, _, targets = sandals
    expected = nearest_sandals
    with (tmp_path / "attacked_items.csv").open() as file:
        rows = list(csv.DictReader(file))
    summary = json.loads((tmp_path / "attack.json").read_text())
    assert (summary["attack"], summary["epsilon"]) == (attack.name, None)
    assert [row["success_float"] == "True" for row in rows] == expected.success.tolist()
    assert [int(row["iterations"]) for row in rows] == expected.iterations.tolist()
    files = [np.asarray(Image.open(tmp_path / row["image"])) for row in rows]
    read_back = torch.from_numpy(np.stack(files)).permute(0, 3, 1, 2)
    # Without a budget an image is rounded to the nearest levels.
    assert torch.equal(read_back, (expected.images * 255).round().to(torch.uint8))
    success = network(read_back.float() / 255).argmax(1) == targets
    assert summary["sr"] == pytest.approx(float(success.double().mean()))
    # It was rounded inside the search already, and saving undoes nothing.
    assert 0 < summary["sr"] == summary["sr_float"] == pytest.approx(float(expected.success.double().mean()))


def test_successes_survive_8_bits_only_if_they_are_rounded_in_the_search(sandals):
    network, images, targets = sandals
    survivors = {}
    for rounded in (True, False):
        result = CarliniWagner(rounded=rounded, **SEARCH)(network, images, targets)
        levels = (result.images * 255).round() / 255
        with torch.no_grad():
            still = network(levels).argmax(1) == targets
        survivors[rounded] = float(still[result.success].float().mean())
        if rounded:
            assert torch.equal(levels, result.images)
    assert survivors[True] == 1
    assert survivors[False] < 1


def test_name_budget_and_defaults():
    attack = CarliniWagner()
    assert attack.name == "C&W (5 × 1000)"
    assert (attack.threat_model.norm, attack.threat_model.epsilon) == ("l2", None)
    assert (attack.initial_c, attack.searches, attack.iterations, attack.learning_rate) == (1e-2, 5, 1000, 5e-3)
    assert (attack.confidence, attack.targeted, attack.random_start) == (0, True, False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"confidence": -0.1}, "confidence: must be a finite number, at least 0, got -0.1"),
        ({"confidence": math.inf}, "confidence: .* got inf"),
        ({"initial_c": 0.0}, r"initial_c: must be a number above 0 and at most 1e\+10, got 0.0"),
        ({"initial_c": math.nan}, "initial_c: .* got nan"),
        ({"learning_rate": 0.0}, "learning_rate: must be a finite number above 0, got 0.0"),
        ({"learning_rate": math.nan}, "learning_rate: .* got nan"),
        ({"searches": 0}, "searches: must be at least 1, got 0"),
        ({"iterations": 0}, "iterations: must be at least 1, got 0"),
        ({"check_every": 0}, "check_every: must be at least 1, or null for a tenth of iterations, got 0"),
        ({"batch_size": 0}, "batch_size: must be at least 1, got 0"),
        ({"precision": "bf16"}, "precision: bf16 moves the border between categories"),
    ],
)
def test_refuses_other_values(arguments, message):
    with pytest.raises(CatwalkError, match=message):
        CarliniWagner(**arguments)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_is_chosen_by_class_path():
    jsonargparse = pytest.importorskip("jsonargparse")
    parser = jsonargparse.ArgumentParser()
    parser.add_subclass_arguments(Attack, "attack")
    config = {"class_path": "catwalk.attacks.CarliniWagner", "init_args": {"confidence": 5, "check_every": None}}
    attack = parser.instantiate_classes(parser.parse_object({"attack": config})).attack
    assert (type(attack), attack.confidence, attack.check_every) == (CarliniWagner, 5, 100)
