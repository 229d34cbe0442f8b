"""Text-to-image diffusion models made safe by policy."""

__version__ = "0.1.0"
