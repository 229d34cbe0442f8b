"""What several test files share by name."""

from contextlib import nullcontext

import pytest

from safediff.models import fast


@pytest.fixture
def same_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Matrix products by the library that the reference takes, to compare without its rounding."""
    monkeypatch.setattr(fast, "products_by_onednn", nullcontext)
