"""Guards: guidance at sampling that steers away from texts; no weights change."""
