"""``safediff schema``: the JSON schemas of what safediff reads and writes."""

import json
from typing import Annotated, Any

import typer

from safediff.errors import UsageError


def schema(
    verdict: Annotated[
        bool, typer.Option("--verdict", help="Of what verify --format json writes.")
    ] = False,
    certificate: Annotated[
        bool, typer.Option("--certificate", help="Of a release's safety-certificate.json.")
    ] = False,
) -> None:
    """Print the JSON schema of policies, for editors; or of verdicts or certificates."""
    if verdict and certificate:
        raise UsageError("--verdict and --certificate are two schemas", "give one of them")
    print(json.dumps(_schema(verdict, certificate), indent=2, ensure_ascii=False))


def _schema(verdict: bool, certificate: bool) -> dict[str, Any]:
    if verdict:
        from safediff.report.verdict_schema import verdict_schema

        return verdict_schema()
    if certificate:
        from safediff.release.certificate_schema import certificate_schema

        return certificate_schema()
    from safediff.policy.schema import policy_schema

    return policy_schema()
