"""How many faults to plant, and how they are counted."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.faults import TIMES
from tests.utils.experiments.conftest import course as course


@pytest.fixture(scope="session")
def times() -> int:
    """How many times as many faults as in a run of all tests."""
    return TIMES


@pytest.fixture
def count(record_property: Callable[[str, object], None]) -> Callable[[str, int], None]:
    """`count("inputs tried", 300)`: it is added up over all tests, and told in the end.

    The names are those of COUNTS in tests/conftest.py.
    """
    return record_property
