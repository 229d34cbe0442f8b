"""Pictures of concurrent requests share batches; overload is refused, nothing accepted is lost."""

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import wait
from typing import Any

import pytest
import torch
from torch import Tensor

from safediff.serve.batching import Batch, Batcher, Broken, QueueFull, Stopping
from safediff.serve.pipeline import Order, Settings

FEW, MORE = Settings(2, 1.0), Settings(4, 1.0)


class Painter:
    """Draws the seed of an order; waits while it is held back."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.go = threading.Event()
        self.go.set()
        self.busy = threading.Event()

    def draw(self, orders: Sequence[Order], settings: Settings) -> Tensor:
        self.busy.set()
        assert self.go.wait(20)
        if any(order.prompt == "broken" for order in orders):
            raise ValueError("no such picture")
        self.batches.append([order.seed for order in orders])
        return torch.tensor([[order.seed, settings.num_steps] for order in orders])


@pytest.fixture
def painter() -> Iterator[Painter]:
    painter = Painter()
    yield painter
    painter.go.set()


def orders(*seeds: int) -> list[Order]:
    return [Order("owl", seed) for seed in seeds]


def batcher(painter: Painter, **options: Any) -> Batcher:
    chosen: dict[str, Any] = {"max_batch": 4, "max_queue": 8, "max_wait_s": 0.2, **options}
    return Batcher(painter.draw, **chosen)


def held(painter: Painter, batches: Batcher) -> None:
    """Keep the worker busy with one picture, so that what follows waits."""
    painter.go.clear()
    batches.submit(orders(0), FEW)
    assert painter.busy.wait(20)


def test_requests_share_a_batch(painter: Painter) -> None:
    batches = batcher(painter)
    held(painter, batches)
    futures = [f for seed in (1, 2, 3) for f in batches.submit(orders(seed), FEW)]
    painter.go.set()
    assert [f.result(20).tolist() for f in futures] == [[1, 2], [2, 2], [3, 2]]
    batches.drain()
    assert painter.batches == [[0], [1, 2, 3]]


def test_a_full_batch_does_not_wait(painter: Painter) -> None:
    batches = batcher(painter, max_wait_s=60)
    futures = batches.submit(orders(1, 2, 3, 4), FEW)
    assert not wait(futures, 20).not_done
    batches.drain()


def test_an_incomplete_batch_starts_after_a_while(painter: Painter) -> None:
    batches = batcher(painter, max_wait_s=0.05)
    assert batches.submit(orders(1), FEW)[0].result(20).tolist() == [1, 2]
    batches.drain()


def test_only_equal_settings_share_a_batch(painter: Painter) -> None:
    batches = batcher(painter)
    held(painter, batches)
    first, second, third = (
        batches.submit(orders(seed), settings)[0]
        for seed, settings in ((1, FEW), (2, MORE), (3, FEW))
    )
    painter.go.set()
    assert [f.result(20).tolist() for f in (first, second, third)] == [[1, 2], [2, 4], [3, 2]]
    batches.drain()
    assert painter.batches == [[0], [1, 3], [2]]


def test_a_request_is_queued_whole_or_not_at_all(painter: Painter) -> None:
    batches = batcher(painter)
    held(painter, batches)
    accepted = batches.submit(orders(*range(1, 7)), FEW)
    with pytest.raises(QueueFull) as full:
        batches.submit(orders(7, 8, 9), FEW)
    assert full.value.retry_after_s >= 1
    accepted += batches.submit(orders(10, 11), FEW)
    assert batches.depth == 8
    painter.go.set()
    assert [f.result(20)[0].item() for f in accepted] == [1, 2, 3, 4, 5, 6, 10, 11]
    batches.drain()


def test_draining_finishes_what_was_accepted(painter: Painter) -> None:
    batches = batcher(painter)
    held(painter, batches)
    accepted = batches.submit(orders(*range(1, 7)), FEW)
    draining = threading.Thread(target=batches.drain)
    draining.start()
    while True:  # until the batcher has seen it
        try:
            batches.submit(orders(9), FEW)
        except Stopping:
            break
        except QueueFull:
            pytest.fail("draining took no effect")
    painter.go.set()
    draining.join(20)
    assert not draining.is_alive()
    assert [f.result(0)[0].item() for f in accepted] == [1, 2, 3, 4, 5, 6]


def test_an_error_reaches_those_who_asked_and_nobody_else(painter: Painter) -> None:
    batches = batcher(painter, max_wait_s=0.0)
    (broken,) = batches.submit([Order("broken")], FEW)
    with pytest.raises(ValueError, match="no such picture"):
        broken.result(20)
    assert batches.submit(orders(1), FEW)[0].result(20).tolist() == [1, 2]
    batches.drain()


def test_a_prompt_that_cannot_be_drawn_does_not_fail_the_batch(painter: Painter) -> None:
    batches = batcher(painter)
    held(painter, batches)
    (first,) = batches.submit(orders(1), FEW)
    (broken,) = batches.submit([Order("broken")], FEW)
    (last,) = batches.submit(orders(2), FEW)
    painter.go.set()
    assert [f.result(20).tolist() for f in (first, last)] == [[1, 2], [2, 2]]
    with pytest.raises(ValueError, match="no such picture"):
        broken.result(20)
    batches.drain()
    assert painter.batches == [[0], [1], [2]]


def test_pictures_of_clients_that_went_away_are_not_drawn(painter: Painter) -> None:
    batches = batcher(painter)
    held(painter, batches)
    gone, kept = batches.submit(orders(1, 2), FEW)
    assert gone.cancel()
    painter.go.set()
    assert kept.result(20).tolist() == [2, 2]
    batches.drain()
    assert painter.batches == [[0], [2]]


def test_what_was_measured_is_told(painter: Painter) -> None:
    told: list[Batch] = []
    batches = batcher(painter, on_batch=told.append)
    wait(batches.submit(orders(1, 2), FEW), 20)
    wait(batches.submit([Order("broken"), *orders(3)], FEW), 20)
    batches.drain()
    assert [(batch.num_orders, batch.num_drawn) for batch in told] == [(2, 2), (2, 1)]


def test_pictures_of_clients_that_went_away_take_no_room(painter: Painter) -> None:
    batches = batcher(painter)
    held(painter, batches)
    for future in batches.submit(orders(*range(1, 9)), FEW):
        assert future.cancel()
    (kept,) = batches.submit(orders(9), FEW)
    painter.go.set()
    assert kept.result(20).tolist() == [9, 2]
    batches.drain()


def test_draining_does_not_wait_for_ever(painter: Painter) -> None:
    batches = batcher(painter)
    held(painter, batches)
    assert not batches.drain(timeout_s=0.05)
    painter.go.set()
    assert batches.drain()


def test_clients_that_go_away_while_a_batch_waits_do_not_end_the_thread(painter: Painter) -> None:
    """Also where there were more of them than Python has room for calls."""
    batches = batcher(painter, max_queue=700, max_wait_s=0.0)

    def gone(settings: Settings) -> int:
        if settings != MORE:
            batches._jobs[0].future.cancel()
        return 0

    held(painter, batches)
    batches._matching = gone  # type: ignore[method-assign]
    for scale in range(600):
        batches.submit(orders(1), Settings(2, 2.0 + scale))
    (kept,) = batches.submit(orders(2), MORE)
    painter.go.set()
    assert kept.result(60).tolist() == [2, 4]
    assert not batches.broken
    assert batches.drain(20)
    assert painter.batches == [[0], [2]]


def test_nobody_waits_for_a_thread_that_has_ended(painter: Painter) -> None:
    def ends(batch: Batch) -> None:
        raise ValueError("nowhere to count it")

    batches = batcher(painter, on_batch=ends)
    held(painter, batches)
    (waiting,) = batches.submit(orders(1), MORE)
    painter.go.set()
    with pytest.raises(Broken):
        waiting.result(20)
    with pytest.raises(Broken):
        batches.submit(orders(2), FEW)
    batches._thread.join(20)
    assert batches.broken
    assert batches.drain(20)
    assert not batches.broken  # it was stopped
