"""Progress is served by PID 1 as JSON and as metrics, and told in the log; it never decides anything."""

import itertools
import json
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from finetune_api.names import ActiveReason
from finetune_api.progress import Progress
from finetune_trainer.supervisor import serve
from finetune_trainer.supervisor.story import Story, duration, sentence
from finetune_trainer.workdir import WorkDir

PROGRESS = Progress(
    phase=ActiveReason.TRAINING, step=3, total_steps=9, loss=1.21441, eta_seconds=250, epoch=0.5, learning_rate=2e-4
)


@pytest.fixture
def work(tmp_path: Path) -> WorkDir:
    """An empty scratch folder."""
    return WorkDir(tmp_path)


@pytest.fixture
def url(work: WorkDir) -> Iterator[str]:
    """A server over it, on a free port."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        port = probe.getsockname()[1]
    server = serve.start(port, work)
    assert server is not None
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def _get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - http on loopback
        text: str = answer.read().decode()
        return text


def test_progress(url: str, work: WorkDir) -> None:
    """/progress is the document that the worker wrote; before the first one the run is starting."""
    assert json.loads(_get(f"{url}/progress"))["phase"] == "Starting"
    work.write_progress(PROGRESS)
    told = Progress.model_validate_json(_get(f"{url}/progress"))
    assert told.model_copy(update={"updated_at": 0.0}) == PROGRESS
    assert time.time() - told.updated_at < 60


def test_metrics(url: str, work: WorkDir) -> None:
    """/metrics is Prometheus text with the same numbers and no name of any object."""
    work.write_progress(PROGRESS)
    samples = [s for family in text_string_to_metric_families(_get(f"{url}/metrics")) for s in family.samples]
    values = {sample.name: sample.value for sample in samples if not sample.labels}
    assert values["finetune_trainer_step"] == 3
    assert values["finetune_trainer_steps"] == 9
    assert values["finetune_trainer_loss"] == 1.21441
    assert values["finetune_trainer_eta_seconds"] == 250
    phases = {s.labels["finetune_trainer_phase"]: s.value for s in samples if s.labels}
    assert {phase for phase, value in phases.items() if value} == {"Training"}
    assert set(phases) == {str(phase) for phase in ActiveReason}


def test_half_a_document(url: str, work: WorkDir) -> None:
    """A progress file that cannot be read changes nothing: the server goes on."""
    work.progress_file.write_text("{")
    assert json.loads(_get(f"{url}/progress"))["phase"] == "Starting"
    assert _get(f"{url}/healthz") == "ok\n"


def test_unknown_path(url: str) -> None:
    """There is nothing else."""
    with pytest.raises(urllib.error.HTTPError) as caught:
        _get(f"{url}/")
    assert caught.value.code == 404
    caught.value.close()


def test_port_that_is_taken(url: str, work: WorkDir, caplog: pytest.LogCaptureFixture) -> None:
    """A port that is taken costs the metrics, never the run; port 0 serves nothing."""
    assert serve.start(int(url.rpartition(":")[2]), work) is None
    assert "cannot be served" in caplog.text
    assert serve.start(0, work) is None


@pytest.mark.parametrize(
    ("progress", "told"),
    [
        (PROGRESS, "Training: step 3 of 9 (33%), loss 1.2144, 4m10s left."),
        (
            Progress(phase=ActiveReason.LOADING, message="downloading x: 1 of 2 MB"),
            "Loading: downloading x: 1 of 2 MB.",
        ),
        (Progress(phase=ActiveReason.EVALUATING), "Evaluating: under way."),
        (PROGRESS.model_copy(update={"message": "step 3"}), "Training: step 3 of 9 (33%), loss 1.2144, 4m10s left."),
        (
            PROGRESS.model_copy(update={"phase": ActiveReason.PUBLISHING, "message": "uploading x"}),
            "Publishing: uploading x.",
        ),
        (Progress(phase=ActiveReason.TRAINING, step=9, total_steps=9), "Training: step 9 of 9 (99%)."),
    ],
)
def test_sentence(progress: Progress, told: str) -> None:
    """One line tells what is known and nothing else; 100 % is never said while running."""
    assert sentence(progress) == told


@pytest.mark.parametrize("wall", [0.0, 4e9], ids=["long past", "far ahead"])
def test_silence_is_told(wall: float, work: WorkDir, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that says nothing for long is said to, by the time that passed here: a clock may be set."""
    said: list[str] = []
    now = 0.0
    story = Story(work, said.append, clock=lambda: now)
    monkeypatch.setattr(time, "time", lambda: wall)
    work.write_progress(PROGRESS)
    monkeypatch.undo()
    for second in range(310):
        now = float(second)
        story.tick()
    assert [line for line in said if "no news" in line][-1].endswith("no news for 5m06s.")
    assert not [line for line in said[:6] if "no news" in line]
    work.write_progress(PROGRESS)
    now += 10
    story.tick()
    assert "no news" not in said[-1]


@pytest.mark.parametrize(
    ("seconds", "told"), [(0, "0s"), (59, "59s"), (250, "4m10s"), (3600, "1h00m"), (7384, "2h03m")]
)
def test_duration(seconds: int, told: str) -> None:
    """Durations are short and exact enough."""
    assert duration(seconds) == told


def test_log_is_never_silent_for_long(work: WorkDir) -> None:
    """Ticking every second, there is a line at least every ten seconds and at each new phase, and not at each tick."""
    said: list[tuple[float, str]] = []
    now = 0.0
    story = Story(work, lambda line: said.append((now, line)), clock=lambda: now)
    for second in range(100):
        now = float(second)
        if second == 45:
            work.write_progress(PROGRESS)
        story.tick()
    times = [0.0, *(at for at, _ in said)]
    assert max(later - at for at, later in itertools.pairwise(times)) <= 10
    assert 45.0 in times
    assert len(said) <= 13
