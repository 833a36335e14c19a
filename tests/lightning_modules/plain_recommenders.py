"""The recommenders' losses written out plainly, adversarial ones in two passes as published, and optimizers by hand."""

import numpy as np
import torch
import torch.nn.functional as F


def unit(rows):
    return F.normalize(rows, dim=1, eps=1e-30)


def plain_loss(weights, features, batch, settings):
    """The loss of a batch from named float64 parameters, term by term; adversaries by a second pass through the scores.

    Args:
        weights: Parameters by name, as in a state dict.
        features: ``(N, D)``, or None for a recommender without images.
        batch: Users, items bought, items not bought.
        settings: The recommender's arguments.
    """
    users, positives, negatives = batch
    e = weights.get("projection")
    w = settings.get("adversarial_weight", 0.0)
    epsilon = settings.get("epsilon")
    per_item = settings.get("perturbation") == "per_item"
    total = sum if settings.get("reduction") == "sum" else (lambda values: sum(values) / len(users))

    def score(p, rho, q, f, item):
        value = p @ q
        if "item_biases.weight" in weights:
            value = value + weights["item_biases.weight"][item, 0]
        if f is not None:
            value = value + rho @ (e.T @ f)
            if "visual_bias" in weights:
                value = value + weights["visual_bias"][:, 0] @ f
        return value

    def losses(p_rows, q_i_rows, q_j_rows, f_i_rows, f_j_rows):
        values = []
        for t in range(len(users)):
            rho = p_rows[t] if "visual_users.weight" not in weights else weights["visual_users.weight"][users[t]]
            f_i, f_j = (None, None) if features is None else (f_i_rows[t], f_j_rows[t])
            x = score(p_rows[t], rho, q_i_rows[t], f_i, positives[t]) - score(
                p_rows[t], rho, q_j_rows[t], f_j, negatives[t]
            )
            values.append(torch.log1p(torch.exp(-x)))
        return values

    def rows_of(table, items):
        return None if table is None else table[items]

    def all_rows(p, q, f):
        return p[users], q[positives], q[negatives], rows_of(f, positives), rows_of(f, negatives)

    p, q = weights["users.weight"], weights["items.weight"]
    loss = total(losses(*all_rows(p, q, features)))
    if w:
        # The first pass: gradients with respect to what the adversary moves, whole tables or a copy for each triplet.
        if per_item:
            moved = [features] if features is not None else [p, q]
            moved = [table.detach().clone().requires_grad_() for table in moved]
            rows = all_rows(p, q, moved[0]) if features is not None else all_rows(*moved, None)
            deltas = torch.autograd.grad(sum(losses(*rows)), moved)
            deltas = [epsilon * unit(delta) for delta in deltas]
            # The second pass, with the perturbations held constant.
            moved_rows = (
                all_rows(p, q, features + deltas[0])
                if features is not None
                else all_rows(p + deltas[0], q + deltas[1], None)
            )
        else:
            rows = list(all_rows(p, q, features))
            places = [3, 4] if features is not None else [0, 1, 2]
            leaves = [rows[place].detach().clone().requires_grad_() for place in places]
            first = list(rows)
            for place, leaf in zip(places, leaves, strict=True):
                first[place] = leaf
            deltas = torch.autograd.grad(sum(losses(*first)), leaves)
            moved_rows = list(rows)
            for place, delta in zip(places, deltas, strict=True):
                moved_rows[place] = rows[place] + epsilon * unit(delta)
        loss = loss + w * total(losses(*moved_rows))

    power = 1 if settings.get("regularizer") == "linear" else 2
    of_users = settings["regularization"]
    of_items = settings.get("item_regularization")
    of_items = of_users if of_items is None else of_items
    penalties = []
    for u, i, j in zip(users, positives, negatives, strict=True):
        value = of_users * (p[u] ** power).sum()
        if "visual_users.weight" in weights:
            value = value + of_users * (weights["visual_users.weight"][u] ** power).sum()
        for item in (i, j):
            value = value + of_items * (q[item] ** power).sum()
            if "item_biases.weight" in weights:
                value = value + of_items * (weights["item_biases.weight"][item] ** power).sum()
            if power == 1 and features is not None:
                value = value + of_items * (e.T @ features[item]).sum()
        penalties.append(value)
    loss = loss + total(penalties)
    for name in ("projection", "visual_bias"):
        if name in weights:
            loss = loss + settings["projection_regularization"] * (weights[name] ** power).sum()
    return loss


class PlainAdagrad:
    """Adagrad (Duchi et al. 2011) on every entry of every parameter, in NumPy, in place."""

    def __init__(self, weights, rates):
        self.rates = rates
        self.sums = {name: np.full(weight.shape, 0.1) for name, weight in weights.items()}

    def step(self, weights, gradients):
        for name, weight in weights.items():
            gradient = gradients[name].numpy()
            self.sums[name] += gradient**2
            weight.detach().numpy()[...] -= self.rates[name] * gradient / (np.sqrt(self.sums[name]) + 1e-10)


class PlainLazyAdam:
    """Adam (Kingma & Ba 2015), row by row, on the rows that have a gradient, in NumPy, in place."""

    def __init__(self, weights, rates):
        self.rates = rates
        self.count = 0
        self.moments = {name: (np.zeros(weight.shape), np.zeros(weight.shape)) for name, weight in weights.items()}

    def step(self, weights, gradients):
        self.count += 1
        for name, weight in weights.items():
            first, second = self.moments[name]
            for row, gradient in enumerate(gradients[name].numpy()):
                if not gradient.any():
                    continue
                first[row] = 0.9 * first[row] + 0.1 * gradient
                second[row] = 0.999 * second[row] + 0.001 * gradient**2
                step = first[row] / (1 - 0.9**self.count)
                step = step / (np.sqrt(second[row] / (1 - 0.999**self.count)) + 1e-8)
                weight.detach().numpy()[row] -= self.rates[name] * step
