"""Compiled engines: export, runtime, parity."""
