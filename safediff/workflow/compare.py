"""``safediff compare``: every system on the same base, prompts, latents, sampler and judge."""

import hashlib
import json
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, get_args

import torch

from safediff.compare.entry import Entry, Measured, Setup
from safediff.compare.possible import possible_rows
from safediff.compare.rows import Row
from safediff.compare.table import Comparison
from safediff.environment import environment
from safediff.erase.methods import settings_of
from safediff.erase.params import DistilParams
from safediff.gate.stopping import BASE
from safediff.gate.verdict import GateReport
from safediff.guard.base import Guard
from safediff.guard.load import make_guard, planned_guard
from safediff.models.backbone import Backbone
from safediff.models.load import load_backbone
from safediff.models.patch import unet_sha256
from safediff.policy.plan import ErasePlan, Metric, Plan, QualityCheck, num_branches
from safediff.sample.shards import ALONE, Shards
from safediff.verify.album import Album
from safediff.verify.verification import Verification
from safediff.workflow.ahead import Ahead, read_jobs
from safediff.workflow.clock import Clock
from safediff.workflow.distiller import Job
from safediff.workflow.erase import Pictures
from safediff.workflow.proofs import prove_base, prove_plan, say_device
from safediff.workflow.run_folder import RunFolder, write_text
from safediff.workflow.safe_model import patched
from safediff.workflow.trained_with import COST, require_same_settings
from safediff.workflow.training import train
from safediff.workflow.ui import Ui

Json = dict[str, Any]
NO_LIMIT = 1e9
"""Limit of a metric that the policy does not gate: it is measured for the table only."""


class System(NamedTuple):
    """A row, ready to draw."""

    backbone: Backbone
    guard: Guard | None
    seconds: float = 0.0
    passes: int = 0
    setup: Setup = Setup()


class Contest:
    """Measures rows one after another; patches and pictures that are on disk are not made again."""

    def __init__(
        self, plan: Plan, base: Backbone, folder: Path, ui: Ui, shards: Shards = ALONE
    ) -> None:
        self.base, self.shards = base, shards
        self.plan, self.folder, self.ui = one_protocol(plan), folder, ui
        self.own_guard = planned_guard(plan)
        self.base_sha256 = unet_sha256(self.base.denoiser)
        pictures = Pictures(ui, self.plan)
        folder.mkdir(parents=True, exist_ok=True)
        began, self.continued = time.monotonic(), (folder / "images").exists()
        self.verification = Verification(
            self.plan, self.base, self.base_sha256, folder, pictures, shards
        )
        self.opening_seconds = time.monotonic() - began
        self.opening_threads = torch.get_num_threads()
        self.ahead = Ahead((), 1, ui)

    def __enter__(self) -> "Contest":
        return self

    def __exit__(self, *error: object) -> None:
        self.verification.journal.close()

    @contextmanager
    def distilling(self, rows: Sequence[Row], num_jobs: int) -> Iterator[None]:
        """Within, what the rows need is distilled ahead of them where ``num_jobs`` is above 1."""
        with Ahead(self._jobs(rows) if num_jobs > 1 else (), num_jobs, self.ui) as self.ahead:
            yield

    def _jobs(self, rows: Sequence[Row]) -> list[Job]:
        """The runs that take long and are not there, in the rows' order, each once."""
        found: dict[Path, Job] = {}
        for row in rows:
            erase = row.erase_plan(self.plan)
            if erase is None:
                continue
            params = settings_of(erase)
            run = self._run(erase)
            if isinstance(params, DistilParams) and not run.patch.exists():
                found.setdefault(run.path, Job(row.id, replace(self.plan, erase=erase), run.path))
        return list(found.values())

    def in_turn(self, rows: Sequence[Row]) -> Iterator[Row]:
        """The rows in their order, but none is waited for while a later one can be measured."""
        pending = list(rows)
        while pending:
            row = next(filter(self._is_ready, pending), pending[0])
            pending.remove(row)
            yield row

    def _is_ready(self, row: Row) -> bool:
        erase = row.erase_plan(self.plan)
        return erase is None or self.ahead.is_ready(self._run(erase).path)

    def _run(self, erase: ErasePlan) -> RunFolder:
        return patch_run(self.folder, erase)

    def measure(self, row: Row) -> tuple[Entry, Album]:
        """The row's numbers and pictures.

        Raises:
            Inconclusive: the row could not be erased or drawn.
        """
        system = self._system(row)
        self.ahead.take_threads()
        hashes = {"unet": unet_sha256(system.backbone.denoiser)}
        # the untouched base is drawn already: every row is held against it
        subject = BASE
        if system.backbone is not self.base or system.guard is not None:
            subject = row.id
            hashes["guard"] = system.guard.name if system.guard else ""
        before, began = self._num_records(subject), time.monotonic()
        report, album = self.verification.measure(
            subject, system.backbone, hashes, guard=system.guard
        )
        seconds = time.monotonic() - began
        threads = torch.get_num_threads()
        if subject == BASE:
            seconds, threads = seconds + self.opening_seconds, self.opening_threads
        cost = self._measuring_cost(subject, seconds, threads, before)
        setup = replace(
            system.setup,
            guard=system.guard.name if system.guard else None,
            measure_seconds=cost["seconds"],
            threads=cost["threads"],
            resumed=system.setup.resumed or cost["resumed"],
            made_with=cost.get("made_with", {}),
        )
        return self._entry(row, system._replace(setup=setup), report), album

    def _num_records(self, subject: str) -> int:
        return len(self.verification.records(subject))

    def _measuring_cost(
        self, subject: str, seconds: float, num_threads: int, num_before: int
    ) -> Json:
        """Seconds and threads of drawing and measuring; those on disk where nothing was drawn now.

        The same in all processes, and in every later run on the folder.
        """
        path = self.folder / "costs" / f"{subject}.json"

        def find() -> Json:
            if path.exists() and self._num_records(subject) == num_before:
                stored: Json = json.loads(path.read_text(encoding="utf-8"))
                return stored
            found = {
                "seconds": round(seconds, 1),
                "threads": num_threads,
                "resumed": self.continued if subject == BASE else num_before > 0,
                "made_with": {**environment(), "date": datetime.now(UTC).date().isoformat()},
            }
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, json.dumps(found) + "\n")
            return found

        cost: Json = self.shards.agree(f"cost of {subject}", find)
        return cost

    def _system(self, row: Row) -> System:
        if row.guard is not None:
            texts = [text for concept in self.plan.concepts for text in concept.erase]
            return System(self.base, make_guard(row.guard, texts))
        erase = row.erase_plan(self.plan)
        if erase is None:
            return System(self.base, None)
        run = self._run(erase)
        self.ahead.wait(row.id, run.path)
        run.path.mkdir(parents=True, exist_ok=True)
        training = train(replace(self.plan, erase=erase), self.base, run, self.ui, self.shards)
        patch = training.student if row.role == "student" else training.teacher
        cost = json.loads((run.path / COST).read_text(encoding="utf-8"))
        return System(
            patched(self.base, patch or training.teacher),
            self.own_guard if row.own else None,
            float(cost["seconds"]),
            int(cost["passes"]),
            replace(_erased_by(erase, row, cost), jobs=read_jobs(run)),
        )

    def _entry(self, row: Row, system: System, report: GateReport) -> Entry:
        results = list(report.results)
        if self.plan.verify.erasure.over == "each":
            results.insert(0, self.verification.erasure_over_all(report.subject))
        return Entry(
            id=row.id,
            title=row.title_for(self.plan),
            checks={result.id: Measured.of(result) for result in results},
            verdict=str(report.verdict),
            hits=self.verification.hits(report.subject),
            erase_seconds=system.seconds,
            erase_passes=system.passes,
            passes_per_step=passes_per_step(system, self.plan.verify.sampling.guidance_scale),
            setup=system.setup,
        )


def patch_run(folder: Path, erase: ErasePlan) -> RunFolder:
    """Where a comparison has, or will have, the patch of rows that erase so."""
    name = hashlib.sha256(json.dumps(asdict(erase), sort_keys=True).encode()).hexdigest()[:12]
    return RunFolder(folder / "patches" / f"{erase.method}-{erase.preset}-{name}")


def require_patches(rows: Sequence[Row], plan: Plan, folder: Path) -> None:
    """Refuse patches of other settings before anything is drawn; their pictures are there, too.

    Raises:
        UsageError: presets have changed since a row's patch was made.
    """
    for row in rows:
        erase = row.erase_plan(plan)
        if erase is not None:
            require_same_settings(patch_run(folder, erase), settings_of(erase))


def passes_per_step(system: System, guidance_scale: float) -> int:
    """UNet passes of one picture and step."""
    if system.guard is not None:
        return system.guard.num_branches
    return num_branches(guidance_scale, system.backbone.distilled_guidance)


def _erased_by(erase: ErasePlan, row: Row, cost: Json) -> Setup:
    """How a row's weights came about; ``cost`` is what training noted."""
    return Setup(
        method=erase.method,
        preset=erase.preset,
        knobs=asdict(settings_of(erase)),
        seed=erase.seed,
        role=row.role,
        resumed=cost["resumed"] == "true",
        erase_threads=cost.get("threads"),
    )


def one_protocol(plan: Plan) -> Plan:
    """The plan with every metric and the same prompts in every row, without a guard around all."""
    given = {check.metric: check for check in plan.verify.quality}
    quality = tuple(
        given.get(metric, QualityCheck(metric=metric, limit=NO_LIMIT, line=0))
        for metric in get_args(Metric)
    )
    return replace(plan, guard=None, verify=replace(plan.verify, quality=quality, rule="fixed"))


def run_contest(
    plan: Plan,
    rows: Sequence[Row],
    folder: Path,
    ui: Ui,
    shards: Shards = ALONE,
    *,
    named: Collection[str] = (),
    num_jobs: int = 1,
) -> tuple[Comparison, dict[str, Album]]:
    """Measure all rows; what ``folder`` holds already is kept.

    Several processes share distilling and drawing; all of them get what process 0 decided. One
    alone may have ``num_jobs`` others distil what coming rows need. Rows that this base does not
    allow are left out, unless they are ``named``.

    Raises:
        UsageError: ``folder`` holds a comparison of another plan, or a patch of another version's
            preset; a named row, or the policy's, cannot be made.
        Inconclusive: a row could not be erased, drawn or judged.
    """
    entries: dict[str, Entry] = {}
    albums: dict[str, Album] = {}
    clock = Clock(folder / "clock.json")
    protocol = one_protocol(plan)
    # a limit that no row could meet stops nothing: the table shows how far each of them comes
    judges = prove_plan(protocol, limits=False)
    base = load_backbone(plan.model)
    say_device(base, ui)
    # nor does a metric that the policy does not limit: it is missing in the table
    prove_base(protocol, base, judges, ui, exports=False, quality=plan.verify.quality)
    rows, left_out = possible_rows(rows, plan, base, named)
    require_patches(rows, plan, folder)
    for id, why in left_out.items():
        ui.say(f"note: row {id} is left out: {why}")
    with (
        Contest(plan, base, folder, ui, shards) as contest,
        contest.distilling(rows, num_jobs),
    ):
        elapsed = clock.tick(shards)
        for row in contest.in_turn(rows):
            entries[row.id], albums[row.id] = contest.measure(row)
            elapsed = clock.tick(shards)
        facts = {
            "base": f"{plan.model.base}, UNet {contest.base_sha256[:12]}",
            "judge": f"{contest.verification.judge.name}, weights "
            f"{contest.verification.judge.weights_sha256[:12]}",
            "plan": plan.sha256[:12],
            "by the clock": f"{len(rows)} rows in {elapsed.told(num_jobs)}",
            **environment(),
        }
    measured = tuple(entries[row.id] for row in rows)
    found = Comparison(plan=plan, entries=measured, facts=facts, left_out=left_out)
    return found, {row.id: albums[row.id] for row in rows}
