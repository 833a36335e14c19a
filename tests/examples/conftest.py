"""Lets the tests import the examples."""

import examples_folder  # noqa: F401
