"""Two nodes, each with its own PID 1 and its own disk, are one run: same result, one stop, one end."""

import json
import logging
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from finetune_api.outcome import Reason
from finetune_api.run import RunFile
from tests.trainer.nodes import nodes
from tests.trainer.tinyrun import run_file

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]
STEPS = 60
_log = logging.getLogger(__name__)


def _plain(folder: Path, model: Path) -> RunFile:
    return run_file(folder, model, method={"dropout": "0"}, maxSteps=6, microBatchSize=1)


def _losses(folder: Path) -> list[float]:
    lines = (folder / "out/.finetune/u1/metrics.jsonl").read_text().splitlines()
    return [entry["loss"] for line in lines if "loss" in (entry := json.loads(line))]


def _adapter(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "out/adapter_model.safetensors")


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.soak)])
def test_two_nodes_agree_with_one(processes: int, model: Path, tmp_path: Path) -> None:
    """The same batch by one process and by two nodes: the same losses and the same adapter but for float noise.

    A node of one process starts it itself, one of several has torchrun for them.

    The first node tells the result. The second one has its own copy of model and rows, and never read the dataset.
    """
    for name, count in (("one", 1), ("two", 2)):
        (tmp_path / name).mkdir()
        shape = {"processes": processes if count > 1 else 1}
        with nodes(_plain(tmp_path / name, model).model_copy(update=shape), tmp_path / name, count) as started:
            ended = [node.ended() for node in started]
        assert [(code, outcome.reason) for code, outcome in ended] == [
            (0, Reason.PUBLISHED),
            (0, Reason.TOOK_PART),
        ][:count], started[0].output
    assert ended[0][1].artifact is not None
    assert len(_losses(tmp_path / "one")) == 6
    assert _losses(tmp_path / "two") == pytest.approx(_losses(tmp_path / "one"), rel=1e-5)
    one, two = _adapter(tmp_path / "one"), _adapter(tmp_path / "two")
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-3, atol=1e-5)
    first, second = started
    assert (first.work.data / "0/files").exists()
    assert (second.work.data / "0/rows").exists()
    assert not (second.work.data / "0/files").exists()
    assert "training from step 0 of 6" in first.output
    assert "training from step" not in second.output


@pytest.fixture(scope="module")
def straight(model: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The adapter of two nodes that nobody stopped, with dropout."""
    folder = tmp_path_factory.mktemp("straight")
    run = run_file(folder, model, maxSteps=STEPS)
    with nodes(run, folder, 2) as started:
        assert [node.ended()[0] for node in started] == [0, 0], started[0].output
    return (folder / "out/adapter_model.safetensors").read_bytes()


def test_one_node_that_is_stopped_takes_the_other_along(model: Path, straight: bytes, tmp_path: Path) -> None:
    """SIGTERM to the second node alone: both exit with 75 and the checkpoint has the random state of both.

    Two nodes go on to the same bits as if nobody had stopped them; one node goes on from the same step.
    """
    run = run_file(tmp_path, model, maxSteps=STEPS, checkpoints={"everySteps": 1000})
    with nodes(run, tmp_path / "stopped", 2) as (first, second):
        first.wait_for_step(3)
        second.send(signal.SIGTERM)
        asked = time.monotonic()
        ended = [node.ended() for node in (first, second)]
        assert time.monotonic() - asked < 50, "the grace period"
    assert [(code, outcome.reason) for code, outcome in ended] == [(75, Reason.PREEMPTED)] * 2, first.output
    step = ended[0][1].step
    assert 3 <= step < STEPS
    stored = tmp_path / f"out/.finetune/u1/checkpoints/step-{step:08d}"
    assert {file.name for file in stored.glob("rng_state*")} == {"rng_state_0.pth", "rng_state_1.pth"}
    shutil.copytree(tmp_path / "out", tmp_path / "kept")
    for count in (2, 1):
        shutil.rmtree(tmp_path / "out")
        shutil.copytree(tmp_path / "kept", tmp_path / "out")
        with nodes(run, tmp_path / f"on-{count}", count) as resumed:
            code, outcome = resumed[0].ended()
            assert (code, outcome.step) == (0, STEPS), resumed[0].output
        assert f"training from step {step} of {STEPS}" in resumed[0].output
        assert count == 1 or (tmp_path / "out/adapter_model.safetensors").read_bytes() == straight


@pytest.mark.parametrize(
    ("number", "gone", "processes"),
    [
        (signal.SIGKILL, 1, 1),
        pytest.param(signal.SIGKILL, 0, 1, marks=pytest.mark.soak),
        pytest.param(signal.SIGKILL, 0, 2, marks=pytest.mark.soak),
        pytest.param(signal.SIGSTOP, 1, 1, marks=pytest.mark.soak),
    ],
)
def test_a_node_that_is_gone_ends_the_other(
    number: signal.Signals, gone: int, processes: int, model: Path, tmp_path: Path
) -> None:
    """A node that is killed, or falls silent, ends the other one within 60 s as PeerLost, and leaves a checkpoint."""
    run = run_file(tmp_path, model, maxSteps=100_000, microBatchSize=1, checkpoints={"everySteps": 2})
    run = run.model_copy(update={"processes": processes})
    with nodes(run, tmp_path, 2) as started:
        started[0].wait_for_step(3)
        started[gone].send(number, whole=True)
        since = time.monotonic()
        code, outcome = started[1 - gone].ended()
        seconds = time.monotonic() - since
        _log.info("%s of node %d: the other ended after %.1f s: %s", number.name, gone, seconds, outcome.message)
        assert (code, outcome.reason) == (82, Reason.PEER_LOST), started[1 - gone].output
        assert f"node {gone}" in outcome.message
        assert seconds < 60
        assert gone == 0 or "is in storage" in outcome.message
