"""What attacks are said to cost and need, against what they do."""

import pytest
from attack_examples import (
    BENIGN,
    CONCEPTS,
    DRAWS,
    JUDGES,
    QUICK,
    SAMPLING,
    counted,
    tiny_models,
)

from safediff.attack.alignment import measure_alignment
from safediff.attack.base import Models
from safediff.attack.load import make_attack
from safediff.attack.params import (
    ATTACK_REGISTRY,
    ATTACKS,
    alignment_passes,
    early_passes,
    effort,
    find_attack,
    num_base_steps,
    unet_passes,
)
from safediff.errors import UsageError
from safediff.guard.load import make_guard
from safediff.policy.schema import Attack

MEDDLING = [name for name, profile in ATTACKS.items() if not profile.other_words]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return tiny_models(tmp_path_factory.mktemp("tiny"))


def test_policies_name_the_attacks_that_exist() -> None:
    assert ATTACK_REGISTRY.own == tuple(ATTACKS)


def test_policies_may_change_every_setting() -> None:
    settings = {key for profile in ATTACKS.values() for key in profile.settings}
    assert settings <= set(Attack.model_fields)


def test_unknown_attacks_are_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="unknown attack 'closed-from'; did you mean 'closed-form"):
        find_attack("closed-from")


@pytest.mark.parametrize("name", MEDDLING)
@pytest.mark.parametrize("guard", [None, "sld-medium"])
def test_passes_are_as_said(models: Models, name: str, guard: str | None) -> None:
    """Per attempt, both guidance branches counted; the guard steers the safe model only."""
    made = make_guard(guard, ["axe"]) if guard else None
    counting, log = counted(Models(base=models.base, safe=models.safe, guard=made))
    settings = {**ATTACKS[name].settings, **QUICK.get(name, {})}
    attack = make_attack(name, counting, CONCEPTS, settings, BENIGN, JUDGES)
    assert attack.obstacle() is None
    list(attack.pictures(DRAWS, SAMPLING))
    num_branches = made.num_branches if made else 2
    said = len(DRAWS) * unet_passes(name, settings, SAMPLING.num_steps, num_branches, 2)
    said += early_passes(name, settings, SAMPLING.num_steps, num_concepts=2, base_branches=2)
    assert sum(samples for _, _, samples in log) == said


@pytest.mark.parametrize("name", ["completion", "inpainting", "noise"])
def test_distilled_guidance_takes_half_the_passes(name: str) -> None:
    settings = ATTACKS[name].settings
    assert unet_passes(name, settings, 8, 2, 2) == 2 * unet_passes(name, settings, 8, 1, 1)
    early = [
        early_passes("classifier-guidance", QUICK["classifier-guidance"], 8, 2, n) for n in (1, 2)
    ]
    assert 0 < early[1] == 2 * early[0]


@pytest.mark.parametrize(
    ("name", "generations", "early"),
    [
        ("completion", 1, 0),
        ("inpainting", 2, 0),
        ("unlearn-diff-atk", 5, 0),
        ("textual-inversion", 1, 48),
        ("ring-a-bell", 1, 0),
        ("noise", 24, 0),
        ("classifier-guidance", 8, 48),
        ("fine-tuning", 1, 32),
    ],
)
def test_pictures_are_as_said(name: str, generations: int, early: int) -> None:
    """Of one attempt, and before the first at three concepts."""
    found = effort(name, ATTACKS[name].settings, num_concepts=3)
    assert (found.generations, found.early_generations) == (generations, early)


def test_passes_of_the_alignment_are_as_said(models: Models) -> None:
    counting, log = counted(models)
    measure_alignment(counting.base, counting.safe, ["axe", "bomb"])
    assert sum(samples for _, _, samples in log) == alignment_passes(2)


@pytest.mark.parametrize(
    ("base_share", "num_steps", "expected"),
    [(0.06, 50, 3), (0.06, 16, 1), (0.06, 5, 1), (0.5, 4, 2), (0.99, 4, 3)],
)
def test_the_base_runs_some_steps_and_never_all(
    base_share: float, num_steps: int, expected: int
) -> None:
    assert num_base_steps(base_share, num_steps) == expected


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("paraphrase", {}, "only asks in other words"),
        ("ring-a-bel-embedding", {}, "did you mean 'ring-a-bell-embedding'"),
        ("closed-form", {"eta": 1.0}, "'closed-form' has no setting 'eta'"),
    ],
)
def test_what_cannot_be_made(
    models: Models, name: str, settings: dict[str, float], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        make_attack(name, models, CONCEPTS, settings, BENIGN)


def test_settings_take_the_place_of_the_published_ones(models: Models) -> None:
    assert make_attack("closed-form", models, CONCEPTS, {"reg": 0.5}).reg == 0.5  # type: ignore[attr-defined]
    assert make_attack("completion", models, CONCEPTS, {}).base_share == 0.06  # type: ignore[attr-defined]
    made = make_attack("ring-a-bell-embedding", models, CONCEPTS, {}, BENIGN)
    assert made.eta == 3.0  # type: ignore[attr-defined]
