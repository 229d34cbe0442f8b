"""What is exported: the erased model of a run or of a release, with its base where it is known."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safediff.errors import SafediffError, UsageError
from safediff.export.engine_files import MODEL_NAME, Precision
from safediff.models.backbone import Backbone
from safediff.models.load import load_backbone
from safediff.models.patch import load_patch, unet_sha256
from safediff.policy.plan import ModelPlan
from safediff.release.certificate import CERTIFICATE_NAME
from safediff.release.certified_files import require_certified_files
from safediff.release.checksums import read_sums, verify_checksums
from safediff.release.engines import certificate_names
from safediff.release.stamps import Stamp, stamps_of
from safediff.release.weights import denoiser_folder
from safediff.workflow.engines import require_exportable
from safediff.workflow.run_folder import RunFolder
from safediff.workflow.safe_model import share_equal
from safediff.workflow.subject import open_subject

OPSET = 18
"""Where nobody says another one; what plans are built from."""


@dataclass(frozen=True, kw_only=True)
class ExportSource:
    """A model whose weights were verified, or are to be."""

    path: Path
    policies: tuple[dict[str, Any], ...]
    """The resolved plans: one, or of a release that combines policies that of the folder first."""
    model: Backbone
    base: Backbone | None
    """None where the base can't be loaded here: then what depends on it is not measured."""
    base_sha256: str
    """Hash of the base denoiser."""
    release: Path | None
    """Release folder with a certificate; None for a run that has not met its policy."""
    stamps: Mapping[str, Stamp]
    """Of the release's files, taken before they were checked (``copy_checked``)."""
    engine: Path | None
    """Engine folder of the same weights."""

    @property
    def policy(self) -> dict[str, Any]:
        """The resolved plan, of several the first."""
        return self.policies[0]

    @property
    def erased_prompts(self) -> list[str]:
        """Every phrasing of every concept."""
        return [text for p in self.policies for c in p["concepts"] for text in c["phrasings"]]

    @property
    def kept_prompts(self) -> list[str]:
        """The empty prompt and the keep list."""
        return ["", *(text for policy in self.policies for text in policy["erase"]["keep"])]


def policy_form(path: Path) -> tuple[Precision, int]:
    """Precision and opset that the policy of a run or release wants, of several the first.

    An engine in both is the one that was gated. fp32 and 18 where there are none to read:
    ``open_source`` says what is wrong with the folder.
    """
    for file, key in ((path / "plan.json", "plan"), (path / CERTIFICATE_NAME, "policy")):
        try:
            found = json.loads(file.read_text(encoding="utf-8"))[key]
            resolved = found["resolved"] if key == "policy" else found
            wanted = resolved["export"]
            return wanted.get("precision", "fp32"), wanted.get("opset", OPSET)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
    return "fp32", OPSET


def open_source(path: Path) -> ExportSource:
    """Load a run or a release.

    Raises:
        UsageError: it is neither, a release does not match its checksums, or the model is of a
            family that has no engines.
        Inconclusive: it can't be read.
    """
    if (path / "plan.json").exists():
        source = _open_run(RunFolder(path))
    elif (path / CERTIFICATE_NAME).exists():
        source = _open_release(path)
    else:
        raise UsageError(
            f"{path}: is neither a run nor a release", "give a folder that safediff erase wrote"
        )
    require_exportable(source.model)
    return source


def _open_run(run: RunFolder) -> ExportSource:
    released = (run.release / CERTIFICATE_NAME).exists()
    stamps = stamps_of(run.release)
    if released:  # it will be copied, and the copy gets checksums of its own
        verify_checksums(run.release)
        require_certified_files(run.release)
    subject = open_subject(str(run.path))
    base, model = subject.models["base"], subject.models["erased"]
    return ExportSource(
        path=run.path,
        policies=(json.loads((run.path / "plan.json").read_text(encoding="utf-8"))["plan"],),
        model=model,
        base=base,
        base_sha256=load_patch(run.patch).base_sha256,  # which the base was just held against
        release=run.release if released else None,
        stamps=stamps,
        engine=_engine(denoiser_folder(run.release) if released else run.engine),
    )


def _open_release(path: Path) -> ExportSource:
    stamps = stamps_of(path)
    *_, model = open_subject(str(path)).models.values()
    names = certificate_names(read_sums(path))
    certificates = [json.loads((path / name).read_text(encoding="utf-8")) for name in names]
    base_sha256: str = certificates[0]["base_model"]["sha256"]["unet"]
    policies = tuple(certificate["policy"]["resolved"] for certificate in certificates)
    return ExportSource(
        path=path,
        policies=policies,
        model=model,
        base=_find_base(policies[0]["model"], base_sha256, model),
        base_sha256=base_sha256,
        release=path,
        stamps=stamps,
        engine=_engine(denoiser_folder(path)),
    )


def _engine(folder: Path) -> Path | None:
    return folder if (folder / MODEL_NAME).exists() else None


def _find_base(model: dict[str, Any], sha256: str, safe: Backbone) -> Backbone | None:
    """The base; what erasing left as it was takes no memory of its own."""
    try:
        base = load_backbone(ModelPlan(**model))
    except SafediffError:
        return None
    if unet_sha256(base.denoiser) != sha256:
        return None
    share_equal(safe.denoiser, base.denoiser)
    return base
