"""Silence inside the block, and only there; errors come through."""

import logging
import sys
import warnings

import pytest

from safediff.export.quiet import quiet


def talk() -> None:
    print("print")
    print("bar", file=sys.stderr)
    warnings.warn("advice", FutureWarning, stacklevel=1)
    logging.getLogger("diffusers.models").warning("log line")


def test_nothing_is_said(capfd: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture) -> None:
    with quiet():
        talk()
    assert capfd.readouterr() == ("", "")
    assert "log line" not in caplog.text


def test_afterwards_all_is_as_before(
    capfd: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ZeroDivisionError), quiet():
        1 / 0  # noqa: B018
    with pytest.warns(FutureWarning, match="advice"):
        talk()
    assert capfd.readouterr().out == "print\n"
    caplog.clear()
    logger = logging.getLogger("onnx_ir")
    assert logger.level == logging.NOTSET
