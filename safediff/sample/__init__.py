"""The seeded, batched sampler."""
