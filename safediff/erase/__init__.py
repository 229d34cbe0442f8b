"""Erasers: rollouts, losses and the trainer."""
