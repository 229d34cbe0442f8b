"""What an eraser's settings will not do under this policy, noted before anything is trained."""

from collections.abc import Mapping, Sequence

from safediff.erase.heard import reads_phrasings
from safediff.erase.methods import EraserParams
from safediff.erase.params import DistilParams
from safediff.policy.base_model import EMBEDDED
from safediff.policy.desk import Desk

_TUNED_HERE = ("safediff", "fast")
"""Presets of SDD whose settings were found on the embedded model."""
_WITHOUT_KEEP: Mapping[str, str] = {
    "keep_share": "has no effect",
    "null_space": "protects the empty prompt alone",
}
"""By knob: what it does without kept texts."""


def note_settings(desk: Desk, preset: str, params: EraserParams, keep: Sequence[str]) -> None:
    """Note what of the settings fits the policy badly.

    Args:
        desk: collects the notes.
        preset: that was named, or the method's default.
        params: the preset with the policy's overrides.
        keep: what is left of the kept texts.
    """
    _note_preset(desk, preset)
    _note_unread_targets(desk, preset, params)
    if not keep:
        _note_without_keep(desk, params)


def _note_preset(desk: Desk, preset: str) -> None:
    """Settings that were found on the embedded model are to train another one."""
    entry = desk.policy.erase
    if desk.policy.model.base == EMBEDDED or entry.method != "sdd" or preset not in _TUNED_HERE:
        return
    default = ", the default," if entry.preset is None else ""
    desk.notes.append(
        f"erase.preset: '{preset}'{default} was tuned on the embedded model only; preset: paper is "
        "the published one"
    )


def _note_unread_targets(desk: Desk, preset: str, params: EraserParams) -> None:
    """What is drawn instead belongs to phrasings, and some settings hear the erase texts alone."""
    entry = desk.policy.erase
    if entry.toward is None or reads_phrasings(params):
        return
    desk.notes.append(
        f"erase.toward is not read: {entry.method}'s preset '{preset}' hears the erase texts "
        "themselves, not the phrasings that it belongs to"
    )


def _note_without_keep(desk: Desk, params: EraserParams) -> None:
    """The settings count on kept texts, and the policy keeps none."""
    if not isinstance(params, DistilParams):
        return
    said = [
        f"{knob} {value:g} {left}"
        for knob, left in _WITHOUT_KEEP.items()
        if (value := getattr(params, knob))
    ]
    if said:
        desk.notes.append(f"keep: no text is kept, so {' and '.join(said)}")
