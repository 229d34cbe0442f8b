"""The benchmark of the cost formula: what it predicts from, and that it runs what it predicts."""

from pathlib import Path
from types import ModuleType

import pytest
from benchmark_scripts import benchmark_script

from safediff.policy.load import load_plan


@pytest.fixture(scope="module")
def model() -> ModuleType:
    return benchmark_script("cost_model")


def test_passes_and_pictures_are_shared_and_the_rest_is_not(model: ModuleType) -> None:
    gate = model.Gate(policy=Path("p.yaml"), num_passes=1000, num_pictures=30)
    fit = model.Fit(of_a_pass=0.01, beside_a_picture=0.1, once=5.0)
    assert fit.predict(gate, 1) == pytest.approx(5 + 10 + 3)
    assert fit.predict(gate, 2) == pytest.approx(5 + (10 + 3) / 2)


@pytest.mark.parametrize("name", ["demo-weapons", "demo-vices", "demo-style"])
def test_a_gate_asks_for_a_share_of_the_policy(
    model: ModuleType, tmp_path: Path, name: str
) -> None:
    gate = model.smaller(name, tmp_path, 0.25, 8)
    whole, plan = load_plan(model.POLICIES / f"{name}.yaml"), load_plan(gate.policy)
    assert plan.verify.sampling.num_steps == whole.verify.sampling.num_steps
    assert plan.verify.sampling.batch_size == 8
    for few, many in zip(plan.verify.retention, whole.verify.retention, strict=True):
        assert len(few.prompts) == round(0.25 * len(many.prompts))
    assert not plan.verify.quality
    assert not plan.export.targets
    assert gate.num_pictures == plan.num_images
    # each picture takes 16 steps in two branches; attacks take some passes beside
    assert 32 * gate.num_pictures <= gate.num_passes <= 1.2 * 32 * gate.num_pictures


def test_a_gate_without_a_verdict_is_no_measurement(model: ModuleType, tmp_path: Path) -> None:
    gate = model.Gate(policy=tmp_path / "none.yaml", num_passes=1, num_pictures=1)
    with pytest.raises(RuntimeError, match=r"none: no verdict; it said: .*none\.yaml"):
        model.timed(["-m", "safediff.cli.app"], gate, tmp_path / "out")


def test_the_table_says_what_was_fitted_and_how_far_off_it_was(model: ModuleType) -> None:
    seconds = {"of_a_pass": 0.0042, "beside_a_picture": 0.011, "once": 12.34}
    row = {"passes": 12800, "pictures": 400, "predicted_s": 60.0, "measured_s": 63.0, "ratio": 1.05}
    result = {"fitted": {"seconds": seconds}, "rows": {"demo-vices, 1 process": row}}
    assert model.table(result) == (
        "4.20 ms a pass, 11.0 ms beside a picture, 12.3 s once.\n"
        "\n"
        "| gate | passes | pictures | predicted | measured | measured / predicted |\n"
        "|---|---|---|---|---|---|\n"
        "| demo-vices, 1 process | 12,800 | 400 | 60.0 s | 63.0 s | 1.05 |"
    )
