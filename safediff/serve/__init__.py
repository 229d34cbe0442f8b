"""Serving a release: checks, pictures, batching, HTTP."""
