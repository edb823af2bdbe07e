"""The adapter's promises to the rest, kept against scripted answers of an API server."""

import json
from types import SimpleNamespace
from typing import Any

import pytest

from finetune_operator.cluster import ApiCluster
from finetune_operator.desired import service_manifest
from finetune_operator.errors import ApiError, RefusedError
from tests.controller.test_desired import manifest
from tests.controller.world import KEY, SPEC, UID


class Answers:
    """Stands in for kubernetes.aio's ApiClient: answers in order and remembers what it was asked."""

    def __init__(self, *answers: tuple[int, dict[str, Any]]) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, str, Any, str]] = []

        async def auth_settings() -> dict[str, Any]:
            return {"BearerToken": {"value": "bearer secret"}}

        self.configuration = SimpleNamespace(host="https://api.test", auth_settings=auth_settings)

    async def call_api(self, verb: str, url: str, headers: dict[str, str], body: Any, **_: Any) -> Any:
        """Answer the next thing."""
        assert headers["Authorization"] == "bearer secret"
        self.asked.append((verb, url.removeprefix("https://api.test"), body, headers["Content-Type"]))
        code, content = self.answers.pop(0)

        async def read() -> bytes:
            return json.dumps(content).encode()

        return SimpleNamespace(status=code, read=read, headers={})


def cluster(*answers: tuple[int, dict[str, Any]]) -> tuple[ApiCluster, Answers]:
    """The adapter before that API server."""
    client = Answers(*answers)
    return ApiCluster(client, 5), client


EXISTS = (409, {"reason": "AlreadyExists", "message": "jobs.batch already exists"})


async def test_existing_job_of_ours_is_the_one_we_wanted() -> None:
    """A create after a crash finds its own Job and is content."""
    owner = {"ownerReferences": [{"uid": UID, "controller": True}]}
    adapter, client = cluster(EXISTS, (200, {"metadata": owner}))
    job = manifest(SPEC)
    await adapter.create_job(job)
    assert [verb for verb, *_ in client.asked] == ["POST", "GET"]
    assert client.asked[1][1].endswith(f"/namespaces/{KEY[0]}/jobs/{job['metadata']['name']}")


@pytest.mark.parametrize(
    "metadata",
    [{}, {"ownerReferences": [{"uid": "other", "controller": True}]}, {"ownerReferences": [{"uid": UID}]}],
)
async def test_existing_job_of_others_is_a_conflict(metadata: dict[str, Any]) -> None:
    """No owner, another owner, or an owner that is no controller: not ours."""
    adapter, _ = cluster(EXISTS, (200, {"metadata": metadata}))
    with pytest.raises(RefusedError) as caught:
        await adapter.create_job(manifest(SPEC))
    assert caught.value.reason == "NameConflict"


async def test_a_service_is_created_by_the_same_law() -> None:
    """Our own is the one we wanted, somebody else's is a conflict that names the kind."""
    service = service_manifest(manifest({**SPEC, "resources": {"gpus": 0, "nodes": 2}}))
    assert service is not None
    adapter, client = cluster(EXISTS, (200, {"metadata": {"ownerReferences": [{"uid": UID, "controller": True}]}}))
    await adapter.create_service(service)
    assert client.asked[1][1] == f"/api/v1/namespaces/{KEY[0]}/services/{service['metadata']['name']}"
    adapter, _ = cluster(EXISTS, (200, {"metadata": {}}))
    with pytest.raises(RefusedError, match="Service gang-") as caught:
        await adapter.create_service(service)
    assert caught.value.reason == "NameConflict"


@pytest.mark.parametrize(
    ("code", "message", "reason"),
    [
        (403, 'jobs.batch "bot" is forbidden: exceeded quota: jobs, requested: count/jobs.batch=1', "QuotaExceeded"),
        (422, "Job.batch is invalid: spec.template.spec.nodeSelector: Invalid value", "InvalidSpec"),
        (403, "admission webhook denied the request", "Unknown"),
        (500, 'Internal error occurred: failed calling webhook "mjob.kb.io": connection refused', "WebhookUnavailable"),
    ],
)
async def test_refused_creation_is_told_with_the_servers_words(code: int, message: str, reason: str) -> None:
    """What a person has to change becomes a condition, not an endless error."""
    adapter, _ = cluster((code, {"reason": "Forbidden", "message": message}))
    with pytest.raises(RefusedError) as caught:
        await adapter.create_job(manifest(SPEC))
    assert caught.value.reason == reason
    assert message in caught.value.message


@pytest.mark.parametrize("code", [429, 500, 503, 404])
async def test_other_errors_stay_errors(code: int) -> None:
    """Overload and outage are for the queue's backoff; nothing is claimed about the job."""
    adapter, _ = cluster((code, {"reason": "X", "message": "y"}))
    with pytest.raises(ApiError):
        await adapter.create_job(manifest(SPEC))


async def test_status_is_merge_patched_on_its_subresource() -> None:
    """The one write to a FineTuneJob."""
    adapter, client = cluster((200, {}))
    await adapter.patch_status(KEY, {"status": {"attempt": 1}})
    ((verb, path, body, kind),) = client.asked
    assert (verb, kind) == ("PATCH", "application/merge-patch+json")
    assert path == "/apis/finetune.dev/v1alpha1/namespaces/research/finetunejobs/bot/status"
    assert body == {"status": {"attempt": 1}}


async def test_only_suspend_is_patched_on_a_job() -> None:
    """Everything else of a Job may belong to somebody else after its creation."""
    adapter, client = cluster((200, {}))
    await adapter.set_suspend("research", "bot-1", suspend=True)
    assert client.asked[0][2] == {"spec": {"suspend": True}}


async def test_lists_are_read_to_their_end() -> None:
    """A list comes in pages; the selector goes to the server."""
    page = {"items": [{"n": 1}], "metadata": {"continue": "more"}}
    last = {"items": [{"n": 2}], "metadata": {}}
    adapter, client = cluster((200, page), (200, last), (200, last))
    jobs, pods = await adapter.children("research", UID)
    assert ([job["n"] for job in jobs], len(pods)) == ([1, 2], 1)
    assert all("labelSelector=finetune.dev%2Fuid" in path for _, path, *_ in client.asked)
    assert "continue=more" in client.asked[1][1]


async def test_repeated_event_is_counted_up() -> None:
    """The same Event again is a patch of its count and of what it says now; when it first came stays."""
    adapter, client = cluster(EXISTS, (200, {"items": [{"count": 4}], "metadata": {}}), (200, {}))
    news = {"type": "Warning", "message": "again", "lastTimestamp": "t", "reportingInstance": "two"}
    await adapter.record("research", "bot.1", {**news, "count": 1, "firstTimestamp": "t", "reason": "Hang"})
    assert client.asked[-1] == (
        "PATCH",
        "/api/v1/namespaces/research/events/bot.1",
        {**news, "count": 5},
        "application/merge-patch+json",
    )


async def test_deletion_is_of_that_very_object() -> None:
    """A new object of the same name has another uid and stays."""
    adapter, client = cluster((409, {"reason": "Conflict", "message": "uid differs"}))
    await adapter.delete(KEY, UID)
    assert client.asked[0][2]["preconditions"] == {"uid": UID}


async def test_missing_object_is_none() -> None:
    """Gone is no error."""
    adapter, _ = cluster((404, {"reason": "NotFound", "message": ""}))
    assert await adapter.job(KEY) is None


FORBIDDEN = (403, {"reason": "Forbidden", "message": "no"})
ONE = (200, {"items": [{"n": 1}], "metadata": {}})


async def listed(adapter: ApiCluster, *namespaces: str) -> list[dict[str, Any]]:
    """Everything that a survey would see."""
    return [item async for page in adapter.pages("finetunejobs", namespaces) for item in page]


async def test_a_namespace_that_may_not_be_read_hides_no_other() -> None:
    """It may have been deleted, and the Role with it; what was in it counts as gone until it can be read again."""
    adapter, _ = cluster(ONE, FORBIDDEN, ONE, FORBIDDEN, ONE, ONE, ONE, FORBIDDEN)
    assert len(await listed(adapter, "a", "research", "c")) == 2
    assert await adapter.job(KEY) is None
    assert len(await listed(adapter, "a", "research", "c")) == 3
    with pytest.raises(ApiError, match="403"):  # of a namespace that can be read, nobody knows what that means
        await adapter.job(KEY)


async def test_without_rights_in_the_whole_cluster_nothing_is_listed() -> None:
    """Nothing found would mean that every job is gone."""
    adapter, _ = cluster(FORBIDDEN)
    with pytest.raises(ApiError, match="403"):
        await listed(adapter)


@pytest.mark.parametrize(
    ("answers", "starts"),
    [([ONE, FORBIDDEN], True), ([FORBIDDEN, ONE], True), ([FORBIDDEN, FORBIDDEN], False), ([ONE, (500, {})], False)],
)
async def test_it_starts_where_one_namespace_can_be_read(answers: list[Any], starts: bool) -> None:
    """With no right to any, rather the installation is wrong; another error may be over in a moment."""
    adapter, _ = cluster(*answers)
    if starts:
        await adapter.check(("a", "b"))
    else:
        with pytest.raises(ApiError):
            await adapter.check(("a", "b"))


async def test_an_answer_that_is_no_json_is_an_api_error() -> None:
    """A proxy's error page must not look like a bug of ours."""
    adapter, client = cluster((502, {}))
    client.answers = [(502, "<html>")]  # type: ignore[list-item]
    with pytest.raises(ApiError, match="502"):
        await adapter.job(KEY)
