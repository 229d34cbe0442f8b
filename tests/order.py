"""Which files begin first where several processes share them."""

import pytest

LONGEST = (
    "test_erase_shards.py",
    "test_fake_gpu.py",
    "test_verify_shards.py",
    "test_cli_verify.py",
    "test_workflow_transformers.py",
    "test_workflow_bases.py",
    "test_workflow_deploy.py",
    "test_erase_memory.py",
    "test_workflow_erase.py",
    "test_workflow_families.py",
    "test_workflow_ahead.py",
    "test_export_on_cpu.py",
    "test_workflow_parts.py",
    "test_gpu_benchmark.py",
    "test_release_audit_attacked.py",
    "test_workflow_combine.py",
    "test_workflow_export.py",
    "test_verify_attacks.py",
    "test_plan_gate.py",
    "test_cli_baseline.py",
)
"""From the longest on: one that began last would keep one process alone busy."""


def longest_first(items: list[pytest.Item]) -> None:
    """Move the tests of the longest files to the front; all others keep their places."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))
