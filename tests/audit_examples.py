"""Releases to check against their certificates, and the ways to forge them."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from small_policy import finished

from safediff.release.certificate import CERTIFICATE_NAME, dump_certificate
from safediff.release.checksums import sha256_file, write_checksums

Json = dict[str, Any]


def copy_of_release(folder: Path) -> Path:
    """A release of the small policy that may be changed."""
    return shutil.copytree(finished().run.path / "release", folder / "release")


def read(release: Path) -> Json:
    data: Json = json.loads((release / CERTIFICATE_NAME).read_text(encoding="utf-8"))
    return data


def forge(release: Path, change: Callable[[Json], object]) -> None:
    """Change the certificate and make the checksums fit: what a careful forger does."""
    certificate = read(release)
    change(certificate)
    (release / CERTIFICATE_NAME).write_text(dump_certificate(certificate), encoding="utf-8")
    write_checksums(release)


def forge_journal(release: Path, change: Callable[[list[Json]], object]) -> None:
    """Change the journal's lines and make its hash and the checksums fit."""
    path = release / "journal.jsonl"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    change(lines)
    text = "".join(json.dumps(line, sort_keys=True) + "\n" for line in lines)
    path.write_text(text, encoding="utf-8")
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    forge(release, lambda c: c["journal"].update(sha256=sha256))


def flip_a_byte(path: Path) -> None:
    """Change the last byte, which is part of a weight."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


def shard_beside(release: Path) -> None:
    """Other weights, and an index that loaders follow before they look for the certified file."""
    weights = release / "unet" / "diffusion_pytorch_model.safetensors"
    state = {name: tensor + 1 for name, tensor in load_file(weights).items()}
    shard = "diffusion_pytorch_model-00001-of-00001.safetensors"
    save_file(state, weights.with_name(shard), metadata={"format": "pt"})
    index = {"metadata": {"total_size": 0}, "weight_map": dict.fromkeys(state, shard)}
    weights.with_name(f"{weights.name}.index.json").write_text(json.dumps(index), encoding="utf-8")
    write_checksums(release)


def certify_file(release: Path, name: str) -> None:
    """Make the certificate's list of files fit what lies there."""

    def change(certificate: Json) -> None:
        (row,) = [row for row in certificate["subject"] if row["path"] == name]
        row["sha256"] = sha256_file(release / name)

    forge(release, change)


def row(certificate: Json, subject: str, check: str) -> Json:
    (found,) = [r for r in certificate["checks"] if (r["subject"], r["id"]) == (subject, check)]
    return found
