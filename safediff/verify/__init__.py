"""Verification: draws the pictures that a plan asks for, has them judged, and asks the gate."""
