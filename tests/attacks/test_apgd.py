import math
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from edge_images import make_images
from torch import nn

from catwalk.attacks import APGD
from catwalk.attacks.apgd import checkpoints
from catwalk.attacks.pgd import random_point
from catwalk.errors import CatwalkError
from catwalk.poisoning.attack_files import read_summary
from catwalk.poisoning.poison import poison
from catwalk.study.specifications import attack_of

every_norm = pytest.mark.parametrize(("norm", "epsilon"), [("linf", 8.0), ("l2", 60.0)])
every_loss = pytest.mark.parametrize("loss", ["ce", "dlr"])
every_aim = pytest.mark.parametrize("targeted", [True, False])


def smooth_network(num_classes=7, scale=1.0):
    """No kinks, so that float32 and float64 agree on almost every sign of the gradient."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.Softplus(),
        nn.Conv2d(8, 8, 3),
        nn.BatchNorm2d(8),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(32, num_classes),
    ).eval()
    for parameter in network[-1].parameters():
        parameter.data *= scale
    return network


def make_targets(network, images, targeted):
    """Return the second of each image's categories, to be reached, or the first, to be left."""
    with torch.no_grad():
        first, second = network(images).topk(2).indices.unbind(1)
    return second if targeted else first


class Recording(nn.Module):
    """Keeps what a network is given."""

    def __init__(self, network):
        super().__init__()
        self.network, self.inputs = network, []

    def forward(self, images):
        self.inputs.append(images.detach().clone())
        return self.network(images)


def reference_objective(z, category, loss, origin):
    """Return what is to be maximised for one image's logits, with an origin where a category is to be reached."""
    if loss == "ce":
        cross_entropy = z.logsumexp(0) - z[category]
        return cross_entropy if origin is None else -cross_entropy
    ordered = sorted(z, reverse=True)
    if origin is None:
        other = max(z[i] for i in range(len(z)) if i != category)
        return -(z[category] - other) / (ordered[0] - ordered[2])
    return -(z[origin] - z[category]) / (ordered[0] - (ordered[2] + ordered[3]) / 2)


def reference_apgd(network, clean, category, start, epsilon, norm, loss, iterations, targeted, ends=None):
    """Algorithm 1 of the paper for one image, in float64: every point, the result, and what each checkpoint did."""
    origin = None
    if targeted:
        z = network(torch.tensor(clean[None]))[0].tolist()
        origin = max((i for i in range(len(z)) if i != category), key=lambda i: z[i])

    def evaluate(x):
        variable = torch.tensor(x[None], requires_grad=True)
        z = network(variable)[0]
        f = reference_objective(z, category, loss, origin)
        f.backward()
        return f.item(), variable.grad[0].numpy(), (int(z.argmax()) == category) == targeted

    def project(x):
        if norm == "linf":
            return np.clip(np.clip(x, clean - epsilon, clean + epsilon), 0, 1)
        length = np.linalg.norm((x - clean).ravel())
        return np.clip(clean + (x - clean) * min(1, epsilon / length), 0, 1)

    def unit(g):
        return np.sign(g) if norm == "linf" else g / np.linalg.norm(g.ravel())

    shares = [0.22, 0.41, 0.57, 0.70, 0.80, 0.87, 0.93, 0.99]
    w = [0, *(ends or [math.ceil(round(share * iterations, 6)) for share in shares])]
    x, eta, points, decisions = start, 2 * epsilon, [start], []
    f, g, success = evaluate(x)
    values, visited = [f], [(success, f, x)]
    best = (f, x, g)
    best_values, etas = [f], [eta]
    x_before = x
    for k in range(iterations):
        z = project(x + eta * unit(g))
        x_next = z if k == 0 else project(x + 0.75 * (z - x) + 0.25 * (x - x_before))
        x_before, x = x, x_next
        f, g, success = evaluate(x)
        points.append(x)
        visited.append((success, f, x))
        values.append(f)
        if f > best[0]:
            best = (f, x, g)
        best_values.append(best[0])
        etas.append(eta)
        for j in range(1, len(w)):
            if k + 1 == w[j] and w[j] > w[j - 1]:
                rises = sum(values[i + 1] > values[i] for i in range(w[j - 1], w[j]))
                oscillates = rises < 0.75 * (w[j] - w[j - 1])
                stuck = etas[w[j - 1]] == eta and best_values[w[j - 1]] == best[0]
                decisions.append("oscillates" if oscillates else "stuck" if stuck else "goes on")
                if oscillates or stuck:
                    eta /= 2
                    _, x, g = best
                    values[-1] = best[0]
    result = max(visited, key=lambda visit: visit[:2])[2]
    return np.stack(points), result, decisions


@every_norm
@every_loss
@every_aim
@pytest.mark.parametrize("random_start", [True, False])
def test_equals_a_reference_step_by_step(norm, epsilon, loss, targeted, random_start):
    network, images, iterations = smooth_network(), make_images(6), 30
    targets, keys = make_targets(network, images, targeted), torch.randperm(1000)[:6]
    start = random_point(images, norm, epsilon, 11, keys).clamp(0, 1) if random_start else images
    attack = APGD(epsilon, norm, loss, iterations, random_start, targeted, seed=11)
    recording = Recording(network)
    results, count = attack.perturb(recording, images, targets, keys)
    assert count.tolist() == [iterations] * 6
    points = torch.stack(recording.inputs[-iterations - 1 :], dim=1).double().numpy()
    assert len(recording.inputs) == iterations + 1 + (targeted and loss == "dlr")
    network.double()
    decisions = set()
    for row in range(6):
        expected, result, its_decisions = reference_apgd(
            network,
            images[row].double().numpy(),
            int(targets[row]),
            start[row].double().numpy(),
            epsilon / 255,
            norm,
            loss,
            iterations,
            targeted,
        )
        decisions |= set(its_decisions)
        # A gradient within rounding of 0 may take either sign.
        assert (abs(points[row] - expected) < 1e-5).mean() > 0.99
        assert (abs(results[row].numpy() - result) < 1e-5).mean() > 0.99
    assert decisions > {"oscillates"} or norm == "linf"


class Scripted(nn.Module):
    """Two categories; how far the second leads in each call is written down, but for a slope of its own."""

    def __init__(self, leads):
        super().__init__()
        self.leads, self.calls = leads, 0
        self.slopes = 1e-3 * torch.randn(len(leads), 3, 2, 2, generator=torch.Generator().manual_seed(0))

    def forward(self, images):
        lead = self.leads[self.calls] + (self.slopes[self.calls] * images).sum((1, 2, 3))
        self.calls += 1
        return torch.stack([torch.zeros_like(lead), lead], dim=1)


DROPS, RISES, WAVERS = [-3.0], [-2.0, -1.0, 0.0, 1.0], [-2.0, -1.0, -2.0, -1.5, -2.0]


@pytest.mark.parametrize(
    ("leads", "decisions", "window"),
    [
        # A best objective that has not risen counts from the start,
        ([*DROPS, *RISES], ["stuck"], 5),
        # but not at the checkpoint after one that has halved the step.
        ([*WAVERS, *DROPS, *RISES, *DROPS, *RISES], ["oscillates", "goes on", "stuck"], 5),
        ([*DROPS, *RISES, *DROPS, *RISES, *DROPS, *RISES], ["stuck", "goes on", "stuck"], 5),
        ([3.0, 4.0, 5.0, 6.0, 7.0, *DROPS, *RISES, 8.0, 9.0, 8.0, 9.0, 10.0], ["goes on", "stuck", "goes on"], 5),
        # Three rises of four are enough, two are not,
        ([3.0, 4.0, 3.0, 5.0, 6.0, 5.0, 7.0, 6.0], ["goes on", "oscillates"], 4),
        # and the first step from the best point is a rise only if it is better.
        ([1.0, 0.0, -1.0, -3.0, -2.0, -1.0, 0.0, -1.0], ["oscillates", "oscillates"], 4),
    ],
)
def test_each_condition_halves_the_step(leads, decisions, window, monkeypatch):
    ends = list(range(window, len(leads) + 1, window))
    leads = [*leads, 0.0, 0.0]  # to see what the last checkpoint has done
    length = len(leads)
    monkeypatch.setattr("catwalk.attacks.apgd.checkpoints", lambda iterations: set(ends))
    images = torch.full((1, 3, 2, 2), 0.1)
    attack = APGD(100.0, "l2", "ce", length, random_start=False, targeted=False)
    recording = Recording(Scripted([2.0, *leads]))
    result, _ = attack.perturb(recording, images, torch.zeros(1).long(), None)
    expected, its_result, its_decisions = reference_apgd(
        Scripted([2.0, *leads]),
        images[0].double().numpy(),
        0,
        images[0].double().numpy(),
        100 / 255,
        "l2",
        "ce",
        length,
        False,
        ends,
    )
    assert its_decisions == decisions
    np.testing.assert_allclose(torch.cat(recording.inputs).numpy(), expected, atol=1e-6)
    np.testing.assert_allclose(result[0].numpy(), its_result, atol=1e-6)


def test_checkpoints():
    assert checkpoints(100) == {22, 41, 57, 70, 80, 87, 93, 99}
    assert checkpoints(10) == {3, 5, 6, 7, 8, 9, 10}
    assert checkpoints(1) == {1}


@every_norm
@pytest.mark.parametrize(("loss", "targeted"), [("ce", False), ("dlr", False), ("dlr", True)])
def test_takes_the_steps_of_torchattacks_up_to_the_first_checkpoint_and_fares_as_well(
    norm, epsilon, loss, targeted, monkeypatch
):
    torchattacks = pytest.importorskip("torchattacks")
    network, images = smooth_network(), make_images(16)
    first, second = network(images).topk(2).indices.unbind(1)
    arguments = {"norm": {"linf": "Linf", "l2": "L2"}[norm], "eps": epsilon / 255, "steps": 100}
    their_network = Recording(network)
    if targeted:
        theirs = torchattacks.APGDT(their_network, n_classes=7, **arguments)
        theirs.target_class = 2
    else:
        theirs = torchattacks.APGD(their_network, loss=loss, **arguments)
    _, _, their_objective, _ = theirs.attack_single_run(images, first)
    their_points = their_network.inputs[-101:]

    monkeypatch.setattr("catwalk.attacks.apgd.random_point", lambda *_: their_points[0])
    our_network = Recording(network)
    attack = APGD(epsilon, norm, loss, 100, targeted=targeted)
    result, _ = attack.perturb(our_network, images, second if targeted else first, None)
    our_points = our_network.inputs[-101:]
    close = (torch.stack(our_points[:23]) - torch.stack(their_points[:23])).abs() < 1e-4
    assert close.float().mean() > 0.99

    with torch.no_grad():
        logits = network(result).numpy()
    objective = [
        float(
            reference_objective(
                torch.tensor(z),
                int(second[row] if targeted else first[row]),
                loss,
                int(first[row]) if targeted else None,
            )
        )
        for row, z in enumerate(logits)
    ]
    np.testing.assert_allclose(objective, their_objective.numpy(), atol=0.002)


@every_norm
@every_loss
@every_aim
def test_result_is_the_same_for_every_batch_size_and_order(norm, epsilon, loss, targeted):
    network, images = smooth_network(), make_images(40)
    targets, keys = torch.randint(7, (40,)), torch.randperm(1000)[:40]

    def attacked(rows, batch_size=64):
        attack = APGD(epsilon, norm, loss, 12, targeted=targeted, batch_size=batch_size)
        return attack(network, images[rows], targets[rows], keys=keys[rows])

    whole = attacked(torch.arange(40))
    for batch_size in (1, 16):
        assert torch.equal(attacked(torch.arange(40), batch_size).images, whole.images)
    order = torch.randperm(40)
    assert torch.equal(attacked(order).images, whole.images[order])
    assert torch.equal(attacked(order).success, whole.success[order])
    assert torch.equal(attacked(torch.tensor([33])).images, whole.images[33:34])


@every_norm
@every_loss
@every_aim
def test_moves_towards_or_away_and_stays_in_the_ball(norm, epsilon, loss, targeted):
    network = smooth_network()
    images = (make_images(32) * 255).round() / 255
    targets = make_targets(network, images, targeted)
    attack = APGD(epsilon, norm, loss, 15, targeted=targeted)
    result = attack(network, images, targets, keys=torch.arange(32))

    def lead(images):
        """Return by how much the logit of each image's target exceeds the largest other."""
        logits = network(images).detach()
        others = logits.scatter(1, targets[:, None], -math.inf).amax(1)
        return logits.gather(1, targets[:, None])[:, 0] - others

    gain = lead(result.images) - lead(images)
    assert (gain > 0).all() if targeted else (gain < 0).all()
    assert torch.equal(result.success, (lead(result.images) > 0) == targeted)
    assert result.success.any()
    order = np.inf if norm == "linf" else 2
    for reached in (result.images, attack.threat_model.quantise(result.images, images) / 255):
        differences = (reached.double() - images.double()).flatten(1).numpy() * 255
        assert np.linalg.norm(differences, ord=order, axis=1).max() <= epsilon + 0.001


def test_keeps_a_point_that_succeeds_before_one_of_a_larger_objective():
    class Calls(nn.Module):
        """The target leads in the second call alone, and is likelier in the third, where another leads."""

        def __init__(self):
            super().__init__()
            self.calls = 0

        def forward(self, images):
            logits = torch.tensor([[0.0, 1, 0, 0], [0.2, 0, 0, 0], [8.0, 8.1, -9, -9], [0, 5.0, 0, 0]])[self.calls]
            self.calls += 1
            slope = 1e-3 * (-1) ** self.calls  # so that no two calls in a row are at the same point
            return logits + images.mean((1, 2, 3))[:, None] * torch.tensor([slope, 0, 0, 0])

    recording = Recording(Calls())
    attack = APGD(iterations=3, random_start=False)
    result, _ = attack.perturb(recording, torch.full((1, 3, 2, 2), 0.5), torch.zeros(1).long(), None)
    assert torch.equal(result, recording.inputs[1])
    assert not any(torch.equal(result, recording.inputs[call]) for call in (0, 2))


def test_dlr_sees_through_the_confidence_of_a_network():
    torch.manual_seed(0)
    images = make_images(16)
    targets = make_targets(smooth_network(), images, targeted=False)
    success = {}
    for loss in ("ce", "dlr"):
        attack = APGD(16.0, "linf", loss, 20, random_start=False, targeted=False)
        plain = attack(smooth_network(), images, targets)
        confident = attack(smooth_network(scale=10000.0), images, targets)
        success[loss] = plain.success.sum(), confident.success.sum()
    assert success["dlr"][0] == success["dlr"][1] > 0
    assert success["ce"][1] < success["ce"][0]


@pytest.mark.parametrize(("targeted", "least"), [(True, 4), (False, 3)])
def test_dlr_needs_some_categories(targeted, least):
    images, keys = make_images(2), torch.arange(2)
    targets = torch.zeros(2).long()
    attack = APGD(loss="dlr", iterations=2, targeted=targeted)
    aim = "towards" if targeted else "away from"
    with pytest.raises(
        CatwalkError, match=f"loss: dlr {aim} a category needs .* {least} categories, .* has {least - 1}; use ce"
    ):
        attack(smooth_network(least - 1), images, targets, keys=keys)
    attack(smooth_network(least), images, targets, keys=keys)
    APGD(iterations=2, targeted=targeted)(smooth_network(2), images, targets, keys=keys)


def test_an_image_that_is_there_already_is_led_on_from_the_runner_up():
    network, images = smooth_network(), make_images(16)
    targets = make_targets(network, images, targeted=False)
    result = APGD(8.0, "linf", "dlr", 20)(network, images, targets, keys=torch.arange(16))
    assert result.success.all()

    def lead(images):
        first, second = network(images).topk(2).values.unbind(1)
        return first - second

    assert (lead(result.images) > lead(images)).float().mean() > 0.9


def test_random_start_depends_on_seed_and_key_alone():
    network, images = smooth_network(), make_images(1).repeat(3, 1, 1, 1)
    targets = torch.zeros(3).long()
    recording = Recording(network)
    for seed in (0, 0, 1):
        APGD(seed=seed, iterations=1).perturb(recording, images, targets, torch.tensor([4, 9, 4]))
    first, again, other = recording.inputs[::2]
    assert torch.equal(first, again)
    assert torch.equal(first[0], first[2])
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first, other)
    with pytest.raises(ValueError, match="keys: APGD starts from a random point"):
        APGD()(network, images, targets)
    assert APGD(iterations=1, random_start=False)(network, images, targets).iterations.tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("attack", "name"),
    [
        (APGD(32.0, iterations=10), "APGD-CE (ε = 32)"),
        (APGD(600.0, "l2", "dlr", iterations=10), "APGD-DLR-L2 (ε = 600)"),
    ],
    ids=["linf", "l2"],
)
def test_poisons_a_shop(trained, tmp_path, attack, name):
    poison(trained.classifier, attack, trained.catalogue, trained.table, tmp_path, source="Sandal", target="Sneaker")
    summary = read_summary(tmp_path)
    assert (summary.attack, summary.epsilon) == (name, attack.threat_model.epsilon)
    assert summary.sr > summary.sr_clean


def test_the_configuration_is_accepted():
    settings = yaml.safe_load(Path(str(files("configs")), "attack", "apgd8.yaml").read_text())
    attack = attack_of(settings["poison"]["attack"]).instantiate()
    assert (type(attack), attack.name, attack.targeted) == (APGD, "APGD-CE (ε = 8)", True)


def test_name_and_defaults():
    attack = APGD()
    assert (attack.name, APGD(loss="dlr").name) == ("APGD-CE (ε = 8)", "APGD-DLR (ε = 8)")
    assert APGD(127.5, "l2").name == "APGD-CE-L2 (ε = 127.5)"
    assert (attack.loss, attack.iterations, attack.random_start) == ("ce", 100, True)
    assert (attack.threat_model.norm, attack.targeted, attack.batch_size, attack.seed) == ("linf", True, 64, 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epsilon": -1.0}, "epsilon: .* got -1.0"),
        ({"norm": "l1"}, "norm: must be one of linf, l2, got 'l1'"),
        ({"loss": "cw"}, "loss: must be one of ce, dlr, got 'cw'"),
        ({"iterations": 0}, "iterations: must be at least 1, got 0"),
    ],
)
def test_refuses_other_values(arguments, message):
    with pytest.raises(CatwalkError, match=message):
        APGD(**arguments)
