"""Every attack on the transformer families gives pictures, or says in one line why it does not."""

import copy

import pytest
import torch
from attack_examples import BENIGN, CONCEPTS, DRAWS, QUICK, BrightnessJudge
from transformer_examples import FAMILIES, shared_example

from safediff.attack.alignment import measure_alignment
from safediff.attack.base import Models
from safediff.attack.load import CLASSES, make_attack
from safediff.erase.weights import trainable_names
from safediff.models.backbone import Backbone
from safediff.sample.sampler import Sampling
from safediff.verify.drift import null_drift

# diffusers' DPM solver computes with NumPy on tensors
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")
SAMPLING = Sampling(num_steps=4, guidance_scale=3.0, seed=3, batch_size=4)
REFUSED = {
    "unlearn-diff-atk": "one text encoder, and that CLIP's",
    "textual-inversion": "one text encoder, and that CLIP's",
    "ring-a-bell": "one text encoder, and that CLIP's",
    "closed-form": "do not read the text encoder's states themselves",
    "noise": "its steps are DDIM's",
    "classifier-guidance": "its steps are DDIM's",
}


def edited(base: Backbone) -> Backbone:
    """The base with other keys and values of the text."""
    network, g = copy.deepcopy(base.denoiser), torch.Generator().manual_seed(7)
    parameters = dict(network.named_parameters())
    with torch.no_grad():
        for name in trainable_names(network, "kv"):
            parameters[name] += 0.2 * torch.randn(parameters[name].shape, generator=g)
    return base.with_denoiser(network)


@torch.no_grad()
@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("variant", FAMILIES)
def test_an_attack_draws_or_says_why_not(name: str, variant: str) -> None:
    base = shared_example(variant).backbone
    models = Models(base=base, safe=edited(base))
    judges = {"embedded": BrightnessJudge()}
    attack = make_attack(name, models, CONCEPTS, QUICK.get(name, {}), BENIGN, judges)
    reason = attack.obstacle()
    if name in REFUSED:
        assert reason is not None
        assert REFUSED[name] in reason
        assert "\n" not in reason
        return
    assert reason is None
    found = attack.latents(DRAWS[:2], SAMPLING)
    again = attack.latents(DRAWS[1:2], SAMPLING)
    assert found.shape == (2, *base.latent_shape)
    assert found.isfinite().all()
    torch.testing.assert_close(found[1:], again, atol=1e-3 * float(found.std()), rtol=0)


@pytest.mark.parametrize("variant", FAMILIES)
def test_drift_and_alignment_are_measured(variant: str) -> None:
    base = shared_example(variant).backbone
    assert measure_alignment(base, base, ["axe"]).drift == 0
    found = measure_alignment(base, edited(base), ["axe"])
    assert found.drift > 0
    assert abs(found.by_text["axe"] - 1) > 1e-3
    assert all(drift > 0 for _, drift in null_drift(base, edited(base)))
