"""Attacks of other libraries under our threat model."""

import inspect
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from catwalk.attacks.attack import Attack, AttackSettings
from catwalk.attacks.threat_model import Distance, GreyLevels, grey_levels
from catwalk.errors import CatwalkError
from catwalk.keyed_random import content_keys, uniform

_EPSILONS = ("eps", "ε", "epsilon")
"""What functions and classes of others call a budget."""

_PACKAGES = {"adv_lib": "adv-lib", "foolbox": "foolbox", "torchattacks": "torchattacks"}
"""What is to be installed for each library."""


class ForeignAttack(Attack):
    """An attack of foolbox, adv-lib or torchattacks, or a function of your own, by its import path.

    What it returns is moved into the ball, a mask's region and [0, 1], becomes 8-bit and is judged as what our own
    attacks return is. The library itself is called as its documentation says:

    - **foolbox**, a class such as ``foolbox.attacks.LinfPGD``: made with ``arguments``, and run with
      ``epsilons=epsilon/255`` and a ``TargetedMisclassification`` or ``Misclassification`` criterion.
    - **torchattacks**, a class such as ``torchattacks.PGD``: made with ``arguments`` and, where it takes one, ``eps``;
      targets are given to it by ``set_mode_targeted_by_label``.
    - **adv-lib**, and whatever else is a function, such as ``adv_lib.attacks.ddn``: called with ``model``, ``inputs``,
      ``labels``, ``targeted`` and ``arguments``, and with ``epsilon/255`` where it takes ``eps``, ``ε`` or ``epsilon``
      and ``arguments`` have none.

    Each image is attacked by itself, with torch's generator seeded from (seed, item key): nobody knows whether an
    attack of others couples the images of a batch, or in which order it draws random numbers. ``batched`` gives it
    whole batches instead, for attacks of which you know that they do neither.

    An iteration is a call of the network; backward passes are not counted, and taken to be as many.

    Args:
        path: Import path of the attack.
        arguments: Its own arguments, but for the model, images, labels and budget.
        norm: Distance that the budget bounds, ``"linf"``, ``"l2"`` or ``"l0"``.
        epsilon: Budget in grey levels, or pixels for ``"l0"``; ``"8/255"`` are 8. None for an attack that minimises the
            distance.
        targeted: Whether ``targets`` are the categories to reach (True) or to leave (False).
        batched: Whether it is given whole batches.
        seed: Seed of its random numbers.
        **settings: As in :class:`Attack`.

    Raises:
        CatwalkError: If the library is not installed, there is no such attack, or it does not take the arguments.
    """

    norms: tuple[Distance, ...] = ("linf", "l2", "l0")

    def __init__(
        self,
        path: str,
        arguments: dict[str, Any] | None = None,
        norm: Distance = "linf",
        epsilon: GreyLevels | None = 8.0,
        targeted: bool = True,
        batched: bool = False,
        seed: int = 0,
        **settings: Unpack[AttackSettings],
    ) -> None:
        epsilon = None if epsilon is None else grey_levels(epsilon)
        super().__init__(norm, epsilon, targeted=targeted, random_start=not batched, seed=seed, **settings)
        self.path = path
        self.arguments = dict(arguments or {})
        self.batched = batched
        self.one_by_one = not batched
        self.library = _library(path)
        self._check_arguments_of(self._kind())

    @property
    def title(self) -> str:
        """Its own name with the library's: ``"foolbox LinfPGD"``."""
        return f"{self.path.partition('.')[0]} {self.path.rpartition('.')[2]}"

    @property
    def other_modules(self) -> tuple[str, ...]:
        """The module of a function of your own; a library is known by its version."""
        return () if " " in self.library else (self._kind().__module__,)

    def perturb(
        self, network: nn.Module, images: Tensor, targets: Tensor, keys: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Craft adversarial images for one batch; see :meth:`Attack.perturb`.

        Raises:
            CatwalkError: If the attack of others raises something, or returns something else than images.
        """
        if self.threat_model.space != "pixels":
            raise CatwalkError(
                f"attack: {self.title} measures distances between pixels, and the protocol has them after the "
                "network's normalisation; use protocol.epsilon_space: pixels"
            )
        asked = _Asked(network)
        state = torch.get_rng_state()
        try:
            if not self.batched:
                of = content_keys(images) if keys is None else keys
                # 2⁴⁸ seeds, by two draws of 24 bits.
                high, low = (uniform(self.seed, of[:1], (2,))[0].double() * 2**24).long().tolist()
                torch.manual_seed(high * 2**24 + low)
            found = self._run(asked, images.clone(), targets.clone())
        except (TypeError, ValueError, RuntimeError, AssertionError, NotImplementedError) as error:
            raise CatwalkError(f"attack: {self.path} fails: {type(error).__name__}: {error}") from error
        finally:
            torch.set_rng_state(state)
        if not isinstance(found, Tensor) or found.shape != images.shape:
            what = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise CatwalkError(
                f"attack: {self.path} returns {what}, and images of the shape {tuple(images.shape)} are needed"
            )
        found = found.detach().to(images)
        found = torch.where(found.isfinite().flatten(1).all(dim=1).view(-1, 1, 1, 1), found, images)
        return self.threat_model.project(found, images), torch.full_like(targets, asked.calls)

    def _kind(self) -> Callable[..., Any]:
        kind: Callable[..., Any] = _imported(self.path)
        return kind

    def _check_arguments_of(self, kind: Callable[..., Any]) -> None:
        """Raise a CatwalkError if an argument is none of the attack's."""
        try:
            parameters = inspect.signature(kind).parameters
        except (TypeError, ValueError):  # of what is not written in Python
            return
        takes_any = any(each.kind == each.VAR_KEYWORD for each in parameters.values())
        for name in self.arguments:
            if name not in parameters and not takes_any:
                raise CatwalkError(
                    f"arguments: {self.path} takes no {name!r}; it takes {', '.join(parameters) or 'none'}"
                )

    def _with_epsilon(self, kind: Callable[..., Any]) -> dict[str, Any]:
        """Return the arguments, with the budget where the attack takes one and none is stated."""
        budget = self.threat_model.epsilon
        names = [name for name in _EPSILONS if name in inspect.signature(kind).parameters]
        if budget is None or not names or names[0] in self.arguments:
            return self.arguments
        return {**self.arguments, names[0]: budget if self.threat_model.norm == "l0" else budget / 255}

    def _run(self, network: nn.Module, images: Tensor, targets: Tensor) -> Any:
        kind, package = self._kind(), self.path.partition(".")[0]
        if package == "foolbox":
            foolbox: Any = import_module("foolbox")
            criteria = foolbox.criteria
            model = foolbox.PyTorchModel(network, bounds=(0, 1), device=images.device)
            criterion = criteria.TargetedMisclassification if self.targeted else criteria.Misclassification
            epsilon = self.threat_model.epsilon
            budget = None if epsilon is None else epsilon if self.threat_model.norm == "l0" else epsilon / 255
            return kind(**self.arguments)(model, images, criterion(targets), epsilons=budget)[1]
        if package == "torchattacks":
            attack = kind(network, **self._with_epsilon(kind))
            if self.targeted:
                attack.set_mode_targeted_by_label(quiet=True)
            return attack(images, targets)
        return kind(model=network, inputs=images, labels=targets, targeted=self.targeted, **self._with_epsilon(kind))


class _Asked(nn.Module):
    """Counts the calls of a network."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.calls = 0
        self.training = False

    def forward(self, images: Tensor) -> Any:
        self.calls += 1
        return self.network(images)


def _imported(path: str) -> Any:
    """Return what an import path names.

    Raises:
        CatwalkError: If the library is not installed, or has no such attack.
    """
    module, _, name = path.rpartition(".")
    package = path.partition(".")[0]
    if not module or not all(part.isidentifier() for part in path.split(".")):
        raise CatwalkError(f"path: give an import path, such as foolbox.attacks.LinfPGD, got {path!r}")
    try:
        found = getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise CatwalkError(f"path: {path!r} cannot be imported: {error}") from error
        remedy = f"pip install {_PACKAGES[package]}" if package in _PACKAGES else "install it, or mend the path"
        raise CatwalkError(f"path: {path!r} needs {package}, which is not installed: {remedy}") from error
    except (ImportError, AttributeError) as error:
        raise CatwalkError(f"path: {path!r} cannot be imported: {error}") from error
    if not callable(found):
        raise CatwalkError(f"path: {path!r} is a {type(found).__name__}; give an attack's class or function")
    return found


def _library(path: str) -> str:
    """Return the library of an import path with its version, on which what it does depends."""
    package = path.partition(".")[0]
    try:
        return f"{package} {version(_PACKAGES.get(package, package))}"
    except PackageNotFoundError:
        return package
