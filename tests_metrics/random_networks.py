"""Random weights in the files that the libraries load, and pictures to look at."""

import io
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch_fidelity import FeatureExtractorInceptionV3

ALEX_FILE = "alexnet-owt-7be5be79.pth"
"""The name under which torchvision, and so lpips, looks for published weights in torch's cache."""


class Unloaded(FeatureExtractorInceptionV3):
    """torch-fidelity's network as it was initialised."""

    def load_state_dict(self, *arguments: object, **options: object) -> None:
        pass


def random_values(name: str, value: Tensor, generator: torch.Generator) -> Tensor:
    """He's initialisation, with which activations neither fade nor grow; no two values equal."""
    if not value.is_floating_point():
        return torch.zeros_like(value, device="cpu")
    noise = torch.randn(value.shape, generator=generator)
    if value.dim() > 1:
        return noise * (2 / value[0].numel()) ** 0.5
    return 1 + 0.2 * noise.abs() if name.endswith(("running_var", "bn.weight")) else 0.1 * noise


def write_inception(path: Path) -> Path:
    """A state dict of torch-fidelity's extractor, 95 MB."""
    nothing = io.BytesIO()
    torch.save({}, nothing)
    nothing.seek(0)
    state = Unloaded("random", ["2048"], feature_extractor_weights_path=nothing).state_dict()
    generator = torch.Generator().manual_seed(0)
    values = {name: random_values(name, value, generator) for name, value in state.items()}
    for name in values:
        if name.startswith("Mixed_7c") and name.endswith(("bn.weight", "bn.bias")):
            values[name] *= 0.3  # features about as large as with the published weights
    torch.save(values, path)
    return path


def write_trunk(make: Callable[..., nn.Module], path: Path) -> Path:
    """A state dict of torchvision; the classifier, which LPIPS does not use, takes no room."""
    with torch.device("meta"):
        state = make(weights=None).state_dict()
    generator = torch.Generator().manual_seed(1)
    values = {
        name: random_values(name, value, generator)
        if name.startswith("features.")
        else torch.zeros(1).expand(value.shape)
        for name, value in state.items()
    }
    torch.save(values, path)
    return path


def blobs(count: int, seed: int, contrast: float = 1.0, size: int = 64) -> Tensor:
    """Pictures (count, 3, size, size), uint8: smooth noise with sharp specks."""
    generator = torch.Generator().manual_seed(seed)
    rough = torch.rand(count, 3, 6, 6, generator=generator)
    smooth = nn.functional.interpolate(rough, size=(size, size), mode="bicubic")
    specks = torch.rand(count, 3, size, size, generator=generator) > 0.97
    return ((smooth * contrast).clamp(0, 1) * 255 * ~specks).byte()
