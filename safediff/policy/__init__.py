"""Policies: schema, source positions, resolution into a plan. Nothing here imports torch."""
