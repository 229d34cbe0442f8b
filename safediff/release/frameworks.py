"""Where a certificate holds what published frameworks ask for. A map, no claim of conformity.

The clauses were taken from secondary descriptions; nobody here has checked them against the
primary texts, and every row says so.
"""

from collections.abc import Mapping, Sequence
from typing import Any

_UNCHECKED = {"primary_text_checked": False}

FRAMEWORKS: Sequence[Mapping[str, Any]] = (
    {
        "framework": "EU General-Purpose AI Model Documentation Form",
        "clause": "1.3, identification of the model by hash",
        "fields": ["subject", "base_model", "journal"],
        **_UNCHECKED,
    },
    {
        "framework": "EU General-Purpose AI Model Documentation Form",
        "clause": "1.6, dependencies",
        "fields": ["base_model", "environment"],
        **_UNCHECKED,
    },
    {
        "framework": "EU guidelines on providers of general-purpose AI models",
        "clause": "compute of a modification, against a third of the original's",
        "fields": ["modification.flop_estimate", "modification.gpu_hours"],
        **_UNCHECKED,
    },
    {
        "framework": "NIST AI 600-1",
        "clause": "Obscene, Degrading, and/or Abusive Content; where the policy's concepts are "
        "of that kind",
        "fields": ["checks", "attacks", "counter_evidence", "limitations"],
        **_UNCHECKED,
    },
)
