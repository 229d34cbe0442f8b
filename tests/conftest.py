"""What several test files share by name, and what holds of all tests."""

from collections.abc import Iterator
from contextlib import nullcontext

import pytest
from session_folder import session_folder, written_to

from safediff.models import fast


def pytest_configure(config: pytest.Config) -> None:
    """Before there are processes that share the tests: they take this one's folder."""
    session_folder()


@pytest.fixture(autouse=True, scope="module")
def what_is_shared_stays_as_it_is() -> Iterator[None]:
    """Files of one process may be read by another one at any time."""
    yield
    changed = written_to()
    assert not changed, f"written to by this file's tests, or meanwhile by others: {changed}"


@pytest.fixture
def same_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Matrix products by the library that the reference takes, to compare without its rounding."""
    monkeypatch.setattr(fast, "products_by_onednn", nullcontext)
