"""Laws of the work queue."""

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable

import pytest

from finetune_operator.workqueue import Lane, WorkQueue


async def work(
    queue: WorkQueue[str], handler: Callable[[str], Awaitable[float | None]], *, workers: int = 3, seconds: float = 0.2
) -> None:
    """Let workers work for a while, then stop them."""
    tasks = [asyncio.create_task(queue.work(handler)) for _ in range(workers)]
    await asyncio.sleep(seconds)
    queue.stop()
    await asyncio.wait_for(asyncio.gather(*tasks), 2)


async def test_a_key_waits_at_most_once() -> None:
    """A hundred events about one object are one pass."""
    queue: WorkQueue[str] = WorkQueue()
    seen: list[str] = []

    async def handler(key: str) -> None:
        seen.append(key)

    for _ in range(100):
        queue.add("a")
    queue.add("b")
    assert len(queue) == 2
    await work(queue, handler)
    assert seen == ["a", "b"]


async def test_a_key_is_in_one_hand_only_and_nothing_heard_is_lost() -> None:
    """Keys are worked on side by side, never the same twice at a time; what comes in meanwhile gets its own pass."""
    queue: WorkQueue[str] = WorkQueue()
    now: set[str] = set()
    version = dict.fromkeys("abc", 0)
    seen = dict.fromkeys("abc", -1)
    most = 0
    twice: list[str] = []

    async def handler(key: str) -> None:
        nonlocal most
        twice.extend(now & {key})  # an assertion here would be taken for a failed pass
        now.add(key)
        most = max(most, len(now))
        read = version[key]
        await asyncio.sleep(random.random() * 0.005)
        seen[key] = read
        now.discard(key)

    async def events() -> None:
        for key in itertools.islice(itertools.cycle("abc"), 60):
            version[key] += 1
            queue.add(key)
            await asyncio.sleep(0.001)
        for key in "abc":  # the last news of each comes while it is in hand
            queue.add(key)
            while key not in now:  # noqa: ASYNC110 - no one event says so
                await asyncio.sleep(0)
            version[key] += 1
            queue.add(key)

    workers = [asyncio.create_task(queue.work(handler)) for _ in range(3)]
    await events()
    async with asyncio.timeout(30):  # of a busy machine
        while seen != version:  # noqa: ASYNC110 - no one event says so
            await asyncio.sleep(0.005)
    queue.stop()
    await asyncio.gather(*workers)
    assert not twice, "the same key in two hands"
    assert most > 1


async def test_errors_come_back_ever_later_and_success_forgets_them(caplog: pytest.LogCaptureFixture) -> None:
    """The pause doubles up to its limit; one success and it starts anew; other keys do not wait."""
    retries = 0

    def count() -> None:
        nonlocal retries
        retries += 1

    queue: WorkQueue[str] = WorkQueue(backoff_base=0.01, backoff_max=0.04, on_retry=count, jitter=lambda: 1.0)
    times: list[float] = []
    others: list[str] = []

    async def handler(key: str) -> None:
        if key == "fine":
            others.append(key)
            return
        times.append(asyncio.get_running_loop().time())
        if len(times) <= 5:
            raise OSError("no route")

    queue.add("bad")
    queue.add("fine")
    await work(queue, handler, seconds=0.5)
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert len(times) == 6
    assert retries == 5
    for gap, wanted in zip(gaps, [0.01, 0.02, 0.04, 0.04, 0.04], strict=True):
        assert wanted <= gap + 0.001
        assert gap < wanted + 0.1
    assert others == ["fine"]
    assert queue.failures("bad") == 0
    assert "OSError: no route" in caplog.text


async def test_jitter_takes_away_at_most_half() -> None:
    """Many keys that fail together do not come back together."""
    queue: WorkQueue[str] = WorkQueue(backoff_base=1.0, jitter=lambda: 0.0)
    assert queue._failed("a") == 0.5
    assert queue._failed("a") == 1.0
    assert WorkQueue[str](backoff_base=1.0, jitter=lambda: 1.0)._failed("a") == 1.0


async def test_requeue_after_keeps_the_earliest_wish() -> None:
    """The handler's own wish brings the key back; of two wishes the earlier counts, and only once."""
    queue: WorkQueue[str] = WorkQueue()
    seen: list[float] = []

    async def handler(key: str) -> float | None:  # noqa: ARG001
        seen.append(asyncio.get_running_loop().time())
        return 0.05 if len(seen) == 1 else None

    queue.add_after("a", 60)
    queue.add_after("a", 0.01)
    queue.add_after("a", 30)
    await work(queue, handler, seconds=0.3)
    assert len(seen) == 2
    assert 0.045 < seen[1] - seen[0] < 0.2


async def test_stop_finishes_what_is_in_hand_and_takes_nothing_new() -> None:
    """SIGTERM: the pass in hand writes its status, the rest waits for the next process."""
    queue: WorkQueue[str] = WorkQueue()
    done: list[str] = []

    async def handler(key: str) -> None:
        queue.stop()
        await asyncio.sleep(0.05)
        done.append(key)

    queue.add("first")
    queue.add("second")
    await asyncio.wait_for(queue.work(handler), 2)
    assert done == ["first"]


async def test_three_full_lanes_all_go_on() -> None:
    """First ones take most of the turns, and news and what is patient share the rest, three to one."""
    queue: WorkQueue[str] = WorkQueue()
    order: list[str] = []

    async def handler(key: str) -> None:
        order.append(key.split(maxsplit=1)[0])
        if len(order) == 640:
            queue.stop()

    for number in range(1000):
        for lane in Lane:
            queue.add(f"{lane.name} {number}", lane)
    await asyncio.wait_for(queue.work(handler), 5)
    assert [order.count(lane.name) for lane in Lane] == [600, 30, 10]


async def test_a_restart_and_fresh_news_starve_neither() -> None:
    """A fresh key waits for one pass of ten thousand listed ones; and a stream of fresh keys lets those go on, too."""
    queue: WorkQueue[str] = WorkQueue()
    order: list[str] = []

    async def handler(key: str) -> None:
        order.append(key)
        if key.startswith("fresh") and len(order) < 400:
            queue.add(f"fresh {len(order)}")  # there is always one more
        if len(order) == 500:
            queue.stop()

    for number in range(10_000):
        queue.add(f"listed {number}", Lane.PATIENT)
    queue.add("listed 9999")  # something happened to it meanwhile
    queue.add("fresh")
    assert len(queue) == 10_001
    await asyncio.wait_for(queue.work(handler), 5)
    assert order.index("listed 9999") == 0
    assert order.index("fresh") <= 2
    assert 80 <= sum(key.startswith("listed") for key in order[:400]) <= 120, "a quarter, while there is both"
    assert len(order) == len(set(order)), "a key that changed its lane was worked on twice"
