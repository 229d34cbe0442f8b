"""Attacks: what an adversary can do to bring an erased concept back."""
