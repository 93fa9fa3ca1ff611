"""The site the tests of the controller run at."""

from __future__ import annotations

import pytest

from tests.unit.controller.site import Site


@pytest.fixture
def site() -> Site:
    return Site()
