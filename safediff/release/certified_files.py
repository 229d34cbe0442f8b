"""Which files of a release its certificate speaks of, and what is there besides or instead.

Hashes are those of SHA256SUMS, which the files were just held against: nothing is opened. Whoever
renews the checksums can add a file that a loader prefers to the certified one; so weights and
graphs that the certificate does not name are refused, not ignored.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safediff.errors import UsageError
from safediff.release.checksums import read_sums
from safediff.release.engines import certificate_names

Json = dict[str, Any]

_WEIGHTS = re.compile(r"(^|/)[^/]*(\.safetensors|\.bin|\.index(\.[^/]*)?\.json)$")
"""Where diffusers and transformers look for a part's weights, and front ends for a whole model's.

An index would name other files."""
_GRAPHS = (".onnx", ".onnx.data")
_COMPILED = ("onnx", "onnx-external-data")
"""Formats of files that ``export`` may write anew, in another precision of the same weights."""


def require_certified_files(folder: Path) -> None:
    """Refuse a release that holds other weights or engines than its certificates speak of.

    Args:
        folder: A release whose files are those of its SHA256SUMS.

    Raises:
        UsageError: a file differs, is missing or is none of the certificate's, or a certificate
            can't be read.
    """
    sums = read_sums(folder)
    for name in certificate_names(sums):
        try:
            certificate = json.loads((folder / name).read_text(encoding="utf-8"))
            problems = [
                *differing(model_files(certificate), sums),
                *uncertified_weights(certificate, sums),
                *foreign_graphs(certificate, sums),
            ]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UsageError(
                f"{folder / name}: not a readable certificate ({error!r})",
                "get the release again from where it was made",
            ) from error
        if problems:
            raise UsageError(
                f"{folder}: {problems[0]}",
                "do not deploy it; get the release again from where it was made",
            )


def model_files(certificate: Json) -> dict[str, str]:
    """Hashes by path of what the model is loaded from.

    A graph that was exported anew since stands among the added engines, with hashes of its own.
    """
    anew = {n for row in certificate.get("engines", ()) for n in (row["path"], *row["files"])}
    return {
        row["path"]: row["sha256"]
        for row in certificate["subject"]
        if not (row["format"] in _COMPILED and row["path"] in anew)
    }


def differing(certified: Mapping[str, str], sums: Mapping[str, str]) -> Iterator[str]:
    """Certified files that are missing or differ, in words."""
    for name, sha256 in certified.items():
        if name not in sums:
            yield f"{name} is certified but not listed"
        elif sums[name] != sha256:
            yield f"{name} differs from the certificate"


def uncertified_weights(certificate: Json, sums: Mapping[str, str]) -> Iterator[str]:
    """Weights that the certificate does not name, in words; of added ones it names the bytes."""
    known = {row["path"] for row in certificate["subject"]}
    added = {row["path"]: row["sha256"] for row in certificate.get("engines", ())}
    for name, sha256 in sums.items():
        if _WEIGHTS.search(name) and name not in known and added.get(name) != sha256:
            yield f"{name} holds weights that the certificate does not speak of"


def foreign_graphs(certificate: Json, sums: Mapping[str, str]) -> Iterator[str]:
    """ONNX graphs, or their weights, of which no certified or added file has the bytes."""
    known = {row["sha256"] for row in certificate["subject"]}
    for row in certificate.get("engines", ()):
        known |= {row["sha256"], *row["files"].values()}
    for name, sha256 in sums.items():
        if name.endswith(_GRAPHS) and sha256 not in known:
            yield f"{name} is an engine that the certificate does not speak of"
