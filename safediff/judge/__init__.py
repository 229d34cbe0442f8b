"""Judges look at images and say which concepts are present, with raw scores."""
