"""Checks, statistics, the journal and the verdict. This room knows numbers, not images."""
