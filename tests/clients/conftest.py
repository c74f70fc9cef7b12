"""Each test here is one client's: `make clients` runs them, in an environment with all of the clients."""

from pathlib import Path

import pytest
from opening import MODES


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.client)


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    return request.param
