"""The packages of docs/extending.md, installed as pip installs them, do what the page says."""

import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from small_policy import QUICK, environment, small_plan, write_policy

from safediff.attack.params import ATTACK_REGISTRY
from safediff.cli import app
from safediff.errors import Inconclusive, PolicyError
from safediff.judge.load import JudgeRequest, load_judges
from safediff.judge.registry import JUDGES
from safediff.metrics.others import measure_other
from safediff.models.patch import load_patch
from safediff.report.sarif import render_sarif
from safediff.workflow.erase import erase
from safediff.workflow.run_folder import open_run
from safediff.workflow.ui import SilentUi

PAGE = (Path(__file__).parents[1] / "docs" / "extending.md").read_text(encoding="utf-8")
PICTURES = torch.randint(0, 256, (3, 3, 8, 8), generator=torch.Generator().manual_seed(0)).byte()

GREEN = "  - {name: axe, erase: [axe], judge: green, labels: [green]}"
EDITS = (
    *QUICK,
    (
        "  - {name: axe, erase: [axe]}",
        "  - {name: axe, erase: [axe], judge: green, labels: [green]}",
    ),
    (
        "erase:\n  options:\n    {num_steps: 8, learning_rate: 2.0e-2, num_inference_steps: 6, "
        "batch_size: 2, reuse: 2,\n     save_every_s: 0, log_every: 2}",
        "erase: {method: fade, options: {share: 0.25}}",
    ),
    (
        "  collapse:",
        "  quality: {metrics: {colour-shift: 0.5}}\n"
        "  attacks: [{name: louder, num_prompts: 4, settings: {gain: 3.0}}]\n  collapse:",
    ),
)


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def install(site: Path, **changes: str) -> Path:
    """Write the page's package and its metadata, as a wheel unpacks them."""
    files: dict[str, str] = {}
    for block in blocks("python"):
        name = re.match(r"# (\S+)", block)
        assert name is not None
        files[name[1]] = files.get(name[1], "") + block + "\n"
    for name, text in files.items():
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_text(text, encoding="utf-8")
    entries = "\n".join(blocks("toml")).replace("project.entry-points.", "").replace('"', "")
    for old, new in changes.items():
        assert old in entries
        entries = entries.replace(old, new)
    info = site / "meadow-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: meadow\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(entries)
    return site


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The package, importable here."""
    folder = install(tmp_path / "site")
    monkeypatch.syspath_prepend(str(folder))
    importlib.invalidate_caches()
    yield folder
    for name in [name for name in sys.modules if name.split(".")[0] == "meadow"]:
        del sys.modules[name]


def test_the_page_shows_the_edits_that_are_tested() -> None:
    (block,) = blocks("yaml")
    shown = block.replace(" ", "")
    for _, new in EDITS[len(QUICK) :]:
        for line in new.splitlines():
            assert line.replace(" ", "") in shown or line.strip() == "collapse:"


def test_a_policy_of_installed_parts_runs(site: Path, tmp_path: Path) -> None:
    plan = small_plan(tmp_path, *EDITS)
    run = open_run(plan, tmp_path / "run", resume=False)
    outcome = erase(plan, run, SilentUi())
    (report,) = outcome.reports
    rows = {result.id: result for result in report.results}
    shift = rows["quality/colour-shift"]
    assert shift.threshold.value == 0.5
    assert 0 < shift.estimate < 0.5
    louder = rows["robustness/louder"]
    assert louder.details["gain"] == 3.0
    assert louder.details["source"] == "guidance turned up"
    patch = load_patch(run.patch)
    assert patch.metadata["method"] == "fade"
    journal = (run.path / "journal.jsonl").read_text(encoding="utf-8")
    assert '"green": 0.' in journal
    assert "teacher under louder" in journal
    assert (run.path / "report.html").exists()
    assert "all/quality/colour-shift" in render_sarif(outcome.reports, "small.yaml")


def test_a_judge_with_scores_alone_is_told_before_the_training(site: Path, tmp_path: Path) -> None:
    """The page's judge on the first concept, on which quality is measured then."""
    first = ("erase: [bomb]}", "erase: [bomb], judge: green, labels: [green]}")
    plan = small_plan(tmp_path, *EDITS, first, ("{metrics:", "{lpips: 0.5, metrics:"))
    run = open_run(plan, tmp_path / "run", resume=False)
    with pytest.raises(Inconclusive, match="judge 'green' has no perceptual distance"):
        erase(plan, run, SilentUi())
    assert not run.patch.exists()
    assert not (run.path / "journal.jsonl").exists()


def test_an_eraser_gets_the_policys_options(site: Path, tmp_path: Path) -> None:
    from safediff.erase.closed_form.kv import kv_weights
    from safediff.models.load import load_backbone
    from safediff.workflow.training import train

    plan = small_plan(tmp_path, *EDITS)
    base = load_backbone(plan.model)
    run = open_run(plan, tmp_path / "run", resume=False)
    patch = train(plan, base, run, SilentUi()).teacher
    name, original = next(iter(kv_weights(base.denoiser).items()))
    torch.testing.assert_close(patch.tensors[name].double(), 0.75 * original, atol=1e-6, rtol=1e-6)


CODE = "import sys, atexit; atexit.register(lambda: print('torch' in sys.modules, file=sys.stderr))"


@pytest.mark.parametrize(
    ("edits", "code", "expected"),
    [
        (EDITS, 0, "valid"),
        ((*EDITS, ("judge: green", "judge: gren")), 2, "did you mean 'green'?"),
        ((*EDITS, ("colour-shift: 0.5", "color-shift: 0.5")), 2, "did you mean 'colour-shift'?"),
        ((*EDITS, ("name: louder", "name: loud")), 2, "did you mean 'louder'?"),
        ((*EDITS, ("method: fade", "method: fadee")), 2, "did you mean 'fade'?"),
        ((*EDITS, ("gain: 3.0", "gian: 3.0")), 2, "did you mean 'gain'?"),
        ((*EDITS, ("share: 0.25", "shore: 0.25")), 2, "did you mean 'share'?"),
        ((*EDITS, ("colour-shift: 0.5", "kid: 0.5")), 2, "'kid' is ours"),
    ],
)
def test_policies_are_checked_without_torch(
    tmp_path: Path, edits: tuple[tuple[str, str], ...], code: int, expected: str
) -> None:
    folder = install(tmp_path / "site")
    policy = write_policy(tmp_path, *edits)
    paths = f"{folder}:{Path(app.__file__).resolve().parents[1]}"
    script = f"{CODE}\nfrom safediff.cli.app import main\nsys.exit(main())"
    ended = subprocess.run(
        [sys.executable, "-c", script, "validate", str(policy)],
        capture_output=True,
        text=True,
        check=False,
        env=environment(PYTHONPATH=paths),
    )
    assert ended.returncode == code, ended.stderr
    assert expected in ended.stdout + ended.stderr
    assert ended.stderr.splitlines()[-1] == "False"


def test_without_the_package_its_names_are_unknown(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=r"expected 'embedded', 'nudenet'.*got text 'green'"):
        small_plan(tmp_path, *EDITS)


def test_our_names_are_not_given_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = install(tmp_path / "site", green="embedded")
    monkeypatch.syspath_prepend(str(folder))
    assert "embedded" not in JUDGES.installed()
    assert "judge 'embedded' of meadow: the name is ours" in JUDGES.ignored()
    assert load_judges([JudgeRequest(name="embedded")])["embedded"].labels != ("green",)


def test_no_attack_takes_the_name_of_another_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = install(tmp_path / "site", louder="alignment")
    monkeypatch.syspath_prepend(str(folder))
    assert "attack 'alignment' of meadow: the name is ours" in ATTACK_REGISTRY.ignored()
    with pytest.raises(PolicyError, match="got text 'alignment'"):
        small_plan(tmp_path, *EDITS, ("name: louder", "name: alignment"))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("lambda a, b, p: a.float().mean()", r"gave \(\), not one number for each of 3 pairs"),
        ("lambda a, b, p: [0.0] * 3", "gave list, not one number"),
        ("lambda a, b, p: a.float().mean((1, 2, 3)) / 0", "not finite"),
        ("lambda a, b, p: 1 / 0", "failed: division by zero"),
        ("3", "is no function"),
    ],
)
def test_what_is_no_metric_is_inconclusive(site: Path, function: str, message: str) -> None:
    parts: Any = importlib.import_module("meadow.parts")
    parts.colour_shift = eval(function)
    with pytest.raises(Inconclusive, match=message):
        measure_other("colour-shift", PICTURES, PICTURES, ["a", "b", "c"])


def test_what_is_no_attack_or_eraser_is_inconclusive(site: Path) -> None:
    from safediff.attack.params import find_attack
    from safediff.erase.methods import find_method

    meadow: Any = importlib.import_module("meadow")
    meadow.LOUDER, meadow.FADE = "x", "y"
    with pytest.raises(Inconclusive, match="attack 'louder' is no safediff"):
        find_attack("louder")
    with pytest.raises(Inconclusive, match="eraser 'fade' is no safediff"):
        find_method("fade")
