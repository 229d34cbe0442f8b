"""What several test files share by name, and what holds of all tests."""

from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from order import longest_first
from session_folder import session_folder, written_to

from safediff.models import fast


def pytest_configure(config: pytest.Config) -> None:
    """Before there are processes that share the tests: they take this one's folder."""
    session_folder()
    config.option.loadscopereorder = False  # xdist would begin with the files of many tests


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """As ``order`` says, in every process."""
    longest_first(items)


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


@pytest.fixture
def traced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The UNet of a release is exported by swapping it into a graph that tests trace once."""
    from tiny import NUM_TOKENS, swap_weights, tiny_engine  # here, since most files need none

    def export(
        network: Any, folder: Path, *, num_tokens: int, metadata: Mapping[str, str], **form: Any
    ) -> Path:
        assert num_tokens == NUM_TOKENS
        return swap_weights(tiny_engine(**form), folder, network.state_dict(), metadata=metadata)

    monkeypatch.setattr("safediff.workflow.export.export_denoiser", export)
