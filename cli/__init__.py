"""The command line: one module per verb; it only wires the rooms together."""
