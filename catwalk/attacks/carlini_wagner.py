"""The attack of Carlini and Wagner that looks for the least change in L2."""

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from catwalk.attacks.attack import AttackSettings
from catwalk.attacks.least_change import LeastChange, as_saved, per_image
from catwalk.attacks.threat_model import ThreatModel
from catwalk.errors import CatwalkError
from catwalk.networks.batching import ROW_MULTIPLE

_INSIDE = 0.999999
"""Factor of clean images, scaled to [-1, 1]: at ±1 itself the gradient of tanh is 0 for ever."""

_AT_BORDER, _INSIDE_AT_BORDER = 0.98, 0.999
"""An image of which so great a share of the values is 0 or 1 begins further inside, an eighth of a grey level from the
border, and does not stop early. From 0.999999 Adam needs hundreds of steps to where tanh has a slope that moves
anything, and then tens to the next level, and with nothing else to move, the loss does not fall meanwhile."""

_BORDER = 1e-4
"""By how much a value at the border may be off 0 or 1, for it was divided and multiplied; a grey level is 40 times so
much."""

_LARGEST_C = 1e10
"""Where the growth of c ends, as in the authors' code; float32 overflows not far beyond."""

_NO_PROGRESS = 0.9999
"""An image whose loss does not fall below this share of what it was has come to its end."""

_BETAS, _ADAM_EPSILON = (0.9, 0.999), 1e-8
"""Adam's other settings, which are its authors'."""


@dataclass
class _Search:
    """How far the search for one image's c has come.

    Attributes:
        row: Which of the images.
        c: The constant that is tried now.
        lower: Largest c that failed.
        upper: Smallest c that succeeded.
        tried: How many values were tried before.
        steps: Gradient steps with this c; -1 before the step that moves nothing and begins.
        all_steps: Gradient steps with those before.
        may_stop: Whether a c ends where the loss no longer falls, and not after all of its steps alone.
    """

    row: int
    c: float
    lower: float = 0.0
    upper: float = math.inf
    tried: int = 0
    steps: int = -1
    all_steps: int = 0
    may_stop: bool = True

    def conclude(self, found: bool) -> None:
        """Choose the next c by whether this one succeeded."""
        if found:
            self.upper = min(self.upper, self.c)
        else:
            self.lower = max(self.lower, self.c)
        self.c = (self.lower + self.upper) / 2 if self.upper < math.inf else min(10 * self.c, _LARGEST_C)
        self.tried += 1
        self.all_steps += self.steps
        self.steps = -1


@dataclass(frozen=True)
class _Box:
    """How images follow from the variable w that is searched: by tanh, which cannot leave [0, 1], or as w itself.

    Attributes:
        is_closed: Whether images must not leave it.
        highest: Coordinates of the value 1, ``(1, 3, 1, 1)``; None where they are 1.
        is_rounded: Whether images become 8-bit by rounding to the nearest level.
    """

    is_closed: bool
    highest: Tensor | None
    is_rounded: bool

    @classmethod
    def of(cls, threat_model: ThreatModel, images: Tensor) -> "_Box":
        """Return the box of a threat model, for images in coordinates."""
        scale = threat_model.scale(images)
        return cls(threat_model.clip, None if scale is None else 1 / scale, threat_model.quantisation != "truncate")

    def at_border(self, images: Tensor) -> Tensor:
        """Return which images have hardly a value to move but away from the border, bool ``(N,)``."""
        shares = images if self.highest is None else images / self.highest
        is_extreme = (shares < _BORDER) | (shares > 1 - _BORDER)
        return (is_extreme.flatten(1).double().mean(dim=1) >= _AT_BORDER) & self.is_closed

    def places(self, images: Tensor) -> Tensor:
        """Return the w of images."""
        if not self.is_closed:
            return images
        shares = images.double() if self.highest is None else images.double() / self.highest
        further, usual = shares.new_tensor(_INSIDE_AT_BORDER), shares.new_tensor(_INSIDE)
        inside = torch.where(self.at_border(images), further, usual)
        # In float64, for atanh has other last bits at the end of an array than within, which rounding takes away.
        return torch.atanh(per_image(inside) * (2 * shares - 1)).to(images.dtype)

    def images(self, w: Tensor) -> Tensor:
        """Return the images at w."""
        if not self.is_closed:
            return w.clone()
        images = torch.tanh(w).add_(1).mul_(0.5)
        return images if self.highest is None else images.mul_(self.highest)

    def shown(self, images: Tensor) -> Tensor:
        """Return what is left of images when they are saved and read back."""
        return as_saved(images, self.highest) if self.is_rounded else images.clone()

    def gradient(self, gradient: Tensor, images: Tensor) -> Tensor:
        """Return the gradient with respect to w, of one with respect to the images there, which it overwrites."""
        if not self.is_closed:
            return gradient
        if self.highest is None:
            return gradient.mul_(images).mul_(1 - images).mul_(2)
        return gradient.mul_(images).mul_(1 - images / self.highest).mul_(2)


@dataclass
class _Rows:
    """What the images that are not done have on the device, one row each.

    Adam's moments are kept as plain sums, ``first = Σ β₁^(t-i)·g_i`` and ``second = Σ β₂^(t-i)·g_i²``. Together with
    nothing but sums, products, quotients and roots this gives a row the same bits wherever it stands: a fused
    multiply-add, as in ``lerp`` or ``add(alpha=…)``, rounds otherwise at the end of an array than within.

    Attributes:
        clean: ``(N, 3, H, W)``.
        targets: ``(N,)``.
        c: ``(N,)``.
        w: ``(N, 3, H, W)``, the clean image's place in tanh space included.
        first: Like ``w``.
        second: Like ``w``.
        steps: int64 ``(N,)``, gradient steps with this c; -1 as in :class:`_Search`.
        least: ``(N,)``, the least loss since the last check.
        checked: ``(N,)``, the least loss between the two checks before; infinite at first.
        found: bool ``(N,)``, whether this c has succeeded.
        nearest: Like ``clean``, the success of least distance so far.
        distance: ``(N,)``, its squared distance; infinite if there is none.
    """

    clean: Tensor
    targets: Tensor
    c: Tensor
    w: Tensor
    first: Tensor
    second: Tensor
    steps: Tensor
    least: Tensor
    checked: Tensor
    found: Tensor
    nearest: Tensor
    distance: Tensor

    @classmethod
    def of(cls, images: Tensor, targets: Tensor) -> "_Rows":
        """Return the rows of images whose search has not begun."""
        infinite = images.new_full((len(images),), math.inf)
        return cls(
            clean=images,
            targets=targets,
            c=torch.zeros_like(infinite),
            w=torch.zeros_like(images),
            first=torch.zeros_like(images),
            second=torch.zeros_like(images),
            steps=torch.zeros_like(targets),
            least=infinite,
            checked=infinite.clone(),
            found=torch.zeros_like(targets, dtype=torch.bool),
            nearest=images.clone(),
            distance=infinite.clone(),
        )

    def select(self, rows: Tensor) -> "_Rows":
        """Return a copy of some rows."""
        return _Rows(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    def start(self, begins: Tensor, c: Tensor, box: _Box) -> None:
        """Let the rows of a mask ``(N,)`` begin anew with their c ``(N,)``.

        Their next step, which must have no gradient, leaves them there.
        """
        pixels = per_image(begins)
        self.w = torch.where(pixels, box.places(self.clean), self.w)
        self.first.masked_fill_(pixels, 0)
        self.second.masked_fill_(pixels, 0)
        self.c = torch.where(begins, c, self.c)
        self.least = self.least.masked_fill(begins, math.inf)
        self.checked = self.checked.masked_fill(begins, math.inf)
        self.found = self.found & ~begins
        self.steps = self.steps.masked_fill(begins, -1)


class CarliniWagner(LeastChange):
    """Looks for the image nearest to the clean one, in L2, that the network takes for the target category.

    In tanh space no image can leave [0, 1]: ``x'(w) = (tanh(w + atanh(0.999999·(2x - 1))) + 1) / 2``, with 0.999 for
    images of which 98% of the values are 0 or 1, such as white and black ones. From ``w = 0``,
    Adam minimises ``‖x'(w) - x‖² + c·max(0, max_{j≠t} z_j(x') - z_t(x') + κ)`` towards the target category t; away from
    a category y the second term is ``c·max(0, z_y(x') - max_{j≠y} z_j(x') + κ)``. The constant c is found by a search
    for each image: after a success it is halved towards the largest that failed, after a failure it is moved halfway to
    the smallest that succeeded, or made ten times as large while none has. Of everything met on the way, the success
    nearest to the clean image is kept (Carlini and Wagner, "Towards Evaluating the Robustness of Neural Networks", IEEE
    S&P 2017, sections V and VI.A; the defaults are the reproduced paper's).

    Where the threat model does not clip, w is the image itself, as in the reproduced paper's code, and the outcome is
    clipped, which may undo a success.

    A success without confidence lies next to the boundary between the categories, and rounding it to 8 bits undoes it
    as often as not. Unless ``rounded`` is False, the network is therefore shown the image rounded to 8 bits at every
    step, the gradient there is taken for that at the image itself (a straight-through estimate), and what is kept, the
    rounded image of least distance, is the one that will be saved.

    There is no budget: where no success is met, the clean image is returned, and counts as no success.

    Every image has its own c, Adam and end, and those that are done leave the batch. An image costs up to
    ``searches · iterations`` gradients.

    Args:
        confidence: By how much κ the wanted logit must lead, at least 0; a success leads by that.
        initial_c: The first c, above 0.
        searches: Number of values of c that are tried for each image, at least 1.
        iterations: Largest number of gradient steps for each c, at least 1.
        learning_rate: Adam's, above 0, in tanh space.
        check_every: An image stops if within so many steps its least loss has not fallen below 0.9999 of what it was in
            as many steps before them, at least 1; None means a tenth of ``iterations``, and from half of them on
            nothing stops early. The authors' code compares the losses of single steps, and those of a whole batch; of
            one image the loss swings at the boundary between the categories, and above its first value when Adam
            starts, and an image that stopped there would be given a c larger than it needs. Images of which 98% of the
            values are 0 or 1 do not stop early.
        rounded: Whether an image has to succeed when it is rounded to 8 bits. False is the attack as published; so is
            True where the threat model truncates.
        targeted: Whether ``targets`` are the categories to reach (True) or to leave (False).
        **settings: As in :class:`Attack`. Without confidence ``precision`` must be ``"32"``: the nearest success lies
            at the border between two categories, which rounding moves.

    Raises:
        CatwalkError: If an argument is out of its range.
    """

    def __init__(
        self,
        confidence: float = 0.0,
        initial_c: float = 1e-2,
        searches: int = 5,
        iterations: int = 1000,
        learning_rate: float = 5e-3,
        check_every: int | None = None,
        rounded: bool = True,
        targeted: bool = True,
        **settings: Unpack[AttackSettings],
    ) -> None:
        super().__init__("l2", rounded=rounded, targeted=targeted, **settings)
        if not 0 <= confidence < math.inf:
            raise CatwalkError(f"confidence: must be a finite number, at least 0, got {confidence!r}")
        if not 0 < initial_c <= _LARGEST_C:
            raise CatwalkError(f"initial_c: must be a number above 0 and at most {_LARGEST_C:g}, got {initial_c!r}")
        if not 0 < learning_rate < math.inf:
            raise CatwalkError(f"learning_rate: must be a finite number above 0, got {learning_rate!r}")
        for argument, value in (("searches", searches), ("iterations", iterations)):
            if value < 1:
                raise CatwalkError(f"{argument}: must be at least 1, got {value!r}")
        if check_every is not None and check_every < 1:
            raise CatwalkError(
                f"check_every: must be at least 1, or null for a tenth of iterations, got {check_every!r}"
            )
        if confidence == 0 and self.precision != "32":
            raise CatwalkError(
                f"precision: {self.precision} moves the border between categories, where a success without confidence "
                "lies, and most images would be lost; keep 32, or give a confidence above 0"
            )
        self.confidence = confidence
        self.initial_c = initial_c
        self.searches = searches
        self.iterations = iterations
        self.learning_rate = learning_rate
        self.check_every = max(1, iterations // 10) if check_every is None else check_every

    @property
    def title(self) -> str:
        """The name with what is spent on each image: ``"C&W (5 × 1000)"``."""
        return f"C&W ({self.searches} × {self.iterations})"

    def perturb(
        self, network: nn.Module, images: Tensor, targets: Tensor, keys: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Craft adversarial images for one batch; see :meth:`Attack.perturb`. They may be float64 as well."""
        rows = _Rows.of(images, targets)
        box = _Box.of(self.threat_model, images)
        may_stop = (~box.at_border(images)).tolist()
        searches = [_Search(row, self.initial_c, may_stop=may_stop[row]) for row in range(len(images))]
        rows.start(torch.ones_like(rows.found), torch.full_like(rows.c, self.initial_c), box)
        gradient = torch.zeros_like(images)
        factors = self._adam_factors(images)
        nearest, iterations = images.clone(), torch.zeros_like(targets)
        while True:
            steps = min(self._until_check(search) for search in searches)
            for _ in range(steps):
                _adam_step(rows, gradient, factors)
                gradient = self._evaluate(network, rows, box)
            for search in searches:
                search.steps += steps
            ended = self._check(searches, rows)
            if not ended:
                continue
            found = rows.found.tolist()
            for place in ended:
                searches[place].conclude(found[place])
            # Images that were done before go on as padding, and nobody looks at what comes of them.
            done = [place for place in ended if searches[place].tried == self.searches]
            which = targets.new_tensor([searches[place].row for place in done])
            nearest[which] = rows.nearest[targets.new_tensor(done)]
            iterations[which] = targets.new_tensor([searches[place].all_steps for place in done])
            order = [place for place, search in enumerate(searches) if search.tried < self.searches]
            if not order:
                return nearest, iterations
            begins = torch.zeros_like(rows.found)
            begins[targets.new_tensor(ended)] = True
            rows.start(begins, rows.c.new_tensor([search.c for search in searches]), box)
            gradient = gradient.masked_fill(per_image(begins), 0)
            needed = -(-len(order) // ROW_MULTIPLE) * ROW_MULTIPLE
            if needed < len(searches):
                order += [place for place, search in enumerate(searches) if search.tried >= self.searches]
                kept = order[:needed]
                searches = [searches[place] for place in kept]
                rows, gradient = rows.select(targets.new_tensor(kept)), gradient[targets.new_tensor(kept)]

    def _until_check(self, search: _Search) -> int:
        """Return after how many steps an image is looked at again."""
        if search.steps < 0:
            return 1 + min(self.check_every, self.iterations)
        return min(self.check_every - search.steps % self.check_every, self.iterations - search.steps)

    def _check(self, searches: list[_Search], rows: _Rows) -> list[int]:
        """Return where the images are that have come to their end, and note the loss of the others that are due."""
        due = [
            search.steps == self.iterations or (search.steps > 0 and search.steps % self.check_every == 0)
            for search in searches
        ]
        falls = (rows.least < _NO_PROGRESS * rows.checked).tolist()
        is_due = torch.tensor(due, device=rows.least.device)
        rows.checked = torch.where(is_due, rows.least, rows.checked)
        rows.least = rows.least.masked_fill(is_due, math.inf)
        return [
            place
            for place, search in enumerate(searches)
            if due[place] and (search.steps == self.iterations or (search.may_stop and not falls[place]))
        ]

    def _evaluate(self, network: nn.Module, rows: _Rows, box: _Box) -> Tensor:
        """Return the gradient of the loss with respect to w, and keep the images that are the best successes so far."""
        images = box.images(rows.w)
        shown = (box.shown(images) if self.rounded else images.clone()).requires_grad_()
        logits = network(shown)
        margin, direction = self.lag(logits.detach(), rows.targets)
        excess = (margin + self.confidence).clamp(min=0)
        (gradient,) = torch.autograd.grad(logits, shown, (direction * (excess > 0)[:, None]).to(logits.dtype))
        shown = shown.detach()
        difference = images - rows.clean
        distance = _squared_length(difference)
        distance_shown = _squared_length(shown - rows.clean) if self.rounded else distance
        # A tie is no success: which of the two categories the network names then is not for us to say.
        success = (margin <= -self.confidence) & (margin < 0)
        rows.found |= success
        closer = success & (distance_shown < rows.distance)
        rows.distance = torch.where(closer, distance_shown, rows.distance)
        rows.nearest = torch.where(per_image(closer), shown, rows.nearest)
        loss = (distance + rows.c * excess).masked_fill(rows.steps == 0, math.inf)
        rows.least = torch.minimum(rows.least, loss)
        return box.gradient((gradient * per_image(rows.c)).add_(difference.mul_(2)), images)

    def passes(self, iterations: Tensor) -> tuple[Tensor, Tensor]:
        """Return those of each image: with every c the clean image is looked at, too, before the first step."""
        return iterations + self.searches, iterations + self.searches

    def _adam_factors(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the factor and the ε of each step from 0 to ``iterations``, for the sums that :class:`_Rows` keeps.

        With ``m = (1 - β₁)·first / (1 - β₁^t)`` and ``v = (1 - β₂)·second / (1 - β₂^t)``, ``lr·m / (√v + ε)`` is
        ``factor·first / (√second + ε / r)`` with ``r = √((1 - β₂) / (1 - β₂^t))``.
        """
        steps = torch.arange(self.iterations + 1, dtype=torch.float64).clamp_(min=1)
        first, second = ((1 - beta) / (1 - beta**steps) for beta in _BETAS)
        factor, epsilon = self.learning_rate * first / second.sqrt(), _ADAM_EPSILON / second.sqrt()
        return factor.to(images), epsilon.to(images)


def _adam_step(rows: _Rows, gradient: Tensor, factors: tuple[Tensor, Tensor]) -> None:
    """Move w by one step of Adam, each row by its own count of steps."""
    rows.steps += 1
    factor, epsilon = (per_image(values[rows.steps]) for values in factors)
    rows.first.mul_(_BETAS[0]).add_(gradient)
    rows.second.mul_(_BETAS[1]).add_(gradient.square())
    denominator = rows.second.sqrt().add_(epsilon)
    rows.w -= torch.div(rows.first, denominator, out=denominator).mul_(factor)


def _squared_length(images: Tensor) -> Tensor:
    return images.square().flatten(1).sum(dim=1)
