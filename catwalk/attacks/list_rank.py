"""The list rank attack: push an item up, by nothing but the lists that users are shown."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from typing_extensions import Self, Unpack

from catwalk.attacks.attack import AttackContext, AttackSettings
from catwalk.attacks.descent import features_of
from catwalk.attacks.known_recommender import check_catalogue, check_features, check_items
from catwalk.attacks.square import Square
from catwalk.attacks.threat_model import GreyLevels, Norm
from catwalk.errors import CatwalkError
from catwalk.keyed_random import permutation
from catwalk.limits import check_number
from catwalk.recommenders.checkpoints import read_visual_model
from catwalk.recommenders.vbpr import VBPRModel

_ITEMS_AT_ONCE = 256


@dataclass(frozen=True, eq=False)
class ShownLists:
    """The lists that a recommender shows, and where in them an item stands when it gets another image.

    What users have bought is in their lists like everything else: the checkpoint of a recommender does not say what
    that is.

    Attributes:
        model: The recommender.
        users: int64 ``(U,)``, whose lists are shown.
        top_k: K, the length of a list.
        scores: float32 ``(K + 1, U)``, the highest scores of all items by their clean images, in order.
        items: int64 ``(K + 1, U)``, whose they are.
    """

    model: VBPRModel
    users: Tensor
    top_k: int
    scores: Tensor
    items: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, model: VBPRModel, features: Tensor, top_k: int, users: Tensor | None = None) -> Self:
        """Rank a catalogue.

        Args:
            model: The recommender.
            features: float32 ``(N, D)``, of the clean images, on the device to work on.
            top_k: K, the length of a list.
            users: int64 ``(U,)``, whose lists are shown; None for everybody's.

        Raises:
            CatwalkError: If the catalogue has no more than K items.
        """
        if top_k >= len(features):
            raise CatwalkError(f"top_k: must be below the catalogue's {len(features)} items, got {top_k}")
        model = model.to(features.device)
        if users is None:
            users = torch.arange(model.users.num_embeddings)
        users = users.to(features.device)
        scores = features.new_zeros(0, len(users))
        items = torch.zeros_like(scores, dtype=torch.int64)
        for block in torch.arange(len(features), device=features.device).split(_ITEMS_AT_ONCE):
            more = model.scores_of_images(features[block], block)[:, users]
            scores, items = torch.cat([scores, more]), torch.cat([items, block[:, None].expand_as(more)])
            scores, order = scores.sort(dim=0, descending=True, stable=True)  # of equal scores the first item's
            scores, items = scores[: top_k + 1], items.gather(0, order[: top_k + 1])
        return cls(model, users, top_k, scores, items)

    def places(self, features: Tensor, items: Tensor) -> Tensor:
        """Return where items stand in the lists, ``0..K - 1``, or K where they are not in it; int64 ``(n, U)``.

        Args:
            features: float32 ``(n, D)``, of the images that the items now have.
            items: int64 ``(n,)``, their numbers; each is looked at as if it alone had another image.
        """
        scores = self.model.scores_of_images(features, items)[:, self.users]
        places = torch.zeros_like(scores, dtype=torch.int64)
        for others, numbers in zip(self.scores, self.items, strict=True):
            is_ahead = (others > scores) | ((others == scores) & (numbers < items[:, None]))
            places += is_ahead & (numbers != items[:, None])
        return places.clamp_(max=self.top_k)


class ListRankAttack(Square):
    """Pushes an item up in recommendations, and sees nothing of the shop but the lists that it shows.

    For every query the attacker uploads an image of an item and looks where the item stands in the top-K lists of some
    users. What is raised is ``Σ_u 1 / log2(place + 2)`` over the lists that it is in, the discount of DCG, so that both
    another list and a better place count. The search is :class:`~catwalk.attacks.Square`'s, an evolution of one parent
    and one child, by recoloured squares. It begins with the clean image, and a child that is as good as its parent
    takes its place, for lists are the same on wide plateaus. The black-box attacks of Cohen et al., "A Black-Box Attack
    Model for Visually-Aware Recommender Systems" (WSDM 2021), have this attacker's knowledge, and estimate gradients
    from the order of items instead.

    ``targets`` are the numbers of the items whose images are attacked, int64 ``(N,)``. There is no target category; it
    succeeds where what is raised is higher than for the clean image. An item that is in no list, and comes into none
    by chance, gives no sign of where to go.

    Args:
        epsilon: Radius of the ball in grey levels, at least 0; ``"8/255"`` are 8.
        norm: Distance that ``epsilon`` bounds, ``"linf"`` or ``"l2"``.
        queries: Largest number of queries for each image, at least 1.
        p_init: Share of the pixels that the first squares take, above 0 and at most 1.
        top_k: Length K of the lists, at least 1.
        users: Number of users whose lists are seen, drawn by ``seed``; None for everybody's.
        recommender: Checkpoint of the recommender that shows the lists, one that looks at images, trained on the
            features of the network under attack. A study gives its own.
        seed: Seed of what is drawn.
        **settings: As in :class:`Attack`.

    Attributes:
        shown: The lists; None until they are made from ``recommender`` for a catalogue. Set it to call the attack with
            tensors.

    Raises:
        CatwalkError: If an argument is out of its range; when called, if there is no recommender, or it does not fit
            the network or the items.
    """

    knowledge = "network and recommender"
    access = "lists"
    asks_about_clean = True

    def __init__(
        self,
        epsilon: GreyLevels = 8.0,
        norm: Norm = "linf",
        queries: int = 1000,
        p_init: float = 0.8,
        top_k: int = 20,
        users: int | None = None,
        recommender: Path | None = None,
        seed: int = 0,
        **settings: Unpack[AttackSettings],
    ) -> None:
        super().__init__(epsilon, norm, queries, p_init, targeted=False, seed=seed, **settings)
        check_number(top_k, "top_k", least=1)
        if users is not None:
            check_number(users, "users", least=1)
        self.top_k = top_k
        self.users = users
        self.recommender = recommender
        self.shown: ShownLists | None = None

    @property
    def title(self) -> str:
        """``"List rank attack"``."""
        return "List rank attack"

    def purpose(self, source: str, target: str | None) -> str:
        """Return what the attack is for, as half a sentence."""
        return f"push {source} up in the lists"

    def targets_of(self, scene: AttackContext) -> Tensor:
        """Return the numbers of the items, and rank the clean catalogue.

        Raises:
            CatwalkError: If there is no recommender, or it was trained on another catalogue or on other features.
        """
        if self.shown is None:
            if self.recommender is None:
                raise CatwalkError(
                    "recommender: ListRankAttack needs the checkpoint of the recommender whose lists the attacker sees"
                )
            model = read_visual_model(self.recommender)
            check_catalogue(model, scene)
            check_features(model, scene.features.shape[1])
            users, known = None, model.users.num_embeddings
            if self.users is not None and self.users < known:
                users = permutation(self.seed, known)[: self.users].sort().values
            self.shown = ShownLists.of(model, scene.features, self.top_k, users)
        return scene.items

    def answer(self, network: nn.Module, points: Tensor, targets: Tensor) -> Tensor:
        """Return what the attacker is told of images: where each item stands in the lists, int64 ``(n, U)``."""
        return self._lists().places(network.features(points), targets)  # type: ignore[operator]

    def judge(self, answers: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gain with the sign reversed, and which items lead all lists; see :meth:`Square.judge`."""
        return -self._gain(answers), (answers == 0).all(dim=1)

    def improves(self, values: Tensor, least: Tensor) -> Tensor:
        """Return which images are no worse than their parents."""
        return values <= least

    def succeeds(self, network: nn.Module, images: Tensor, clean: Tensor, targets: Tensor) -> Tensor:
        """Return whether the gain has risen."""
        after, before = (self._gain(self.answer(network, points, targets)) for points in (images, clean))
        return after > before

    def _gain(self, places: Tensor) -> Tensor:
        """Return what is raised, float64 ``(n,)``, of places ``(n, U)``."""
        discounts = 1 / torch.arange(2, self.top_k + 2, dtype=torch.float64).log2()
        of_places = torch.cat([discounts, torch.zeros(1, dtype=torch.float64)]).to(places.device)
        return of_places[places].sum(dim=1)

    def check_targets(self, network: nn.Module, image: Tensor, targets: Tensor) -> None:
        """Check that network, recommender and items fit; see :meth:`Attack.check_targets`."""
        model, size = self._lists().model, features_of(network, image).shape[1]
        check_features(model, size)
        check_items(model, targets)

    def _lists(self) -> ShownLists:
        if self.shown is None:
            raise CatwalkError("shown: ListRankAttack needs the lists that users are shown, ShownLists.of(…)")
        return self.shown
