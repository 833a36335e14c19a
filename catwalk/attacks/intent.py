"""What an attacker of a recommender wants of items: to be shown to more users, or to fewer."""

from typing import Literal

from catwalk.limits import check_choice

Intent = Literal["push", "nuke"]
"""Whether items shall rise or fall in the lists: push and nuke attacks of Lam and Riedl, "Shilling recommender systems
for fun and profit" (WWW 2004), and O'Mahony, Hurley and Silvestre, "Recommender systems: attack types and strategies"
(AAAI 2005)."""


def check_intent(intent: str) -> None:
    """Raise a CatwalkError unless an intent is ``push`` or ``nuke``."""
    check_choice(intent, "intent", Intent)
