"""What clients may ask for: no settings that switch a guard off, none that can't be drawn with."""

import base64
import io
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from serving_examples import exported, resolved_plan, write_example
from starlette.testclient import TestClient
from tiny import tiny_backbone, tiny_xl_backbone
from tiny_transformers import T5_TOKENS
from transformer_examples import VARIANTS, example

from safediff.errors import UsageError
from safediff.guard.load import make_guard
from safediff.guard.params import PRESETS
from safediff.models.backbone import DEFAULT_GUIDANCE, Backbone
from safediff.models.reader import Reader
from safediff.sample.sampler import Draw, Sampling, sample
from safediff.serve.app import build_app
from safediff.serve.batching import Batcher
from safediff.serve.pipeline import Order, SafePipeline
from safediff.serve.settings import Settings, default_settings
from safediff.serve.trust import Trust, _doubts, establish

PATH = "/v1/images/generations"
PROMPT = "an axe"
REASON = "an internal trial without users"
VERIFIED = {"num_steps": 11, "guidance_scale": 4.0}
"""One step more than the guard's warm-up."""
GUARD = {"name": "sld-medium", "texts": ["axe"]}


def trust(**changes: Any) -> Trust:
    """Of a folder without certificate."""
    facts: dict[str, Any] = {
        "path": Path("release"),
        "certificates": (),
        "certificate_sha256": "none",
        "release_sha256": "ab" * 32,
        "engine": "torch",
        "plan_file": "",
        "plan_sha256": "",
        "stamps": {},
        "doubts": ("has no certificate",),
        "reason": REASON,
        "expires_at": None,
        "remark": "",
    }
    return Trust(**(facts | changes))


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> SafePipeline:
    """A release that was verified behind a guard."""
    path = tmp_path_factory.mktemp("guarded") / "r"
    write_example(path, guard=GUARD, verify={"sampling": VERIFIED})
    return SafePipeline.from_release(path, num_threads=1)


@pytest.fixture(scope="module")
def client(guarded: SafePipeline) -> Iterator[TestClient]:
    with TestClient(build_app(guarded)) as client:
        yield client


OFF = [
    {"num_steps": 10},
    {"num_steps": 1},
    {"guidance_scale": 1.01},
    {"guidance_scale": 0.0},
    {"num_steps": 50},
    {"num_steps": 11, "guidance_scale": 30.0},
]


@pytest.mark.parametrize("settings", OFF, ids=str)
def test_a_client_cannot_switch_the_guard_off(client: TestClient, settings: Any) -> None:
    answer = client.post(PATH, json={"prompt": PROMPT, **settings})
    assert answer.status_code == 400
    error = answer.json()["error"]
    param = "num_steps" if settings.get("num_steps", 11) != 11 else "guidance_scale"
    assert error["param"] == param
    assert error["message"] == (
        f"{param}: behind guard sld-medium this model was verified with 11 steps at guidance_scale "
        "4, and draws with nothing else"
    )


def test_what_was_verified_is_drawn_behind_the_guard(
    client: TestClient, guarded: SafePipeline
) -> None:
    seeded = {"prompt": PROMPT, "seed": 3}
    said, asked = (client.post(PATH, json=seeded | more) for more in ({}, VERIFIED))
    assert said.status_code == asked.status_code == 200
    assert said.json()["data"] == asked.json()["data"]


def test_a_guard_that_few_steps_switch_off(tmp_path: Path) -> None:
    """Why they are refused."""
    backbone = tiny_backbone(tmp_path)

    def drawn(num_steps: int, **options: Any) -> torch.Tensor:
        sampling = Sampling(num_steps=num_steps, guidance_scale=4.0)
        return next(sample(backbone, [Draw(PROMPT)], sampling, **options))[0].image.int()

    guard = make_guard(**GUARD)  # type: ignore[arg-type]
    assert torch.equal(drawn(10, guard=guard), drawn(10))
    assert not torch.equal(drawn(25, guard=guard), drawn(25))


@pytest.mark.parametrize("settings", [Settings(10, 4.0), Settings(11, 1.01)])
def test_callers_in_python_cannot_either(guarded: SafePipeline, settings: Settings) -> None:
    message = "behind guard sld-medium this model was verified with 11 steps"
    with pytest.raises(UsageError, match=message):
        guarded(PROMPT, settings=settings)
    batches = Batcher(guarded.draw, max_batch=2, max_queue=2, max_wait_s=0.0)
    (future,) = batches.submit([Order(PROMPT)], settings)
    with pytest.raises(UsageError, match=message):
        future.result(20)
    batches.drain()


def test_without_a_guard_other_settings_are_drawn(tmp_path: Path) -> None:
    path = write_example(tmp_path / "r", verify={"sampling": VERIFIED})
    served = SafePipeline.from_release(path, num_threads=1)
    assert served.misfit(Settings(3, 1.0)) is None
    assert len(served(PROMPT, settings=Settings(1, 1.0))) == 1


@pytest.mark.parametrize("name", PRESETS)
def test_where_nothing_was_verified_a_guard_acts(name: str, tmp_path: Path) -> None:
    guard = make_guard(name, ["axe"])
    served = SafePipeline(tiny_backbone(tmp_path), trust(), guard=guard)
    warmup = guard.params.num_warmup_steps
    assert (warmup == 0) == (name in ("neg", "sld-max", "sega-max"))
    assert served.misfit(Settings(warmup + 1, 1.5)) is None
    if warmup:
        found = served.misfit(Settings(warmup, 1.5))
        assert found == ("num_steps", f"guard {name} acts after {warmup} steps, ask for more")
    for scale in (1.0, 0.0, float("nan")):
        found = served.misfit(Settings(warmup + 1, scale))
        assert found is not None
        assert found.param == "guidance_scale"


def test_a_guard_needs_guidance_to_steer(tmp_path: Path) -> None:
    flux = example("flux dev", tmp_path).backbone
    with pytest.raises(UsageError, match="guidance is distilled into the network"):
        SafePipeline(flux, trust(), guard=make_guard("neg", ["axe"]))


def test_policies_of_a_guard_that_were_met_with_different_settings() -> None:
    def certificate(num_steps: int, **plan: Any) -> dict[str, Any]:
        sampling = {"sampling": {"num_steps": num_steps, "guidance_scale": 4.0}}
        policy = {"name": "p", "resolved": resolved_plan(verify=sampling, **plan)}
        later = "9999-01-01T00:00:00+00:00"
        return {"policy": policy, "verdict": "pass", "expires_at": later}

    now = datetime.now(UTC)
    same = [certificate(11, guard=GUARD), certificate(11, guard=GUARD)]
    assert not list(_doubts(Path("r"), same, now))
    (doubt,) = _doubts(Path("r"), [same[0], certificate(25, guard=GUARD)], now)
    assert doubt == "its policies were met behind a guard with different steps or guidance"
    assert not list(_doubts(Path("r"), [certificate(11), certificate(25)], now))


# A guard that takes the place of the policy's.


def test_the_reason_for_another_guard_is_kept(tmp_path: Path) -> None:
    guard = make_guard("neg", ["axe"])
    served = SafePipeline.from_release(exported(), guard=guard, accept_unverified=REASON)
    assert served.trust.unverified == REASON
    with TestClient(build_app(served)) as client:
        answer = client.post(PATH, json={"prompt": PROMPT, "num_steps": 2})
        health = client.get("/healthz").json()
    assert answer.headers["X-Safediff-Unverified"] == f'"{REASON}"'
    assert (health["unverified"], health["guard"]) == (REASON, "neg")
    picture = Image.open(io.BytesIO(base64.b64decode(answer.json()["data"][0]["b64_json"])))
    assert picture.text["safediff:unverified"] == REASON  # type: ignore[attr-defined]


def test_the_guard_of_the_policy_itself_needs_none(guarded: SafePipeline) -> None:
    path = guarded.trust.path
    assert establish(path, guard=guarded.guard).unverified == ""
    other = make_guard("sld-medium", ["sword"])
    message = "was verified with guard sld-medium, not with sld-medium against other texts"
    with pytest.raises(UsageError, match=message):
        establish(path, guard=other)
    assert establish(path, guard=other, accept_unverified=REASON).unverified == REASON


# Settings that a model cannot be drawn with.


def ask(pipeline: SafePipeline, **wanted: Any) -> Any:
    with TestClient(build_app(pipeline)) as client:
        return client.post(PATH, json={"prompt": PROMPT, **wanted})


def test_a_model_without_guidance(tmp_path: Path) -> None:
    served = SafePipeline(example("flux schnell", tmp_path).backbone, trust(), guard=None)
    assert served.defaults == Settings(25, 1.0)
    answer = ask(served, guidance_scale=5.0)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["param"] == "guidance_scale"
    assert error["message"] == "guidance_scale: this model has no guidance; only 1 is drawn with"
    assert ask(served, num_steps=1).status_code == 200


def test_defaults_suit_the_model(tmp_path: Path) -> None:
    dev = example("flux dev", tmp_path).backbone
    assert default_settings(dev) == Settings(25, 3.5)
    assert default_settings(tiny_backbone(tmp_path)) == Settings(25, DEFAULT_GUIDANCE)


@pytest.mark.parametrize("name", ["lcm", "tcd"])
def test_more_steps_than_a_scheduler_has(name: Any, tmp_path: Path) -> None:
    served = SafePipeline(tiny_backbone(tmp_path).with_scheduler(name), trust(), guard=None)
    answer = ask(served, num_steps=51)
    assert answer.status_code == 400
    message = answer.json()["error"]["message"]
    assert message == "num_steps: this model's scheduler takes at most 50 steps"
    assert ask(served, num_steps=50, guidance_scale=1.0).status_code == 200


# Texts that are not read whole.

LENGTHS = (1, T5_TOKENS - 2, T5_TOKENS - 1, T5_TOKENS, 74, 75, 76, 90)


def reads(backbone: Backbone, text: str) -> bool:
    try:
        backbone.encode([text])
    except UsageError:
        return False
    return True


@pytest.mark.parametrize("variant", [*VARIANTS, "sd", "sdxl"])
def test_every_tokenizer_is_asked(variant: str, tmp_path: Path) -> None:
    makers = {"sd": tiny_backbone, "sdxl": tiny_xl_backbone}
    known = makers[variant](tmp_path) if variant in makers else None
    backbone = known or example(variant, tmp_path).backbone
    reader = Reader(backbone)
    texts = [text for n in LENGTHS for text in ("a" * n, "A" * n, " " * n + "ab ")]
    found = [reader.cut_after(text) is None for text in texts]
    assert found == [reads(backbone, text) for text in texts]
    assert {True, False} == set(found)


def test_how_much_is_read(tmp_path: Path) -> None:
    sd3 = Reader(example("sd3", tmp_path).backbone)
    assert sd3.cut_after("a" * 50) == T5_TOKENS - 1  # T5 has no start token
    assert Reader(tiny_backbone(tmp_path)).cut_after("a" * 80) == 75
    short = tiny_xl_backbone(tmp_path)
    short.tokenizer_2.model_max_length = 12
    assert Reader(short).cut_after("a" * 11) == 10
    served = SafePipeline(example("sd3", tmp_path).backbone, trust(), guard=None)
    assert not served.fits("a" * 50)
    answer = ask(served, prompt="a" * 50)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == "prompt: longer than the 23 tokens that are read"


def test_prompts_are_measured_with_other_tokenizers_than_they_are_encoded_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = tiny_xl_backbone(tmp_path)
    served = SafePipeline(backbone, trust(), guard=None)
    cls, asked = type(backbone.tokenizer), list[Any]()
    call = cls.__call__

    def noting(self: Any, *args: Any, **options: Any) -> Any:
        asked.append(self)
        return call(self, *args, **options)

    monkeypatch.setattr(cls, "__call__", noting)
    assert served.fits(PROMPT)
    assert len(asked) == 2
    for tokenizer in asked:
        assert tokenizer not in (backbone.tokenizer, backbone.tokenizer_2)
        assert tokenizer._tokenizer is not backbone.tokenizer._tokenizer


def test_prompts_are_measured_while_others_are_encoded(tmp_path: Path) -> None:
    served = SafePipeline(tiny_backbone(tmp_path), trust(), guard=None)
    failed = list[Exception]()

    def again(call: Any) -> None:
        try:
            for _ in range(300):
                call()
        except Exception as error:
            failed.append(error)

    texts = ["a" * 70] * 20
    threads = [
        threading.Thread(target=again, args=(call,))
        for call in (
            lambda: served.fits(texts[0]),
            lambda: served.backbone.tokenizer(texts, padding="max_length", truncation=False),
            lambda: served.fits(texts[0]),
        )
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failed == []
