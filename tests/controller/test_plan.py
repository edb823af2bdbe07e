"""Single laws of a job's story: deletion, suspension, deadlines, refusals, and what people see."""

import json
from typing import Any

import pytest

from finetune_api.names import ANNOTATION_RUN_FILE
from finetune_api.outcome import DatasetReport, Outcome, Reason
from finetune_api.progress import Progress
from finetune_operator.deadlines import Heard
from finetune_operator.errors import RefusedError
from finetune_operator.observe import Observed
from finetune_operator.plan import Plan, plan
from finetune_operator.report import duration
from tests.controller.test_evidence import fail_job, running, waiting
from tests.controller.world import SETTINGS, UID, World, finish, termination_message


def test_deleted_object_is_left_alone() -> None:
    """Owner references do the work; the operator writes nothing to what is going away."""
    world = World()
    assert world.resource is not None
    world.resource["metadata"]["deletionTimestamp"] = "2026-11-23T12:00:00Z"
    world.reconcile()
    assert world.writes == []
    assert plan(world.resource, world.observed(), Heard(), world.now, SETTINGS) == Plan()


def test_job_deleted_by_hand_counts_as_a_failed_attempt() -> None:
    """The attempt is JobDeleted, counts against retries, and the next one has a name of its own."""
    world = World({"retries": 1})
    running(world)
    world.delete_jobs()
    world.reconcile()
    assert world.attempts[0]["reason"] == "JobDeleted"
    assert world.condition()["reason"] == "Retrying"
    world.pass_time(SETTINGS.retry_seconds)
    world.reconcile()
    assert [attempt for attempt, _ in world.created] == ["1", "2"]
    world.delete_jobs()
    world.reconcile()
    assert (world.condition()["status"], world.condition()["reason"]) == ("False", "JobDeleted")


def test_next_attempt_waits_for_the_pods_of_a_deleted_job() -> None:
    """Two trainers must never share an output prefix, so pods that outlive their Job hold the next attempt back."""
    world = World()
    running(world)
    world.jobs.clear()
    world.reconcile()
    world.pass_time(1000)
    world.reconcile()
    assert len(world.created) == 1
    world.pods.clear()
    world.reconcile()
    world.pass_time(1000)
    world.reconcile()
    assert len(world.created) == 2


def test_pods_hold_the_next_attempt_back_even_if_nothing_is_recorded() -> None:
    """The operator died before its first status, the Job was deleted, its trainer still runs: no second one yet."""
    world = World()
    world.reconcile(crash_after=1)
    world.make_pods()
    world.start_pods()
    world.jobs.clear()
    world.reconcile()
    assert not world.jobs
    world.pods.clear()
    world.reconcile()
    assert len(world.jobs) == 1


def test_attempt_ends_when_its_last_pod_has() -> None:
    """A Job that failed while its pod still runs, as older clusters allow, is not over yet."""
    world = World({"deadlines": {"activeSeconds": 5}})
    pod = running(world)
    fail_job(world, "DeadlineExceeded")
    world.reconcile()
    assert world.condition()["status"] == "Unknown"
    finish(pod, 75)
    world.reconcile()
    assert (world.condition()["status"], world.condition()["reason"]) == ("False", "DeadlineExceeded")


def test_no_time_left_is_shown_when_nothing_runs() -> None:
    """Between two attempts, and after the end, an estimate would be a lie; what was reached stays."""
    world = World(outcomes=("InternalError",))
    running(world)
    assert world.resource is not None
    world.resource["status"] = look(world, Progress(phase="Training", step=1, total_steps=4, eta_seconds=60))
    assert world.status["progress"]["eta"] == "1m"
    world.end_pods()
    world.sync_jobs()
    world.reconcile()
    assert "eta" not in world.status["progress"]
    assert world.status["progress"]["percentage"] == "25%"


def test_finished_job_is_never_run_again() -> None:
    """Removing the Jobs of a finished FineTuneJob, or editing its spec, brings nothing back."""
    world = World()
    world.settle()
    world.delete_jobs()
    world.edit(retries=9)
    world.reconcile()
    assert len(world.created) == 1
    assert world.status["observedGeneration"] == 2
    assert world.condition()["status"] == "True"


def test_foreign_job_of_that_name_is_not_touched() -> None:
    """NameConflict is shown, the other Job stays as it is, and the run starts once it is out of the way."""
    world = World()
    world.reconcile()
    ((name, job),) = world.jobs.items()
    fresh = World()
    job["metadata"]["ownerReferences"][0]["uid"] = "somebody-else"
    fresh.jobs[name] = job
    assert fresh.reconcile() is not None
    assert (fresh.condition()["status"], fresh.condition()["reason"]) == ("Unknown", "NameConflict")
    assert name in fresh.condition()["message"]
    assert not fresh.attempts
    assert fresh.jobs[name] is job
    fresh.jobs.clear()
    fresh.settle()
    assert fresh.condition()["reason"] == "Published"


def test_invalid_spec_is_told_and_heals() -> None:
    """A spec that the CRD let through and the models refuse: Stalled, with the field, and no Job."""
    world = World({"training": {"batchSize": 3, "microBatchSize": 2}})
    world.reconcile()
    assert world.condition("Stalled")["reason"] == "InvalidSpec"
    assert "spec.training.batchSize" in world.condition("Stalled")["message"]
    assert not world.jobs
    world.edit(training={"batchSize": 4, "microBatchSize": 2})
    world.settle()
    assert world.condition()["status"] == "True"
    assert world.condition("Stalled")["status"] == "False"


def test_job_that_the_api_server_finds_invalid_is_a_broken_spec() -> None:
    """What only the API server can judge, a label's form say, is Stalled with its words, and nothing was started."""
    world = World()

    async def refuse(_: Any) -> None:
        raise RefusedError("InvalidSpec", "spec.template.spec.nodeSelector: Invalid value")

    world.create_job = refuse  # type: ignore[method-assign]
    world.reconcile()
    assert world.condition("Stalled")["status"] == "True"
    assert "nodeSelector" in world.condition()["message"]
    assert "attempts" not in world.status or not world.attempts


def test_unreadable_status_is_rebuilt() -> None:
    """A status of some other make is no reason to stop: all of it can be found out again."""
    world = World()
    running(world)
    assert world.resource is not None
    world.resource["status"] = {"observedGeneration": 1, "phase": "Dancing", "attempts": "many"}
    world.settle()
    assert world.condition()["status"] == "True"
    assert len(world.created) == 1
    assert "phase" not in world.status


def test_suspend_frees_the_pod_and_resumes_the_same_attempt() -> None:
    """Suspending keeps the attempt: its Job is suspended, its pod goes, nothing is counted."""
    world = World()
    running(world)
    world.edit(suspend=True)
    world.reconcile()
    finish(world.pods[0], 75, termination_message("Preempted"))
    world.reconcile()
    world.sync_jobs()
    world.reconcile()
    assert not world.pods
    assert (world.condition()["reason"], world.condition("Suspended")["status"]) == ("Suspended", "True")
    world.edit(suspend=False)
    world.settle()
    assert (world.status["attempt"], world.status["failures"], world.status["preemptions"]) == (1, 0, 0)
    assert world.condition("Suspended")["status"] == "False"


def test_suspended_from_the_start_makes_no_job() -> None:
    """No Job, no pod, no GPU before somebody sets suspend to false."""
    world = World({"suspend": True})
    world.reconcile()
    assert not world.jobs
    assert world.condition()["reason"] == "Suspended"


def test_pending_deadline_ends_the_job_and_frees_what_waits() -> None:
    """The verdict names the cause of the wait; only then the waiting Job is stopped, so a crash cannot revive it."""
    world = World({"deadlines": {"pendingSeconds": 60}})
    pod = waiting(world)
    state = {"waiting": {"reason": "ErrImagePull", "message": "no such image"}}
    pod["status"]["containerStatuses"] = [{"name": "trainer", "state": state}]
    left = world.reconcile()
    assert left is not None
    assert left <= 60
    world.pass_time(left)
    world.reconcile()
    assert (world.condition()["status"], world.condition()["reason"]) == ("False", "PendingDeadlineExceeded")
    assert "no such image" in world.condition()["message"]
    world.reconcile()
    (job,) = world.jobs.values()
    assert job["spec"]["suspend"] is True


def test_pending_deadline_does_not_count_time_that_ran() -> None:
    """A pod that replaces an interrupted one waits anew; what ran for hours is not late."""
    world = World({"deadlines": {"pendingSeconds": 60}}, ("Preempted",))
    running(world)
    world.pass_time(10_000)
    world.end_pods()
    world.sync_jobs()
    world.reconcile()
    assert world.condition()["status"] == "Unknown"
    world.pods.clear()
    world.reconcile()
    assert world.condition()["status"] == "Unknown"
    world.settle()
    assert world.condition()["status"] == "True"
    assert world.status["preemptions"] == 1


def test_pause_doubles_with_each_failure() -> None:
    """10, 20, 40 seconds, counted from the end of the attempt."""
    world = World({"retries": 3}, ("InternalError",) * 3)
    pauses = []
    for _ in range(3):
        running(world)
        world.end_pods()
        world.sync_jobs()
        left = world.reconcile()
        assert left is not None
        pauses.append(left)
        world.pass_time(left)
    assert pauses == [10, 20, 40]


def test_spec_retries_is_the_number_of_new_attempts() -> None:
    """retries: 0 means one attempt and no more."""
    world = World({"retries": 0}, ("InternalError",))
    world.settle()
    assert len(world.created) == 1
    assert (world.condition()["status"], world.condition()["reason"]) == ("False", "InternalError")


def look(world: World, progress: Progress | None) -> dict[str, Any]:
    """The status that a pass with that progress gives."""
    assert world.resource is not None
    observed: Observed = world.observed()
    decided = plan(world.resource, observed, Heard(progress), world.now, SETTINGS).status
    assert decided is not None
    return decided.to_dict()


def test_progress_as_people_read_it() -> None:
    """Percent without a fraction, loss with four decimals, time left in two units, and the phase as the reason."""
    world = World()
    running(world)
    said = Progress(phase="Training", step=62, total_steps=100, loss=1.21437, eta_seconds=250, updated_at=1.8e9)
    status = look(world, said)
    shown = status["progress"]
    assert (shown["percentage"], shown["loss"], shown["eta"]) == ("62%", "1.2144", "4m10s")
    assert shown["updatedTime"] == "2027-01-15T08:00:00Z"
    assert next(c for c in status["conditions"] if c["type"] == "Succeeded")["reason"] == "Training"
    assert status["modelName"] == "smol-135m"


def test_progress_that_cannot_be_read_changes_nothing() -> None:
    """Between two readings the last word stands."""
    world = World()
    running(world)
    assert world.resource is not None
    world.resource["status"] = look(world, Progress(phase="Evaluating", step=5, total_steps=10, loss=1.0))
    after = look(world, None)
    assert next(c for c in after["conditions"] if c["type"] == "Succeeded")["reason"] == "Evaluating"
    assert after["progress"]["percentage"] == "50%"


@pytest.mark.parametrize("said", [{"step": 100, "total_steps": 100}, {"step": 10**30, "total_steps": 1}])
def test_hundred_percent_is_said_of_published_adapters_only(said: dict[str, int]) -> None:
    """All steps done is not done."""
    world = World()
    running(world)
    assert look(world, Progress(phase="Publishing", **said))["progress"]["percentage"] == "99%"
    world.settle()
    assert world.status["progress"]["percentage"] == "100%"
    assert world.status["artifact"]["manifestSha256"] == "ab" * 32


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_hostile_progress_is_bounded(loss: float) -> None:
    """Whatever a pod answers, the status stays within its schema."""
    world = World()
    running(world)
    said = Progress(phase="Training", loss=loss, message="x" * 10_000, updated_at=1e300, eta_seconds=10**12)
    shown = look(world, said)["progress"]
    assert "loss" not in shown
    assert len(shown["message"]) <= 512
    assert len(shown["eta"]) <= 64


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (59, "59s"), (60, "1m"), (250, "4m10s"), (3600, "1h"), (90_061, "1d1h")]
)
def test_duration(seconds: int, text: str) -> None:
    """The two largest units."""
    assert duration(seconds) == text


def test_attempt_list_is_bounded_and_counters_are_not() -> None:
    """The newest twenty attempts stay; failures counts them all."""
    world = World({"retries": 100}, ("InternalError",) * 25)
    world.settle()
    assert [a["number"] for a in world.attempts] == list(range(7, 27))
    assert world.status["failures"] == 25
    assert world.condition("Prepared")["status"] == "True"
    assert world.status["attempt"] == 26


def test_jobs_of_others_are_not_ours() -> None:
    """Labels can be copied; a Job counts only if its controller is this very object."""
    world = World()
    running(world)
    ((_, job),) = world.jobs.items()
    job["metadata"]["ownerReferences"][0]["uid"] = "another-" + UID
    assert world.observed().attempts == ()


def test_kstatus_view() -> None:
    """Reconciling while there is no running pod, neither while it trains, Stalled after a final failure."""
    world = World()
    waiting(world)
    world.reconcile()
    assert world.condition("Reconciling")["status"] == "True"
    pod = running(world)
    assert (world.condition("Reconciling")["status"], world.condition("Stalled")["status"]) == ("False", "False")
    finish(pod, 65)
    fail_job(world)
    world.reconcile()
    assert world.condition("Stalled")["status"] == "True"
    assert all(condition["observedGeneration"] == 1 for condition in world.status["conditions"])


@pytest.mark.parametrize(
    ("outcomes", "micro_batches"),
    [
        ((), [2, 6]),
        (("Published", "OutOfGPUMemory"), [2, 6, 3]),
        (("Published", "InternalError"), [2, 6, 6]),
    ],
)
def test_training_has_the_micro_batch_that_prepare_chose(outcomes: tuple[str, ...], micro_batches: list[int]) -> None:
    """The first attempt and every retry; where it was too large after all, the next one has half."""
    training = {"batchSize": 12, "microBatchSize": 2, "autoMicroBatchSize": True}
    world = World({"training": training, "resources": {"gpuMemory": "24Gi"}}, outcomes, prepared=False, chosen=6)
    world.settle()
    assert world.condition()["reason"] == "Published"
    assert world.micro_batches == micro_batches
    assert world.status["memory"]["microBatchSize"] == 6


@pytest.mark.parametrize("asked", [None, "main"])
def test_every_attempt_to_train_takes_the_commit_that_prepare_found(asked: str | None) -> None:
    """The status keeps it, and it is the model's revision in the run files of the first attempt and of a retry."""
    model = {"uri": "hf://owner/bot", **({"revision": asked} if asked else {})}
    world, commit = World({"model": model}, prepared=False), "c0ffee" * 6 + "1234"
    data = DatasetReport(sha256="0" * 64, rows=1, evaluation_rows=0, tokens=9, trained_tokens=4, model_revision=commit)
    prepared = Outcome(reason=Reason.PREPARED, message="ready", dataset=data)
    finish(running(world), 0, prepared.to_termination_message())
    world.sync_jobs()
    finish(running(world), 70)
    fail_job(world)
    world.reconcile()
    world.pass_time(SETTINGS.retry_seconds)
    world.reconcile()

    runs = [job["spec"]["template"]["metadata"]["annotations"][ANNOTATION_RUN_FILE] for job in world.jobs.values()]
    assert [json.loads(run)["model"].get("revision") for run in runs] == [asked, commit, commit]
    assert world.stages == ["prepare", "train", "train"]
    assert world.status["dataset"]["modelRevision"] == commit
