"""The JSON schema of the verdict document, made from the gate's classes so that it cannot lag."""

from typing import Any

from pydantic import TypeAdapter

from safediff.gate import verdict
from safediff.gate.verdict import GateReport, Verdict
from safediff.report import json_report

Json = dict[str, Any]

SHA256: Json = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
VERDICT: Json = {"$ref": "#/$defs/Verdict"}


def verdict_schema() -> Json:
    """The schema (2020-12) of ``json_report.verdict_document``.

    Every key is always there, and there are no others: what a consumer may rely on for one
    ``schema_version``.
    """
    report = TypeAdapter(GateReport).json_schema(mode="serialization")
    definitions: Json = report.pop("$defs")
    # Derived or written beside the fields, so pydantic does not see them.
    report["properties"] |= {"verdict": VERDICT, "schema_version": _const(verdict.SCHEMA_VERSION)}
    definitions["GateReport"] = report
    for definition in definitions.values():
        if "properties" in definition:
            definition |= _object(definition["properties"])
    count: Json = {"type": "integer", "minimum": 0}
    text: Json = {"type": "string"}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "The verdict of safediff verify",
        "$defs": definitions,
        **_object(
            {
                "schema_version": _const(json_report.SCHEMA_VERSION),
                "kind": _const(json_report.KIND),
                "verdict": VERDICT,
                "counts": _object({name.value: count for name in Verdict}),
                "policy": _object(
                    {"name": text, "path": text, "sha256": SHA256, "plan_sha256": SHA256}
                ),
                "reports": {"type": "array", "items": {"$ref": "#/$defs/GateReport"}},
            }
        ),
    }


def _object(properties: Json) -> Json:
    return {
        "type": "object",
        "properties": properties,
        "required": sorted(properties),
        "additionalProperties": False,
    }


def _const(value: int | str) -> Json:
    return {"type": "integer" if isinstance(value, int) else "string", "const": value}
