"""The judges by name. Imports no torch: policies are checked from here."""

from safediff.registry import Registry

JUDGES = Registry("judge", "safediff.judges")
"""Each is a function of the labels asked for and of the policy's settings that gives a judge."""

for _name in ("embedded", "nudenet", "q16", "clip"):
    JUDGES.register(_name, f"safediff.judge.{_name}:make")
