"""Recommenders: their scores and losses, and the ranking of a whole catalogue."""
