"""Liveness: it answers when nothing else does, and fails for what a restart would mend, and only for that."""

import asyncio
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest

from finetune_operator.health import Health, Server

PODS, JOBS = "/api/v1/pods", "/apis/batch/v1/jobs"


class Clock:
    """In a test's hands."""

    now = 1000.0

    def __call__(self) -> float:
        """The time."""
        return self.now


def alive(health: Health) -> int:
    """What the liveness probe gets; the event loop has just turned."""
    health.beat()
    return health.answer("/healthz", lambda: b"")[0]


def lived(seconds: int, *, pods: bool = True, jobs: bool = True, asked: bool = True) -> tuple[Health, list[int]]:
    """Minutes of a quiet cluster: bookmarks of two watches, and the Lease; then the answers, second by second."""
    clock = Clock()
    health = Health(clock)
    health.heard(PODS)
    health.heard(JOBS)
    answers = []
    for second in range(seconds):
        clock.now += 1
        if asked and second % 2 == 0:
            health.answered()  # the Lease was renewed
        if second % 60 == 59:
            if pods:
                health.heard(PODS)
            if jobs:
                health.heard(JOBS)
        answers.append(alive(health))
    return health, answers


def test_a_quiet_cluster_is_no_trouble() -> None:
    """Bookmarks alone keep it alive for an hour."""
    assert set(lived(3600)[1]) == {200}


def test_a_watch_without_a_right_to_it_is_no_trouble() -> None:
    """Its namespace is gone, and a restart would mend nothing. It is listened to anew from its first byte on."""
    clock = Clock()
    health = Health(clock)
    health.heard(JOBS)
    assert (health.refused(JOBS), health.refused(JOBS)) == (True, False)
    for second in range(600):
        clock.now += 1
        if second % 2 == 0:
            health.answered()
        assert alive(health) == 200


def test_who_asks_for_more_is_told_what_is_listened_to() -> None:
    """Each watch, and how long ago it brought something."""
    clock = Clock()
    health = Health(clock)
    health.heard(PODS)
    clock.now += 7
    health.heard(JOBS)
    said = f"[+]watch {PODS} heard 7 s ago\n[+]watch {JOBS} heard 0 s ago\nok\n".encode()
    assert health.answer("/healthz?verbose", lambda: b"") == (200, "text/plain", said)


def test_a_watch_that_died_fails_it_after_three_minutes() -> None:
    """The other watch and the API server live; the answer names the dead one, and no other."""
    health, answers = lived(400, pods=False)
    assert 180 <= answers.index(503) <= 182
    assert set(answers[answers.index(503) :]) == {503}
    assert health.dead() == [PODS]
    assert PODS in health.answer("/healthz", lambda: b"")[2].decode()


def test_it_comes_back_with_the_first_byte() -> None:
    """A watch that was connected anew is as good as any."""
    health, _ = lived(400, pods=False)
    health.heard(PODS)
    assert alive(health) == 200


def test_an_api_server_that_is_down_for_all_is_not_our_death() -> None:
    """A restart would mend nothing; when it is back, watches have their three minutes again."""
    clock = Clock()
    health = Health(clock)
    health.heard(PODS)
    for _ in range(600):
        clock.now += 1
        assert alive(health) == 200
    after = []
    for _ in range(300):
        clock.now += 1
        health.answered()
        after.append(alive(health))
    assert 178 <= after.index(503) <= 184


def test_a_watch_that_was_never_opened_is_none() -> None:
    """Before the start nothing is missed."""
    health = Health(clock := Clock())
    for _ in range(600):
        clock.now += 1
        health.answered()
        assert alive(health) == 200


def ask(server: Server, path: str) -> tuple[int, str]:
    """Ask as the kubelet does."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


async def test_it_answers_while_the_event_loop_is_blocked() -> None:
    """From a thread of its own: both pages answer, and liveness says how long the loop has stood."""
    clock = Clock()
    health = Health(clock)
    health.ready = True
    server = Server("127.0.0.1", 0, health, lambda: b"")
    beating = asyncio.create_task(health.keep_beating())
    await asyncio.sleep(0)
    try:
        with ThreadPoolExecutor() as others:

            def probe() -> list[tuple[int, str]]:
                answers = [ask(server, "/healthz"), ask(server, "/readyz")]
                clock.now += 31
                return [*answers, ask(server, "/healthz"), ask(server, "/readyz")]

            answered = others.submit(probe)
            end = time.monotonic() + 20
            while not answered.done() and time.monotonic() < end:
                time.sleep(0.01)  # noqa: ASYNC251 - the loop is blocked on purpose
            before, ready, after, still = answered.result(timeout=0)
        assert (before, ready, still) == ((200, "ok\n"), (200, "ok\n"), (200, "ok\n"))
        assert after == (503, "the event loop has not turned for 31 s\n")
        for _ in range(300):
            if ask(server, "/healthz")[0] == 200:
                break
            await asyncio.sleep(0.01)
        else:
            pytest.fail("the loop turns again, and nobody says so")
    finally:
        beating.cancel()
        server.close()
