"""Fixtures of the tests of the network."""

import pytest

from tests.models.small_network import make_network


@pytest.fixture(name="model", scope="session")
def _model():
    """A small network in evaluation mode that no test may change."""
    return make_network()
