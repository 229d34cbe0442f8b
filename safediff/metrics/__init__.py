"""Quality metrics: thin wrappers over torchmetrics, torch-fidelity, lpips and the judge."""
