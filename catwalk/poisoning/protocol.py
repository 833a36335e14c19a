"""The switches on which studies of poisoned recommenders differ, in one place."""

import inspect
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, NamedTuple, get_args, get_type_hints

from catwalk.attacks.attack import Attack
from catwalk.attacks.carlini_wagner import CarliniWagner
from catwalk.attacks.threat_model import Quantisation, Space, ThreatModel
from catwalk.limits import check_choice, check_number

FeaturesBy = Literal["network", "undefended"]
"""Whose features: those of the network under attack, or of the undefended one of the same study."""

ChosenBy = Literal["network", "undefended", "dataset"]
"""Who says of which category an item is: one of two networks, from its clean image, or the dataset."""

AttackedPopularity = Literal["all", "cold", "tail", "head"]
"""Which items of the source category are attacked: all, or those of one of
:data:`~catwalk.metrics.groups.POPULARITY_GROUPS`, by the purchases that recommenders are trained on."""

FeatureScale = Literal["clean", "own_matrix"]
"""What features are divided by: the largest absolute value of a network's clean features, or of the matrix itself."""

OPTIMIZER = {
    "class_path": "torch.optim.Adagrad",
    "init_args": {"lr": 0.01, "initial_accumulator_value": 0.1, "eps": 0.0},
}
LEARNING_RATES = {"P": 0.01, "Q": 1e-4, "E": 1e-3}
"""The published code's optimizer and its rates for users, items, and the projection of features."""

LINEAR = {
    "regularizer": "linear",
    "regularization": 0.1,
    "item_regularization": 0.001,
    "projection_regularization": 0.0,
}
"""The published code's regulariser, with its weights of users, items, and the projection."""

NO_UNDEFENDED = (
    "protocol.source_items is undefended, and there are no features of the undefended network: name their folder, "
    "which `catwalk predict` wrote, as undefended (poison.undefended of a run), or let source_items be network or "
    "dataset"
)


@dataclass(frozen=True)
class AttackProtocol:
    """How an attack's items are chosen and its budget is meant; the defaults are what we stand behind.

    Attributes:
        name: Name for the records.
        source_items: Who says which items are of the source category, from their clean images: the ``network`` under
            attack, as the paper says; the ``undefended`` network, as its published code does; or the ``dataset``.
        epsilon_space: Where distances between images are measured, ``pixels``, or ``normalised`` as in the paper's
            code, where ε = 4 comes to less than one grey level.
        clip: Whether attacks keep to [0, 1] at every step (the paper's code does not).
        quantise: How adversarial images become 8-bit: ``inside`` the ball, by ``round``, or ``truncate`` as in the
            paper's code. See :class:`~catwalk.attacks.ThreatModel`.
        source_popularity: Which of these items are attacked: ``all``; those that nobody bought in training (``cold``);
            those of the most popular fifth of the catalogue (``head``); or those between (``tail``). The attacker must
            know the purchases then.
    """

    name: str = "corrected"
    source_items: ChosenBy = "network"
    epsilon_space: Space = "pixels"
    clip: bool = True
    quantise: Quantisation = "inside"
    source_popularity: AttackedPopularity = "all"

    def threat_model(self, ball: ThreatModel) -> ThreatModel:
        """Return a threat model with the norm and the budget of another, and the rest as this protocol has it."""
        return replace(ball, space=self.epsilon_space, clip=self.clip, quantisation=self.quantise, std=None)

    def must_know_purchases(self, attack: Attack) -> bool:
        """Return whether it takes the purchases to say what is attacked, or how."""
        return attack.knowledge == "network and purchases" or self.source_popularity != "all"

    @property
    def of_attack(self) -> dict[str, Any]:
        """What an attack's result depends on of the protocol, by field: not its name, nor what comes after attacks."""
        names = [field.name for field in fields(AttackProtocol) if field.name != "name"]
        return {name: getattr(self, name) for name in names}


class Difference(NamedTuple):
    """A field in which a protocol differs from the one that we stand behind.

    Attributes:
        field: Its name.
        value: What it is.
        default: What it is there.
        meaning: What the difference comes to, in words.
    """

    field: str
    value: Any
    default: Any
    meaning: str


@dataclass(frozen=True)
class Protocol(AttackProtocol):
    """What a study attacks, as of :class:`AttackProtocol`, what recommenders are trained on and how, and what counts.

    There is a field for every choice in which the paper, its published code and this project compute something else.
    The defaults are what we stand behind; :data:`AS_PUBLISHED` and :data:`AS_WRITTEN` are the others. What is said of
    recommenders, attacks and purchases takes the place of the defaults of their classes: what a study states itself
    goes before it.

    Attributes:
        background_features: Whose features the items have that are not attacked, where a defended network is attacked:
            that ``network``'s, or the ``undefended`` one's as in the paper's code, which so mixes two feature spaces.
        chr_categories: Who says of which category a recommended item is, for CHR@K: the ``network`` under attack, the
            ``undefended`` one, or the ``dataset``. An item keeps the category that it had before any attack.
        feature_scale: What recommenders divide features by: the largest absolute value of the ``clean`` features, or of
            the matrix itself (``own_matrix``), again after every attack, as the paper's code does.
        user_factors: Whether a visual recommender has factors of a user's ``own`` for images, ``ρ_u`` of Eq. 2, or the
            same for items and images (``shared``).
        loss: Whether a batch's losses, and what regularises them, are averaged (``mean``) or added up (``sum``).
        regularizer: ``squared`` parameters, or ``linear``, the sum of the parameters themselves, which is not bounded
            below, with the weights of the paper's code.
        optimizer: ``configured``, that of the study or the recommender's default; or ``adagrad``, with the three
            learning rates of the paper's code and accumulators that begin at 0.1.
        factors: K of the recommenders; None leaves it to the study.
        batch_size: Triplets per batch; None leaves it to the study.
        epochs: Epochs of recommenders; None leaves them to the study.
        last_batch: Whether the last batch of an epoch, which may be smaller, is ``kept`` or ``dropped``.
        amr_start: How AMR begins: as ``configured``, or ``vbpr_half_way``: with what VBPR has learnt after half of its
            epochs, for as many more.
        amr_epsilon: Length of AMR's perturbations; None leaves it to the study.
        amr_weight: Weight λ of AMR's adversarial loss; None leaves it to the study.
        perturbation: Whether AMR perturbs every triplet by itself (``per_triplet``), or has one perturbation of an item
            for the whole batch (``per_item``).
        split: How purchases are held out where neither study nor dataset says it: each user's last by ``time``, or by
            ``file_order`` with the published code's way of moving items that only the test has
            (:class:`~catwalk.shop.splits.LastInFile`).
        core: How users and items with few purchases were left out: ``repeated`` until nothing changes, or in
            ``one_pass``. An importer does it, before any study: a study says where its dataset was made otherwise.
        carlini_wagner: What C&W looks for: an image that succeeds when it is ``rounded`` to 8 bits; or in float, as the
            ``published`` code does, with c₀ = 0.01, or as ``written`` in its README, with c₀ = 0.1 ("10e-2").
        ncdcg_ideal: What the best list of nCDCG@K is made of: the category's items that a user could be shown, the
            ``candidates``, or all of the ``category``, those that the user has bought included.

    Raises:
        CatwalkError: If a field does not take a value.
    """

    background_features: FeaturesBy = "network"
    chr_categories: ChosenBy = "network"
    feature_scale: FeatureScale = "clean"
    user_factors: Literal["own", "shared"] = "own"
    loss: Literal["mean", "sum"] = "mean"
    regularizer: Literal["squared", "linear"] = "squared"
    optimizer: Literal["configured", "adagrad"] = "configured"
    factors: int | None = None
    batch_size: int | None = None
    epochs: int | None = None
    last_batch: Literal["kept", "dropped"] = "kept"
    amr_start: Literal["configured", "vbpr_half_way"] = "configured"
    amr_epsilon: float | None = None
    amr_weight: float | None = None
    perturbation: Literal["per_triplet", "per_item"] = "per_triplet"
    split: Literal["time", "file_order"] = "time"
    core: Literal["repeated", "one_pass"] = "repeated"
    carlini_wagner: Literal["rounded", "published", "written"] = "rounded"
    ncdcg_ideal: Literal["candidates", "category"] = "candidates"

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for field in fields(self):
            choices = get_args(hints[field.name])
            if choices and all(isinstance(choice, str) for choice in choices):
                check_choice(getattr(self, field.name), f"protocol.{field.name}", hints[field.name])
        for name, least in (("factors", 1), ("batch_size", 1), ("epochs", 1), ("amr_epsilon", 0), ("amr_weight", 0)):
            value = getattr(self, name)
            if value is not None:
                check_number(value, f"protocol.{name}", least=least)

    @property
    def categories_by(self) -> Literal["network", "dataset"]:
        """Who says of which category an item is, once the undefended network's predictions stand beside the features.

        :func:`~catwalk.poisoning.mixed_features.mix_features` puts them there.
        """
        return "dataset" if self.chr_categories == "dataset" else "network"

    @property
    def of_undefended(self) -> "Protocol":
        """What the protocol comes to where the undefended network is the one under attack: it is both."""
        names = ("source_items", "background_features", "chr_categories")
        changes: dict[str, Any] = {name: "network" for name in names if getattr(self, name) == "undefended"}
        return replace(self, **changes)

    def recommender_arguments(self, model_class: type) -> dict[str, Any]:
        """Return what takes the place of the defaults of a recommender's class, as configurations state it.

        Args:
            model_class: A LightningModule; of what it does not take, it is given nothing.
        """
        accepted = _arguments_of(model_class)
        values: dict[str, Any] = {}
        if self.factors is not None:
            values["factors"] = self.factors
        if self.user_factors == "shared":
            values["shared_user_factors"] = True
        if self.loss == "sum":
            values["reduction"] = "sum"
        if self.regularizer == "linear":
            values |= LINEAR
        if self.optimizer == "adagrad":
            groups = getattr(model_class, "groups", ())
            rates = {name: rate for name, rate in LEARNING_RATES.items() if name in groups}
            values |= {"optimizer": OPTIMIZER, "learning_rates": rates}
        if _is_amr(accepted):
            of_amr = {"epsilon": self.amr_epsilon, "adversarial_weight": self.amr_weight}
            values |= {name: value for name, value in of_amr.items() if value is not None}
            if self.perturbation == "per_item":
                values["perturbation"] = "per_item"
        return {name: value for name, value in values.items() if name in accepted}

    def data_arguments(self) -> dict[str, Any]:
        """Return what takes the place of the defaults of the recommenders' data module."""
        values: dict[str, Any] = {}
        if self.batch_size is not None:
            values["batch_size"] = self.batch_size
        if self.last_batch == "dropped":
            values["drop_last"] = True
        return values

    def trainer_arguments(self, model_class: type) -> dict[str, Any]:
        """Return what takes the place of the defaults of the Trainer of a recommender."""
        if self.epochs is None:
            return {}
        return {"max_epochs": max(1, self.epochs // 2) if self.begins_half_way(model_class) else self.epochs}

    def begins_half_way(self, model_class: type) -> bool:
        """Return whether a recommender begins with what another has learnt after half of its epochs."""
        return self.amr_start == "vbpr_half_way" and _is_amr(_arguments_of(model_class))

    def attack_arguments(self, attack_class: type) -> dict[str, Any]:
        """Return what takes the place of the defaults of an attack's class."""
        if not issubclass(attack_class, CarliniWagner) or self.carlini_wagner == "rounded":
            return {}
        return {"rounded": False, "initial_c": 0.1 if self.carlini_wagner == "written" else 0.01}

    @property
    def split_rule(self) -> dict[str, Any] | None:
        """The rule by which purchases are held out where nobody else says it; None is that by time."""
        return None if self.split == "time" else {"class_path": "catwalk.shop.splits.LastInFile"}

    def differences(self) -> list[Difference]:
        """Return the fields in which this protocol differs from the one that we stand behind, in their order."""
        found = []
        for name, default in _settings_of(Protocol()).items():
            value = getattr(self, name)
            if value != default:
                found.append(Difference(name, value, default, _meaning(name, value)))
        return found

    def describe(self) -> list[str]:
        """Return a sentence for every difference from what we stand behind, without a full stop."""
        return [difference.meaning for difference in self.differences()]

    @property
    def short_differences(self) -> str:
        """The differences as ``field=value``, with commas between."""
        return ", ".join(f"{difference.field}={difference.value}" for difference in self.differences())


def _settings_of(protocol: AttackProtocol) -> dict[str, Any]:
    return {field.name: getattr(protocol, field.name) for field in fields(protocol) if field.name != "name"}


def _arguments_of(kind: type) -> set[str]:
    """Return the names of all arguments of a class, those that it hands on as ``**settings`` included."""
    names: set[str] = set()
    for each in kind.__mro__:
        if "__init__" not in vars(each):
            continue
        parameters = inspect.signature(vars(each)["__init__"]).parameters.values()
        names |= {each.name for each in parameters if each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL)}
        if all(each.kind != each.VAR_KEYWORD for each in parameters):
            break
    return names - {"self"}


def _is_amr(arguments: set[str]) -> bool:
    """Return whether a recommender perturbs features: it takes what AMR takes."""
    return {"visual_factors", "perturbation", "adversarial_weight", "epsilon"} <= arguments


MEANINGS: dict[str, dict[Any, str]] = {
    "source_items": {
        "undefended": "attacked items are those that the undefended network sees as the source",
        "dataset": "attacked items are those that the dataset labels as the source",
    },
    "source_popularity": {
        "cold": "of these, items that nobody bought in training are attacked",
        "tail": "of these, items that were bought, and are not of the most popular fifth, are attacked",
        "head": "of these, items of the most popular fifth of the catalogue are attacked",
    },
    "epsilon_space": {
        "normalised": "ε counts after the network's normalisation, where 4 comes to less than one grey level"
    },
    "clip": {False: "attacks leave [0, 1] while they run"},
    "quantise": {
        "truncate": "images are saved with fractions of grey levels cut off",
        "round": "images are saved by rounding, which may leave the budget by half a grey level",
    },
    "background_features": {
        "undefended": "items that are not attacked have the undefended network's features, in one matrix with the "
        "attacked network's"
    },
    "chr_categories": {
        "undefended": "CHR counts what the undefended network sees",
        "dataset": "CHR counts the dataset's categories",
    },
    "feature_scale": {"own_matrix": "features are divided by the largest of their matrix, anew after every attack"},
    "user_factors": {"shared": "a user has the same factors for items and for images"},
    "loss": {"sum": "a batch's losses are added up"},
    "regularizer": {"linear": "what regularises is linear in the parameters, and has no lower bound"},
    "optimizer": {
        "adagrad": "recommenders learn by Adagrad at rates of 0.01 (users), 0.0001 (items) and 0.001 (features)"
    },
    "last_batch": {"dropped": "the last, smaller batch of an epoch is dropped"},
    "amr_start": {"vbpr_half_way": "AMR begins with what VBPR has learnt after half of its epochs"},
    "perturbation": {"per_item": "AMR has one perturbation of an item for a whole batch"},
    "split": {
        "file_order": "a user's last purchase in the file is tested, unless the dataset comes with a split; of items "
        "that only the test has one purchase is trained on"
    },
    "core": {"one_pass": "users, and then items, with few purchases are to be left out in one pass"},
    "carlini_wagner": {
        "published": "C&W looks for success in float, from c = 0.01",
        "written": "C&W looks for success in float, from c = 0.1",
    },
    "ncdcg_ideal": {"category": "nCDCG's ideal list has items that the user has bought"},
}
"""What values of fields come to, in words; the defaults need none."""

NUMBERS = {
    "factors": "recommenders have {} factors where the study states none",
    "batch_size": "batches have {} triplets where the study states no number",
    "epochs": "recommenders learn for {} epochs where the study states no number",
    "amr_epsilon": "AMR perturbs features by {} where the study states no length",
    "amr_weight": "AMR's adversarial loss has the weight {} where the study states none",
}
"""The same of fields that hold numbers."""


def _meaning(name: str, value: Any) -> str:
    return NUMBERS[name].format(value) if name in NUMBERS else MEANINGS[name].get(value, f"{name} is {value}")


CORRECTED = Protocol()
"""What we stand behind."""

AS_WRITTEN = Protocol(
    name="as written",
    quantise="round",
    loss="sum",
    optimizer="adagrad",
    carlini_wagner="written",
)
"""What the paper says; where it says nothing, what we stand behind."""

AS_PUBLISHED = Protocol(
    name="as published",
    source_items="undefended",
    epsilon_space="normalised",
    clip=False,
    quantise="truncate",
    background_features="undefended",
    feature_scale="own_matrix",
    user_factors="shared",
    loss="sum",
    regularizer="linear",
    optimizer="adagrad",
    factors=64,
    batch_size=512,
    epochs=4000,
    last_batch="dropped",
    amr_start="vbpr_half_way",
    amr_epsilon=1.0,
    amr_weight=0.1,
    perturbation="per_item",
    split="file_order",
    core="one_pass",
    carlini_wagner="published",
    ncdcg_ideal="category",
)
"""What the paper's published code does."""
