"""Each test here is one client's: `make clients` runs them, in an environment with all of the clients.

Those that need nothing but the extra `test` and are quick run in CI, too.
"""

from pathlib import Path

import pytest
from opening import MODES

IN_CI = ("test_pipelines", "test_peft", "test_sentence_training")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents and item.path.stem not in IN_CI:
            item.add_marker(pytest.mark.client)


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    return request.param
