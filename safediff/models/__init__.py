"""Backbones (a diffusers pipeline behind one small interface), patches and the embedded model."""
