"""``safediff schema``: the JSON schema of policies, for editors."""

import json


def schema() -> None:
    """Print the JSON schema of policies."""
    from safediff.policy.schema import policy_schema

    print(json.dumps(policy_schema(), indent=2, ensure_ascii=False))
