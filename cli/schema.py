"""``safediff schema``: the JSON schemas of what safediff reads and writes."""

import json
from typing import Annotated

import typer


def schema(
    verdict: Annotated[
        bool, typer.Option("--verdict", help="Of what verify --format json writes.")
    ] = False,
) -> None:
    """Print the JSON schema of policies, for editors; or that of verdicts, for programs."""
    from safediff.policy.schema import policy_schema
    from safediff.report.verdict_schema import verdict_schema

    chosen = verdict_schema() if verdict else policy_schema()
    print(json.dumps(chosen, indent=2, ensure_ascii=False))
