"""Files that appear whole or not at all."""

import os
from pathlib import Path

from safediff.errors import Inconclusive


def write_whole(path: Path, text: str, what: str) -> None:
    """Write a text beside ``path``, then give it that name; ``what`` it is goes into the message.

    Raises:
        Inconclusive: the file can't be written; what was there before is still there.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8", newline="\n")
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise Inconclusive(
            f"{path}: {what} could not be written ({error.strerror or error})",
            "free some space or choose a folder that can be written to",
        ) from error
