"""The chart's objects, for tests that take each variant."""

import pytest

from tests.support.helm import Object, rendered


@pytest.fixture
def objects(request: pytest.FixtureRequest) -> tuple[Object, ...]:
    """All objects of a variant of the Helm chart (`tests.support.helm.variants`)."""
    return rendered(*request.param)
