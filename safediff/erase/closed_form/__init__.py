"""Erasers that solve for new keys and values of cross-attention instead of training them."""
