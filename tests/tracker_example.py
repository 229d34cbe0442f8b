"""A module in the place of ``wandb``: writes down what it is asked, and by which process."""

import json
from pathlib import Path
from typing import Any

_SOURCE = """
import json, os

def _tell(**what):
    with open(os.environ["WANDB_TOLD"], "a") as file:
        file.write(json.dumps({"rank": os.environ.get("RANK", "0"), **what}) + chr(10))

class _Run:
    def log(self, values, step=None):
        _tell(log=[values, step])

    def finish(self):
        _tell(finish=True)

class _Config:
    def update(self, values, allow_val_change=False):
        _tell(config=values)

config = _Config()

def init(**options):
    _tell(init=options)
    return _Run()
"""


def write_wandb(folder: Path) -> None:
    """The module and what says that it is installed, for ``PYTHONPATH``."""
    for name, text in {
        "wandb/__init__.py": _SOURCE,
        "wandb-0.1.dist-info/METADATA": "Metadata-Version: 2.1\nName: wandb\nVersion: 0.1\n",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


def told(path: Path) -> list[dict[str, Any]]:
    """What was written down, in order."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
