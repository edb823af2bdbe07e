"""The only module that talks to the API server: what the operator may do there, and the one adapter that does it."""

import asyncio
import json
import logging
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlencode

import aiohttp
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, Configuration

from finetune_api import __version__, names
from finetune_api.names import ClusterReason
from finetune_operator import metrics
from finetune_operator.errors import ApiError, OverloadedError, RefusedError
from finetune_operator.evidence import WEBHOOK_FAILED
from finetune_operator.fence import Fence, FencedError
from finetune_operator.observe import controller_uid

_logger = logging.getLogger(__name__)
Resource = dict[str, Any]
Key = tuple[str, str]
"""Namespace and name of a FineTuneJob."""
_PAGE = 100
_TRIES = 5  # of a request that the API server wants later
_LONGEST_WAIT = 60.0
_POD_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


class Cluster(Protocol):
    """Everything that the operator reads and writes."""

    async def check(self, namespaces: tuple[str, ...]) -> None:
        """Raise ApiError where FineTuneJobs can be listed in none of these namespaces; without any, in the cluster."""

    def pages(self, kind: str, namespaces: tuple[str, ...]) -> AsyncIterator[list[Resource]]:
        """All FineTuneJobs, or all Jobs or Pods of ours (`jobs`, `pods`), as long lists as the API server gives.

        A named namespace that may not be read is left out: it may have been deleted.
        """

    async def job(self, key: Key) -> Resource | None:
        """The FineTuneJob, or None if there is none, or none any more that may be read."""

    async def children(self, namespace: str, uid: str) -> tuple[list[Resource], list[Resource]]:
        """Jobs and Pods that carry the FineTuneJob's uid as a label; Jobs are read first."""

    async def events_about(self, namespace: str, uid: str, reason: str = "") -> list[Resource]:
        """Events about the object with that uid, oldest first; with a reason, only those."""

    async def create_service(self, manifest: Resource) -> None:
        """Create the Service, by the same law as a Job."""

    async def create_job(self, manifest: Resource) -> None:
        """Create the Job. One that is there already is accepted if it is the owner's; raises RefusedError."""

    async def set_suspend(self, namespace: str, name: str, *, suspend: bool) -> None:
        """Patch the Job's `suspend`; raises RefusedError where an admission webhook gives no answer."""

    async def delete_job(self, namespace: str, name: str) -> None:
        """Delete the Job once its pods have ended, and tell them to."""

    async def patch_status(self, key: Key, patch: Resource) -> Resource:
        """Merge-patch the FineTuneJob's status and return it; raises ApiError 409 if it changed since it was read."""

    async def delete(self, key: Key, uid: str) -> None:
        """Delete the FineTuneJob with that uid."""

    async def record(self, namespace: str, name: str, event: Resource) -> None:
        """Create the Event; if it is there, count it up, and let it say what the new one says."""


class ApiCluster:
    """The real one. Bodies stay plain dicts: the typed models would drop what they do not know."""

    def __init__(self, client: ApiClient, request_seconds: float, agent: str = names.MANAGED_BY) -> None:
        self._client, self.agent = client, agent
        self.namespace = "default"
        """The pod's own namespace, or the kubeconfig's."""
        self.answered: Callable[[], None] = lambda: None
        """Called whenever the API server gave what it was asked for."""
        self._timeout = aiohttp.ClientTimeout(total=request_seconds)
        self._closed: set[str] = set()
        """Namespaces that could not be read when they were last listed: their Roles went with them, as a rule."""

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def credentials(self) -> dict[str, Any]:
        """Where the API server is and how to log in, for kopf's watches: one login serves both."""
        configuration = self._client.configuration
        auth = (await configuration.auth_settings()).get("BearerToken", {}).get("value") or ""
        return {
            "server": configuration.host,
            "ca_path": configuration.ssl_ca_cert,
            "insecure": not configuration.verify_ssl,
            "certificate_path": configuration.cert_file,
            "private_key_path": configuration.key_file,
            "token": auth.split(" ", 1)[-1] or None,
        }

    async def check(self, namespaces: tuple[str, ...]) -> None:  # noqa: D102 - see Cluster
        for namespace in namespaces or (None,):
            with self._closing(namespace):
                await self._call("GET", _list_path(names.PLURAL, namespace) + "?limit=1")
        if namespaces and self._closed.issuperset(namespaces):
            raise ApiError(403, "Forbidden", f"no right to FineTuneJobs in any of {', '.join(namespaces)}")

    async def pages(self, kind: str, namespaces: tuple[str, ...]) -> AsyncIterator[list[Resource]]:  # noqa: D102
        ours = {} if kind == names.PLURAL else {"labelSelector": f"{names.LABEL_MANAGED_BY}={names.MANAGED_BY}"}
        for namespace in namespaces or (None,):
            with self._closing(namespace):
                async for page in self._pages(_list_path(kind, namespace), **ours):
                    yield page

    async def job(self, key: Key) -> Resource | None:  # noqa: D102
        try:
            return await self._call("GET", _jobs_path(*key))
        except ApiError as error:
            if error.status == 404 or (error.status == 403 and key[0] in self._closed):
                return None
            raise

    async def children(self, namespace: str, uid: str) -> tuple[list[Resource], list[Resource]]:  # noqa: D102
        selector = f"{names.LABEL_JOB_UID}={uid},{names.LABEL_MANAGED_BY}={names.MANAGED_BY}"
        jobs = await self._list(f"/apis/batch/v1/namespaces/{namespace}/jobs", labelSelector=selector)
        return jobs, await self._list(f"/api/v1/namespaces/{namespace}/pods", labelSelector=selector)

    async def events_about(self, namespace: str, uid: str, reason: str = "") -> list[Resource]:  # noqa: D102
        selector = f"involvedObject.uid={uid}" + (f",reason={reason}" if reason else "")
        found = await self._list(f"/api/v1/namespaces/{namespace}/events", fieldSelector=selector)
        return sorted(found, key=lambda event: str(event.get("lastTimestamp") or event.get("eventTime") or ""))

    async def create_service(self, manifest: Resource) -> None:  # noqa: D102
        await self._create(f"/api/v1/namespaces/{manifest['metadata']['namespace']}/services", manifest)

    async def create_job(self, manifest: Resource) -> None:  # noqa: D102
        await self._create(f"/apis/batch/v1/namespaces/{manifest['metadata']['namespace']}/jobs", manifest)

    async def _create(self, path: str, manifest: Resource) -> None:
        kind, name = manifest["kind"], manifest["metadata"]["name"]
        try:
            await self._call("POST", path, manifest)
        except ApiError as error:
            if error.status == 409 and error.reason == "AlreadyExists":
                there = await self._call("GET", f"{path}/{name}")
                if controller_uid(there) == controller_uid(manifest):
                    return
                message = f"a {kind} {name} that belongs to somebody else is in the way; delete or rename it"
                raise RefusedError(ClusterReason.NAME_CONFLICT, message) from error
            if error.status in (400, 403, 422) or WEBHOOK_FAILED in error.message:
                raise RefusedError(*_refusal(error, kind, name)) from error
            raise

    async def set_suspend(self, namespace: str, name: str, *, suspend: bool) -> None:  # noqa: D102
        path = f"/apis/batch/v1/namespaces/{namespace}/jobs/{name}"
        try:
            await self._call("PATCH", path, {"spec": {"suspend": suspend}})
        except ApiError as error:
            if WEBHOOK_FAILED in error.message:
                raise RefusedError(*_refusal(error, "Job", name)) from error
            raise

    async def delete_job(self, namespace: str, name: str) -> None:  # noqa: D102
        path = f"/apis/batch/v1/namespaces/{namespace}/jobs/{name}"
        try:
            await self._call("DELETE", path, {"propagationPolicy": "Foreground"})
        except ApiError as error:
            if error.status != 404:
                raise

    async def patch_status(self, key: Key, patch: Resource) -> Resource:  # noqa: D102
        return await self._call("PATCH", _jobs_path(*key) + "/status", patch)

    async def delete(self, key: Key, uid: str) -> None:  # noqa: D102
        options = {"preconditions": {"uid": uid}, "propagationPolicy": "Background"}
        try:
            await self._call("DELETE", _jobs_path(*key), options)
        except ApiError as error:
            if error.status not in (404, 409):  # gone, or another one of the same name
                raise

    async def record(self, namespace: str, name: str, event: Resource) -> None:  # noqa: D102
        path = f"/api/v1/namespaces/{namespace}/events"
        try:
            await self._call("POST", path, event)
        except ApiError as error:
            if error.status != 409:
                raise
            (there, *_) = await self._list(path, fieldSelector=f"metadata.name={name}") or [{}]
            news = {part: event[part] for part in ("type", "message", "lastTimestamp", "reportingInstance")}
            await self._call("PATCH", f"{path}/{name}", {**news, "count": int(there.get("count") or 1) + 1})

    async def lease(self, verb: str, namespace: str, name: str, body: Resource | None = None) -> Resource:
        """GET, POST or PUT a Lease."""
        path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        return await self._call(verb, path if verb == "POST" else f"{path}/{name}", body)

    @contextmanager
    def _closing(self, namespace: str | None) -> Iterator[None]:
        """List within a namespace; one that may not be read brings nothing, and is told about."""
        try:
            yield
        except ApiError as error:
            if namespace is None or error.status != 403:
                raise
            _logger.warning("namespace %s is left out, until it can be read: %s", namespace, error.message)
            self._closed.add(namespace)
        else:
            self._closed.discard(namespace or "")

    async def _list(self, path: str, **query: str) -> list[Resource]:
        """All pages of a list."""
        return [item async for page in self._pages(path, **query) for item in page]

    async def _pages(self, path: str, **query: str) -> AsyncIterator[list[Resource]]:
        parameters = {**query, "limit": str(_PAGE)}
        while True:
            page = await self._call("GET", f"{path}?{urlencode(parameters)}")
            yield page["items"]
            following = page["metadata"].get("continue")
            if not following:
                return
            parameters["continue"] = following

    async def _call(self, verb: str, path: str, body: Resource | None = None) -> Resource:
        """One request, asked again when the API server wants it later. Raises ApiError and TimeoutError."""
        for _ in range(_TRIES - 1):
            try:
                return await self._send(verb, path, body)
            except OverloadedError as error:  # it did nothing, so any verb may be repeated
                await asyncio.sleep(min(error.seconds, _LONGEST_WAIT) * random.uniform(1.0, 1.2))
        return await self._send(verb, path, body)

    async def _send(self, verb: str, path: str, body: Resource | None = None) -> Resource:
        """Raises ApiError for every answer but a good one, and TimeoutError."""
        headers = {"Accept": "application/json", "User-Agent": self.agent}
        headers["Content-Type"] = "application/merge-patch+json" if verb == "PATCH" else "application/json"
        settings = await self._client.configuration.auth_settings()
        if "BearerToken" in settings:
            headers["Authorization"] = settings["BearerToken"]["value"]
        started, code = time.monotonic(), "error"
        try:
            answer = await self._client.call_api(
                verb, self._client.configuration.host + path, headers, body, _request_timeout=self._timeout
            )
            data, code = await answer.read(), str(answer.status)
        except aiohttp.ClientError as error:
            if isinstance(error.__cause__, FencedError):
                raise ApiError(0, "Fenced", str(error.__cause__)) from error
            raise ApiError(0, type(error).__name__, f"the API server cannot be reached: {error}") from error
        finally:
            metrics.api_request(verb, path, code, time.monotonic() - started)
        content = _judged(int(code), data, str(answer.headers.get("Retry-After", "")))
        self.answered()
        return content


def _judged(code: int, data: bytes, retry_after: str = "") -> Resource:
    try:
        content = json.loads(data)
    except ValueError:
        content = {"message": data[:200].decode(errors="replace")}
    if not isinstance(content, dict):
        content = {"message": str(content)[:200]}
    if 200 <= code < 300:
        return content
    if code in (429, 503) and retry_after.isdecimal():
        reason, message = str(content.get("reason", "")), str(content.get("message", ""))
        raise OverloadedError(code, reason, message, float(retry_after))
    raise ApiError(code, str(content.get("reason", "")), str(content.get("message", "")))


def _list_path(kind: str, namespace: str | None) -> str:
    within = f"/namespaces/{namespace}" if namespace else ""
    return {names.PLURAL: f"/apis/{names.API_VERSION}", "jobs": "/apis/batch/v1", "pods": "/api/v1"}[
        kind
    ] + f"{within}/{kind}"


def _jobs_path(namespace: str, name: str) -> str:
    return f"{_list_path(names.PLURAL, namespace)}/{name}"


def _refusal(error: ApiError, kind: str, name: str) -> tuple[str, str]:
    """The API server said no, or could not ask who must agree: it takes somebody else for it to say yes."""
    if WEBHOOK_FAILED in error.message:
        return ClusterReason.WEBHOOK_UNAVAILABLE, error.message
    if "exceeded quota" in error.message:
        return ClusterReason.QUOTA_EXCEEDED, error.message
    if error.status == 422:
        return ClusterReason.INVALID_SPEC, error.message
    return ClusterReason.UNKNOWN, f"the API server refuses {kind} {name}: {error.message}"


async def connect(request_seconds: float, fence: Fence, identity: str) -> ApiCluster:
    """A cluster client from the pod's ServiceAccount, or from the kubeconfig outside a pod."""
    configuration = Configuration(trace_configs=[fence.trace()])
    try:
        await asyncio.to_thread(config.load_incluster_config, configuration)
        namespace = await asyncio.to_thread(_POD_NAMESPACE.read_text)
    except config.ConfigException:
        await config.load_kube_config(client_configuration=configuration)
        _, context = await asyncio.to_thread(config.list_kube_config_contexts)
        namespace = context["context"].get("namespace", "")
    cluster = ApiCluster(ApiClient(configuration), request_seconds, f"{names.MANAGED_BY}/{__version__} ({identity})")
    cluster.namespace = namespace.strip() or "default"
    return cluster
