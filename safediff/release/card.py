"""README.md of a release: a model card with Hugging Face front matter, all from the certificate."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from safediff.gate.numbers import show
from safediff.release.guarded import guarded

CARD_NAME = "README.md"

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")

_BODY = """\
# {title}

**{statement}**

Verdict: **{verdict}** ({counts}). Measured from {issued}, valid until {expires}. All numbers below
come from `safety-certificate.json`; `sha256sum -c SHA256SUMS` checks the files.

## Use
{use}
## Results

| subject | check | metric | estimate | bounds | threshold | n | base model | verdict |
|---|---|---|---|---|---|---|---|---|
{rows}
{parity}{added}
## What was changed

{modification}

## Attacks

{attacks}

## Known counter-evidence

{counter_evidence}

## Waivers

{waivers}

## Limitations

{limitations}

The gate measures what its judges see on the prompts of the policy, in pictures of this model. It
does not show that no prompt, attack or later training brings a concept back.
"""

_PLAIN = """
```python
from diffusers import DiffusionPipeline

pipe = DiffusionPipeline.from_pretrained("path/to/this/folder")
```
"""
_GUARDED = """
All that was measured was measured behind {told}. The guard is no part of the weights, so diffusers
alone, which draws without it, does not give the model that this card is about:

```python
from safediff.export.runtime import SafePipeline

pipe = SafePipeline.from_release("path/to/this/folder")  # draws behind the guard
pictures = pipe("a prompt")
```

`safediff serve path/to/this/folder` does the same by HTTP.
"""
_ENGINE = """
The ONNX engine computes the same {network}:

```python
from pathlib import Path

from safediff.export.runtime import {opened}

pipe.{component} = {opened}(Path("path/to/this/folder/{component}"))
```
"""
_ADDED = """
## Engines added later

The verdict and the results above do not speak of these; one of them may lie where the engine lay
that they speak of.
"""
_NETWORKS = {
    "unet": ("UNet", "ExportedUNet"),
    "transformer": ("transformer", "ExportedTransformer"),
}


def model_card(certificate: Mapping[str, Any]) -> str:
    """The card's text. The same certificate gives the same bytes."""
    parity = certificate["deployment_parity"]
    body = _BODY.format(
        title=_title(certificate),
        statement=certificate["statement"],
        verdict=certificate["verdict"],
        counts=", ".join(f"{n} {name}" for name, n in certificate["counts"].items() if n),
        issued=certificate["issued_at"],
        expires=certificate["expires_at"],
        use=_use(certificate),
        rows="\n".join(_row(check) for check in certificate["checks"]),
        parity="\n" + "\n".join(_parity_line(row) for row in parity) + "\n" if parity else "",
        added=_added(certificate["engines"]),
        modification=_bullets(_modification(certificate["modification"])),
        attacks=_attacks(certificate["attacks"]),
        waivers=_bullets(map(_waiver, certificate["policy"]["waivers"])) or "None.",
        counter_evidence=_bullets(_facts(row) for row in certificate["counter_evidence"])
        or certificate["counter_evidence_note"],
        limitations=_bullets(certificate["limitations"]) or "- none stated",
    )
    return f"---\n{yaml.safe_dump(_front_matter(certificate), sort_keys=False)}---\n\n{body}"


def _use(certificate: Mapping[str, Any]) -> str:
    """How to draw as was measured; behind a guard only ``SafePipeline`` does."""
    if guard := guarded(certificate["policy"]["resolved"]):
        return _GUARDED.format(told=guard.told)
    return _PLAIN + _engine(certificate)


def _engine(certificate: Mapping[str, Any]) -> str:
    """How its engine is used, where it has one."""
    held = {f["path"].partition("/")[0] for f in certificate["subject"] if f["format"] == "onnx"}
    return "".join(
        _ENGINE.format(component=component, network=network, opened=opened)
        for component, (network, opened) in _NETWORKS.items()
        if component in held
    )


def _title(certificate: Mapping[str, Any]) -> str:
    return f"{certificate['base_model']['id']}, policy {certificate['policy']['name']}"


def _front_matter(certificate: Mapping[str, Any]) -> dict[str, Any]:
    base, policy = certificate["base_model"], certificate["policy"]
    matter: dict[str, Any] = {
        "license": base["license"],
        # the hub shows how its library loads a model, and diffusers draws without a guard
        "library_name": "safediff" if guarded(policy["resolved"]) else "diffusers",
        "pipeline_tag": "text-to-image",
        "tags": [*_family(certificate), "concept-erasure", "safediff"],
    }
    if _HUB_ID.fullmatch(base["id"]):  # the hub accepts nothing else here
        matter["base_model"] = base["id"]
    matter["model-index"] = [{"name": _title(certificate), "results": [_index_result(certificate)]}]
    return matter


def _family(certificate: Mapping[str, Any]) -> list[str]:
    """The hub's tag for the families with a UNet; those with a transformer are told by theirs."""
    has_unet = any(file["path"].startswith("unet/") for file in certificate["subject"])
    return ["stable-diffusion"] if has_unet else []


def _index_result(certificate: Mapping[str, Any]) -> dict[str, Any]:
    policy = certificate["policy"]
    return {
        "task": {"type": "text-to-image"},
        "dataset": {"name": f"prompts of policy {policy['name']}", "type": "safediff-policy"},
        "metrics": [
            {
                "type": check["metric"],
                "name": f"{check['id']} ({check['subject']})",
                "value": check["estimate"],
            }
            for check in certificate["checks"]
            if check["gating"] and check["estimate"] is not None
        ],
    }


def _row(check: Mapping[str, Any]) -> str:
    limit = check["threshold"]
    cells = [
        check["subject"],
        f"`{check['id']}`",
        check["metric"],
        _held(check, "estimate"),
        f"{_held(check, 'lower')} to {_held(check, 'upper')}",
        f"{limit['bound']} {limit['op']} {limit['value']:g}",
        str(check["num_samples"]),
        _number(check["base_value"]),
        check["verdict"],
    ]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _held(check: Mapping[str, Any], name: str) -> str:
    """The estimate or a bound; the one that is held against the limit stays on its side of it."""
    value, limit = check[name], check["threshold"]
    ends = {"value": ["estimate"], "both": ["lower", "upper"]}
    if value is None or name not in ends.get(limit["bound"], [limit["bound"]]):
        return _number(value)
    return show(value, -limit["value"] if limit["op"] == "abs<=" and value < 0 else limit["value"])


def _parity_line(row: Mapping[str, Any]) -> str:
    worst = [step["max_abs"] for step in row["timesteps"]]
    largest = "not finite" if None in worst else f"{max(worst):.2g} standard deviations"
    outcome = "within" if row["passed"] else "outside"
    return (
        f"`{row['artifact']}` ({row['precision']}) against {row['reference']}: largest difference "
        f"of a noise prediction {largest}, {outcome} its limits."
    )


def _added(rows: Sequence[Mapping[str, Any]]) -> str:
    """Engines that the verdict does not speak of, where there are any."""
    if not rows:
        return ""
    head = "| file | kind | precision | holds the certified weights by | gate |"
    return "\n".join([_ADDED, head, "|---|---|---|---|---|", *map(_added_row, rows), ""])


def _added_row(row: Mapping[str, Any]) -> str:
    cells = [f"`{row['path']}`", row["kind"], row["precision"], row["weights"]]
    return "| " + " | ".join([*cells, row["gate"] or "not measured"]) + " |"


def _modification(facts: Mapping[str, Any]) -> list[str]:
    flops = facts["flop_estimate"]
    shown = f"{flops['value']:.3g} ({flops['how']})" if flops["value"] else flops["how"]
    return [f"{k}: {v}" for k, v in {**facts, "flop_estimate": shown}.items()]


def _attacks(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return "None was run."
    head = "| subject | attack | access | UNet passes a prompt | came back | base model | verdict |"
    return "\n".join([head, "|---|---|---|---|---|---|---|", *map(_attack, rows)])


def _attack(row: Mapping[str, Any]) -> str:
    success, budget = row["success"], row["budget"]
    cells = [
        row["subject"],
        row["id"],
        row["access"] or "–",  # noqa: RUF001
        str(budget["unet_passes_per_prompt"] or "–"),  # noqa: RUF001
        _share(success["under_attack"]),
        _share(success["base_model"]),
        row["verdict"],
    ]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _share(found: Mapping[str, Any] | None) -> str:
    return f"{found['successes']} of {found['attempts']}" if found else "not tried"


def _waiver(row: Mapping[str, Any]) -> str:
    return f"`{row['check']}`, until {row['expires']}, by {row['owner']}: {row['reason']}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"  # noqa: RUF001


def _facts(row: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}: {value}" for key, value in row.items())


def _bullets(lines: Any) -> str:
    return "\n".join(f"- {line}" for line in lines)
