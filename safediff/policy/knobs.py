"""Preset and overrides: checked against the eraser while the line number is at hand."""

import re
from dataclasses import fields

from safediff.erase.methods import EraserParams, find_method, resolve
from safediff.erase.params import DistilParams
from safediff.errors import UsageError
from safediff.policy.desk import Desk
from safediff.policy.problems import Loc, did_you_mean
from safediff.policy.window import MAX_TOKENS, estimated_tokens

_ONE_KNOB = re.compile(r"erase\.options\.(\w+): (.*)", re.DOTALL)


def resolve_preset(desk: Desk) -> str:
    """The preset that the policy names, or the method's default."""
    entry, presets = desk.policy.erase, list(find_method(desk.policy.erase.method).presets)
    if entry.preset is None:
        return presets[0]
    if entry.preset not in presets:
        hint = did_you_mean(entry.preset, presets) or f"; use {', '.join(presets)}"
        desk.source.refuse(
            ("erase", "preset"), f"{entry.method} has no preset '{entry.preset}'{hint}"
        )
        return presets[0]
    return entry.preset


def check_options(desk: Desk, preset: str) -> EraserParams | None:
    """Refuse unknown knobs, wrong types and ranges, every one at its own place.

    Returns:
        The settings as far as they are right; None if no part of them stands for itself.
    """
    loc: Loc = ("erase", "options")
    entry = desk.policy.erase
    known = [knob.name for knob in fields(find_method(entry.method).presets[preset])]
    for name in entry.options:
        if name not in known:
            hint = did_you_mean(name, known)
            desk.source.refuse((*loc, name), f"{entry.method} has no knob '{name}'{hint}")
    options = {name: value for name, value in entry.options.items() if name in known}
    while True:
        try:
            params = resolve(entry.method, preset, options)
        except UsageError as error:
            name, message = _split("; ".join(filter(None, (str(error), error.next_step))))
            desk.source.refuse((*loc, name) if name else loc, message)
            if options.pop(name, None) is None:
                return None
        else:
            _check_window(desk, params)
            return params


def _check_window(desk: Desk, params: EraserParams) -> None:
    """Where texts are joined into one, it must fit into what the text encoder reads."""
    if not isinstance(params, DistilParams):
        return
    if "joined" not in (params.loss_text, params.rollout_text):
        return
    joined = ", ".join(text for concept in desk.policy.concepts for text in concept.erase)
    num_words, estimate = len(joined.split()), estimated_tokens(joined)
    if estimate > MAX_TOKENS:
        message = (
            f"all erase texts together have {num_words} words, about {estimate} tokens; the text "
            f"encoder reads {MAX_TOKENS} and would drop the rest without a word: split the policy, "
            "or choose a preset that does not join them"
        )
        desk.source.refuse(("concepts",), message)


def _split(message: str) -> tuple[str, str]:
    match = _ONE_KNOB.fullmatch(message)
    return (match[1], match[2]) if match else ("", message)
