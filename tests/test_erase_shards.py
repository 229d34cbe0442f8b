"""Several processes distil together: the patch of one process with the whole batch."""

import json
import math
import signal
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from erase_examples import CONCEPTS, KEEP, SMALL, frozen_backbone, small_trainer
from small_policy import QUICK, finished, safediff, write_policy
from test_verify_shards import ACCELERATE, by_torchrun, launched, together
from torch import Tensor
from tracker_example import told as told_wandb
from tracker_example import write_wandb

from safediff.compare.rows import choose
from safediff.compare.table import to_json
from safediff.erase.checkpoint import Progress
from safediff.erase.losses import Losses, distil_losses, null_drift
from safediff.erase.micro_batch import backward
from safediff.erase.micro_batch import parts as parts_of
from safediff.erase.params import PRESETS, DistilParams
from safediff.erase.rollout import rollout
from safediff.erase.texts import Batch, TextBank
from safediff.erase.trainer import StepInfo
from safediff.errors import Inconclusive
from safediff.gate.verdict import load_report
from safediff.guard.load import make_guard
from safediff.models.backbone import Backbone
from safediff.models.load import load_backbone
from safediff.models.patch import load_patch
from safediff.policy.load import load_plan
from safediff.policy.plan import ModelPlan
from safediff.sample.sampler import Sampling
from safediff.sample.shards import Shards
from safediff.workflow import engines, training
from safediff.workflow.compare import run_contest
from safediff.workflow.generate import generate_grid
from safediff.workflow.run_folder import RunFolder, read_training
from safediff.workflow.ui import SilentUi

UNEVEN = replace(
    SMALL,
    num_steps=4,
    reuse=2,
    batch_size=5,
    keep_share=0.4,
    order="random",
    loss_text="phrasings",
    rollout_text="phrasings",
    target="frozen",
    eta=0.5,
    anchor_weight=0.3,
    ema_decay=0.5,
    log_every=1,
)
"""Three rows to erase and two kept ones: no two processes have equal shares."""
VARIANTS = {
    "uneven": UNEVEN,
    "no row for some": replace(UNEVEN, batch_size=1, keep_share=0.0),
    "no row to erase for some": replace(UNEVEN, batch_size=4, keep_share=0.75),
    "student as target": replace(UNEVEN, target="student", eta=0.0),
    "null space, way back": replace(
        UNEVEN, trainable="kv", null_space=0.1, way_back_share=0.5, anchor_weight=0.0
    ),
    "low rank": replace(UNEVEN, lora_rank=2),
    "warm start": replace(
        UNEVEN, trainable="kv", null_space=0.1, warm_start=0.5, keep_sampling="influence"
    ),
    "part by part": replace(UNEVEN, micro_batch=2),
    "by what remains": replace(UNEVEN, order="remaining", micro_batch=2),
}

TRAIN = """
import sys
from dataclasses import asdict
from pathlib import Path
from erase_examples import CONCEPTS, KEEP, frozen_backbone
from safediff.erase.trainer import DistilTrainer
from safediff.models.patch import save_patch
from safediff.sample.shards import sharded
from test_erase_shards import VARIANTS
folder = Path(sys.argv[1])
with sharded() as shards:
    own = folder / f"rank-{shards.rank}"
    backbone = frozen_backbone(own)
    for name, params in VARIANTS.items():
        trainer = DistilTrainer(backbone, CONCEPTS, KEEP, params, 7, shards=shards)
        steps = []
        erased = trainer.run(lambda info: steps.append(str(asdict(info))), own / "checkpoint")
        save_patch(erased.teacher, own / f"{name}.safetensors")
        save_patch(erased.student, own / f"{name}.student.safetensors")
        (own / f"{name}.txt").write_text(chr(10).join(steps))
"""


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return frozen_backbone(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All variants by two processes that ``accelerate launch`` started."""
    folder = tmp_path_factory.mktemp("shared")
    here = str(Path(__file__).parent)
    (folder / "train.py").write_text(TRAIN, encoding="utf-8")
    path = ":".join([here, *sys.path])
    done = launched(ACCELERATE, folder / "train.py", folder, PYTHONPATH=path)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("name", VARIANTS)
def test_two_processes_give_the_patch_of_one(backbone: Backbone, trained: Path, name: str) -> None:
    infos: list[StepInfo] = []
    erased = small_trainer(backbone, VARIANTS[name]).run(infos.append)
    assert erased.student is not None
    for patch, suffix in ((erased.teacher, ""), (erased.student, ".student")):
        found = load_patch(trained / "rank-0" / f"{name}{suffix}.safetensors")
        assert found.tensors.keys() == patch.tensors.keys()
        base = backbone.denoiser.state_dict()
        for tensor, expected in patch.tensors.items():
            torch.testing.assert_close(found.tensors[tensor], expected, atol=1e-5, rtol=0)
        moved = max(float((w - base[n]).abs().max()) for n, w in patch.tensors.items())
        assert moved > 1e-4  # so the tolerance says something
    logs = [(trained / f"rank-{rank}" / f"{name}.txt").read_text() for rank in range(2)]
    assert len(set(logs)) == 1
    steps = [eval(line) for line in logs[0].splitlines()]
    for step, info in zip(steps, infos, strict=True):
        for key in ("loss", "erase", "keep", "anchor", "grad_norm", "null_drift"):
            assert step[key] == pytest.approx(getattr(info, key), rel=1e-4, abs=1e-7), key
        assert step["num_passes"] == info.num_passes


def test_all_processes_hold_the_same_student(trained: Path) -> None:
    for name in VARIANTS:
        for suffix in ("", ".student"):
            files = [trained / f"rank-{r}" / f"{name}{suffix}.safetensors" for r in range(2)]
            assert len({path.read_bytes() for path in files}) == 1


def test_process_0_alone_writes_checkpoints(trained: Path) -> None:
    assert [(trained / f"rank-{r}" / "checkpoint").exists() for r in range(2)] == [True, False]


def shares(backbone: Backbone, params: DistilParams, count: int) -> tuple[Batch, list[Batch]]:
    bank = TextBank(backbone, CONCEPTS, KEEP)
    whole = bank.draw(0, params, torch.Generator().manual_seed(0))
    return whole, [whole.share(Shards(rank, count)) for rank in range(count)]


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_parts_of_the_means_add_up(backbone: Backbone, count: int) -> None:
    """The plain mean over all rows against the sum of what each process gives."""
    whole, parts = shares(backbone, UNEVEN, count)
    assert sum(len(part.c_s) for part in parts) == 5
    assert sum(part.num_erase for part in parts) == 3
    assert sum(part.part_of_erase for part in parts) == pytest.approx(1)
    assert sum(part.part_of_keep for part in parts) == pytest.approx(1)
    trainer = small_trainer(backbone, UNEVEN)
    null, moved = trainer.texts.null, [v.detach() + 0.01 for v in trainer.student.values]
    student = trainer.seen(trainer.student.weights(moved))

    def terms(batch: Batch, shards: Shards) -> Losses:
        generator = torch.Generator().manual_seed(3)
        c_0 = null.repeat(len(whole.c_p))
        states = rollout(backbone, c_0, whole.c_p, [0, 2], UNEVEN, generator, shards)
        *_, state = states
        if not len(state.z):
            return Losses(*torch.zeros(4))
        (piece,) = parts_of(state, batch, 0)
        return distil_losses(student, backbone, state, null, batch, UNEVEN, piece.shares)

    expected = terms(whole, Shards())
    found = [terms(part, Shards(rank, count)) for rank, part in enumerate(parts)]
    for name in ("total", "erase", "keep", "anchor"):
        added = sum(float(getattr(losses, name)) for losses in found)
        assert added == pytest.approx(float(getattr(expected, name)), rel=1e-5), name
    for rank, losses in enumerate(found):
        mine = expected.presence[Shards(rank, count).stripe]
        torch.testing.assert_close(losses.presence, mine, rtol=1e-4, atol=1e-5)


class Agreeing(Shards):
    """A process whose others say what it says."""

    def agree(self, what: str, find: Callable[[], Any]) -> Any:
        return find()

    def wait(self) -> None:
        """Nobody to wait for."""


class Said(SilentUi):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


@pytest.mark.parametrize(
    ("rank", "count", "batch_size", "busy"),
    [
        (0, 8, 1, "of 1 keep 1 of 8"),
        (0, 3, 2, "of 2 keep 2 of 3"),
        (0, 2, 2, None),
        (0, 1, 1, None),
        (1, 8, 1, None),
    ],
)
def test_more_processes_than_rows_are_told_once(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    rank: int,
    count: int,
    batch_size: int,
    busy: str | None,
) -> None:
    class Trainer:
        def __init__(self, *_: Any) -> None:
            self.progress = Progress(0, 0, 0)

        def run(self, *_: Any) -> None:
            raise Inconclusive("far enough")

    monkeypatch.setattr(training, "DistilTrainer", Trainer)
    rows = ("batch_size: 2,", f"batch_size: {batch_size}, keep_share: 0.0,")
    plan = load_plan(write_policy(tmp_path, rows))
    nobody: Any = None
    said = Said()
    with pytest.raises(Inconclusive, match="far enough"):
        training.train(plan, nobody, RunFolder(tmp_path), said, Agreeing(rank, count))
    expected = [] if busy is None else [f"note: training batches {busy} processes busy"]
    assert [line.split(",")[0] for line in said.lines] == expected


@pytest.mark.parametrize("preset", ["paper", "repo"])
def test_published_presets_have_batches_of_one(preset: str) -> None:
    """What the page says of them."""
    assert training.idle_note(2, PRESETS["sdd"][preset].batch_size) is not None
    assert training.idle_note(24, PRESETS["sdd"]["safediff"].batch_size) is None


def test_an_average_of_averages_would_be_seen(backbone: Backbone) -> None:
    """What a plain data-parallel average would weigh: rows of small shares count for more."""
    _, parts = shares(backbone, UNEVEN, 2)
    assert [part.num_erase for part in parts] == [2, 1]
    assert [part.part_of_erase for part in parts] != [0.5, 0.5]


class Silent:
    """A denoiser that must not be asked."""

    dtype = torch.float32

    def __init__(self, backbone: Backbone) -> None:
        self.config = backbone.denoiser.config

    def __call__(self, *args: object, **kwargs: object) -> None:
        raise AssertionError

    replaced = __call__


def test_a_process_without_rows_asks_nobody(backbone: Backbone) -> None:
    whole, _ = shares(backbone, UNEVEN, 1)
    trainer, alone = small_trainer(backbone, UNEVEN), Shards(6, 7)
    null, generator = trainer.texts.null, torch.Generator().manual_seed(3)
    silent = backbone.with_denoiser(Silent(backbone))
    c_0 = null.repeat(len(whole.c_p))
    (state,) = rollout(silent, c_0, whole.c_p, [1], UNEVEN, generator, alone)
    assert len(state.z) == 0
    rest = whole.share(alone), UNEVEN, Tensor.backward
    losses = backward(silent, trainer.student, state, null, *rest)
    assert losses.total == 0
    assert all(value.grad is None for value in trainer.student.values)
    assert math.isnan(null_drift(silent, silent, state, null))  # until others add theirs


def near(found: Path, expected: Path) -> None:
    """Adam takes whole steps along gradients that are all rounding, and here they are long ones.

    So single numbers differ by hundredths of a step; all together by a thousandth of the way.
    """
    tensors, base = load_patch(found).tensors, load_backbone(ModelPlan(base="embedded")).denoiser
    apart, moved = [], []
    for name, tensor in load_patch(expected).tensors.items():
        apart.append((tensors[name] - tensor).flatten())
        moved.append((tensor - base.get_parameter(name)).flatten())
    difference, way = torch.cat(apart), torch.cat(moved)
    assert difference.norm() < 1e-3 * way.norm()
    assert difference.abs().max() < 5e-4
    assert way.abs().max() > 0.02


@dataclass(frozen=True)
class Told(Shards):
    """One of two processes, while the test carries what they agree on."""

    words: list[str] = field(default_factory=list)

    def agree(self, what: str, find: Callable[[], Any]) -> Any:
        if self.leads:
            self.words.append(json.dumps(find()))
        return json.loads(self.words[-1])


def test_process_0_compares_the_engine_for_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    def noted(name: str, found: Any) -> None:
        def note(*arguments: Any, **options: Any) -> Any:
            done.append(name)
            return found

        monkeypatch.setattr(engines, name, note)

    parity = SimpleNamespace(worst_max_abs=math.inf)
    noted("export_engine", None)
    noted("compare_engine", ("the leader's", parity, "close", "w"))
    noted("measure_survival", None)
    noted("edit_left", "left")
    noted("parity_json", {"weights_sha256": "w", "max_abs": None})
    noted("open_denoiser", "opened")
    model: Any = SimpleNamespace(denoiser=torch.nn.Linear(1, 1), with_denoiser=lambda it: it)
    plan: Any = SimpleNamespace(export=SimpleNamespace(precision="fp32"))
    leader, other = Told(0, 2), Told(1, 2)
    first = engines.prepare_engine(plan, model, model, tmp_path, leader)
    assert (first.backbone, first.checks) == ("the leader's", ["close", "left"])
    assert "open_denoiser" not in done
    done.clear()
    other.words.extend(leader.words)
    second = engines.prepare_engine(plan, model, model, tmp_path, other)
    assert done == ["open_denoiser"]
    assert (second.backbone, second.checks) == ("opened", [])
    assert (second.max_abs, second.parity) == (first.max_abs, first.parity)


DIE_ONCE = """
import os, signal, threading, time
from pathlib import Path
def watch():
    while not log.exists() or log.read_text().count(chr(10)) < 3:
        time.sleep(0.01)
    mark.touch()
    os.kill(os.getpid(), signal.SIGKILL)
log, mark = Path(os.environ["LOG"]), Path(os.environ["LOG"] + ".seen")
if os.environ.get("RANK") == "1" and not mark.exists():
    threading.Thread(target=watch, daemon=True).start()
"""
"""Ends process 1 in the middle of the first training."""


def test_two_processes_erase_verify_export_and_release(tmp_path: Path) -> None:
    """Under torchrun, which starts both again when one is lost; what is done is kept."""
    out, whole = tmp_path / "run", finished().run.path
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(DIE_ONCE, encoding="utf-8")
    changes = {"PYTHONPATH": ":".join([str(tmp_path / "site"), *sys.path])}
    changes["LOG"] = str(out / "training.jsonl")
    write_wandb(tmp_path / "site")
    changes["WANDB_TOLD"] = str(tmp_path / "told.jsonl")
    arguments = ("erase", write_policy(tmp_path), "--out", out, "-q")
    arguments += ("--track", "tensorboard", "--track", "wandb")
    done, (first, second) = by_torchrun(
        tmp_path / "logs", *arguments, "--resume", restarts=1, **changes
    )
    assert done.returncode == 0, done.stderr + first[1] + second[1]
    assert second == ("", "")  # process 0 speaks for all
    assert first[0].count("policy small") > 0
    assert Path(changes["LOG"] + ".seen").exists()
    assert json.loads((out / "training.json").read_text())["resumed"] == "true"
    near(out / "patch.safetensors", whole / "patch.safetensors")
    near(out / "patch.student.safetensors", whole / "patch.student.safetensors")
    for name in ("teacher", "student", "onnx-engine"):
        found, expected = (load_report(f / f"verdict.{name}.json") for f in (out, whole))
        assert found.verdict is expected.verdict
        assert found.num_images == expected.num_images
        assert [(r.id, r.verdict) for r in found.results] == [
            (r.id, r.verdict) for r in expected.results
        ]
    assert [row["step"] for row in read_training(out / "training.jsonl")] == list(range(8))
    cost = [json.loads((f / "training.json").read_text()) for f in (out, whole)]
    assert cost[0]["passes"] == cost[1]["passes"]
    assert cost[0]["processes"] == 2
    told = [scalars(path)["loss"] for path in (out / "tracking" / "small").glob("events.*")]
    told.sort(key=len)  # at most four steps before the loss of the process
    losses = [row["loss"] for row in read_training(out / "training.jsonl")]
    assert len(told) == 2
    assert told[1] == pytest.approx(losses[-len(told[1]) :])
    rows = told_wandb(tmp_path / "told.jsonl")
    assert {row["rank"] for row in rows} == {"0"}
    logged = [row["log"] for row in rows if "log" in row]
    assert [values["loss"] for values, _ in logged][-len(told[1]) :] == pytest.approx(told[1])
    assert {step for _, step in logged} == {*range(8)}
    done = safediff(
        "verify", "--certificate", out / "release/safety-certificate.json", out / "release", "-q"
    )
    assert done.returncode == 0, done.stderr


DIE_AT_STEP_5 = """
import os, signal
from safediff.erase.trainer import DistilTrainer
step = DistilTrainer._one_step
def step_or_die(self, number, *rest):
    if number == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    step(self, number, *rest)
DistilTrainer._one_step = step_or_die
"""


def test_a_lost_process_is_told_and_one_alone_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "run"
    arguments = ("erase", write_policy(tmp_path, *QUICK), "--out", out, "-q")
    first, second = together(*arguments, codes=(None, DIE_AT_STEP_5))
    assert second.returncode == -signal.SIGKILL
    assert first.returncode == 3
    assert first.stderr.startswith("error: another process has ended before the work was done, ")
    assert "(safediff erase: with --resume)" in first.stderr
    assert len(first.stderr.splitlines()) == 2
    assert (out / "checkpoint.safetensors").exists()
    assert not (out / "patch.safetensors").exists()
    assert [row["step"] for row in read_training(out / "training.jsonl")] == list(range(5))
    done = safediff(*arguments, "--resume")
    assert done.returncode in (0, 1, 3), done.stderr
    assert json.loads((out / "training.json").read_text())["resumed"] == "true"
    assert [row["step"] for row in read_training(out / "training.jsonl")] == list(range(8))
    near(out / "patch.safetensors", finished().run.path / "patch.safetensors")


def test_a_grid_is_the_same_file(tmp_path: Path) -> None:
    prompts = ("owl", "bomb, noto style", "owl")  # one twice
    sampling = Sampling(num_steps=2, guidance_scale=5.0, seed=0, batch_size=16)
    guard = make_guard("neg", ["bomb"])
    generate_grid("embedded", None, prompts, 7, sampling, tmp_path / "one.png", guard)
    options = ("--count", "7", "--steps", "2", "--guard", "neg", "--avoid", "bomb")
    program = ("-m", "safediff.cli.app", "generate", *prompts, *options)
    done = launched(ACCELERATE, *program, "--out", tmp_path / "two.png")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "two.png").read_bytes() == (tmp_path / "one.png").read_bytes()
    assert done.stdout == f"{tmp_path / 'two.png'}\n"  # one of both says it


def test_two_processes_compare_as_one_does_though_one_was_lost(tmp_path: Path) -> None:
    policy, out = write_policy(tmp_path, QUICK[0]), tmp_path / "two"
    arguments = ("compare", policy, "--rows", "uce", "--out", out, "-q")
    first, second = together(*arguments, codes=(None, DIE_AT_STEP_5))
    assert second.returncode == -signal.SIGKILL
    assert first.returncode == 3
    assert first.stderr.startswith("error: another process has ended before the work was done, ")
    assert len(first.stderr.splitlines()) == 2
    assert first.stdout == ""

    table = tmp_path / "two.json"
    done = launched(ACCELERATE, "-m", "safediff.cli.app", *arguments, "-o", table)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\nUCE ") == 2  # one of both says it: all concepts, then each
    whole, _ = run_contest(load_plan(policy), choose(["uce"]), tmp_path / "one", SilentUi())
    (patch,) = (tmp_path / "one" / "patches").glob("sdd-*/patch.safetensors")
    near(out / patch.relative_to(tmp_path / "one"), patch)
    found = json.loads(table.read_text())["rows"]
    for two, one in zip(found, json.loads(json.dumps(to_json(whole)))["rows"], strict=True):
        ours = one["id"] == "policy"
        assert two["resumed"] is ours
        clocks = {"erase_seconds": 0, "measure_seconds": 0, "resumed": False}
        alike(two | clocks, one | clocks, 1e-2 if ours else 0.0)


def alike(found: Any, expected: Any, share: float) -> None:
    """The same, down to numbers that may differ by a share of themselves."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            alike(found[key], value, share)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=share, abs=share / 100)
    else:
        assert found == expected


def scalars(path: Path) -> dict[str, list[float]]:
    """By tag, from a file of TensorBoard: records of a length, a checksum, an event, a checksum."""
    from tensorboardX.proto.event_pb2 import Event

    data, found, place = path.read_bytes(), {}, 0
    while place < len(data):
        (length,) = struct.unpack_from("<Q", data, place)
        event = Event.FromString(data[place + 12 : place + 12 + length])
        for value in event.summary.value:
            found.setdefault(value.tag, []).append(value.simple_value)
        place += 16 + length
    return found
