"""The worker's environment: threads shared fairly, and nothing written outside the scratch folder."""

import json
import os
from pathlib import Path

import pytest

from finetune_api.run import RunFile
from finetune_trainer.supervisor import environment
from tests.trainer.tinyrun import run_file


@pytest.mark.parametrize(
    ("given", "processes", "threads"),
    [("4", 1, "4"), ("4", 2, "2"), ("5", 2, "2"), ("1", 2, "1"), (None, 1, None), ("many", 1, None)],
)
def test_threads_are_shared(given: str | None, processes: int, threads: str | None, tmp_path: Path) -> None:
    """What the pod was given is divided by the processes, never below one; without a word one decides itself."""
    run = run_file(tmp_path, tmp_path).model_copy(update={"processes": processes})
    base = {"HOME": str(tmp_path)} | ({"OMP_NUM_THREADS": given} if given else {})
    made = environment.of_worker(run, tmp_path / "work", base)
    assert made.get("RAYON_NUM_THREADS") == threads
    assert made.get("OMP_NUM_THREADS") == (threads or given)


def test_processes_without_a_word_share_the_machine(tmp_path: Path) -> None:
    """Two processes take half of the CPUs each, and at least one."""
    run = run_file(tmp_path, tmp_path).model_copy(update={"processes": 2})
    made = environment.of_worker(run, tmp_path / "work", {"HOME": str(tmp_path)})
    assert made["OMP_NUM_THREADS"] == str(max(1, len(os.sched_getaffinity(0)) // 2))


@pytest.mark.parametrize("place", ["nowhere", "model", "adapter", "train", "more", "evaluation"])
def test_the_hub_is_asked_where_a_uri_says_so(place: str, tmp_path: Path) -> None:
    """Wherever an hf:// URI stands, the worker may reach the hub; without one it never does."""
    document = json.loads(run_file(tmp_path, tmp_path).to_json())
    there = {"uri": "hf://owner/name"}
    match place:
        case "model":
            document["model"] = there
        case "adapter":
            document["model"]["adapter"] = there
        case "more":
            document["dataset"]["train"]["more"] = [{"uri": "hf://datasets/owner/name/rows.jsonl"}]
        case "train" | "evaluation":
            document["dataset"][place] = {"uri": "hf://datasets/owner/name/rows.jsonl"}
    made = environment.of_worker(RunFile.from_json(json.dumps(document)), tmp_path / "w", {"HOME": str(tmp_path)})
    assert ("HF_HUB_OFFLINE" in made) is (place == "nowhere")
