"""A simulated control plane to measure the operator on, seen from outside: requests, the audit log, /proc."""

import asyncio
import json
import ssl
import statistics
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp
from kubernetes.aio import config
from kubernetes.aio.client import Configuration

from bench.machine import TICKS, memory
from finetune_api import names
from localcluster.simulation import ControlPlane, Resource, control_plane
from tests.simulation.jobs import NAMESPACE

REPOSITORY = Path(__file__).parents[1]
PROGRAMS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kwok")
FTJ = f"/apis/{names.API_VERSION}/namespaces/{NAMESPACE}/{names.PLURAL}"
JOBS = f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"


@contextmanager
def a_plane(root: Path, stages: Iterable[Resource] = (), *, nodes: int = 0) -> Iterator[ControlPlane]:
    """A control plane with the CRD and a namespace."""
    with control_plane(root, list(stages), nodes=nodes) as plane:
        plane.install(REPOSITORY / "crds" / "finetunejobs.yaml")
        plane.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        yield plane


class Api:
    """A bare client: one aiohttp session, plain dicts. Bodies may be bytes, so that a measured loop makes no JSON."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session, self._url = session, url

    async def call(self, verb: str, path: str, body: Resource | bytes | None = None) -> Resource:
        """One request; anything but a good answer is an error."""
        kind = "application/merge-patch+json" if verb == "PATCH" else "application/json"
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        async with self._session.request(verb, self._url + path, data=data, headers={"Content-Type": kind}) as answer:
            raw = await answer.read()
            if answer.status >= 300:
                raise RuntimeError(f"{verb} {path}: {answer.status} {raw[:300]!r}")
        found: Resource = json.loads(raw)
        return found


@asynccontextmanager
async def api(plane: ControlPlane) -> AsyncIterator[Api]:
    """The administrator's bare client."""
    configuration = Configuration()
    await config.load_kube_config(str(plane.paths.kubeconfig), client_configuration=configuration)
    context = ssl.create_default_context(cafile=configuration.ssl_ca_cert)
    context.load_cert_chain(configuration.cert_file, configuration.key_file)
    connector = aiohttp.TCPConnector(ssl=context, limit=0)
    async with aiohttp.ClientSession(connector=connector, headers={"User-Agent": "bench"}) as session:
        yield Api(session, plane.url)


async def each(items: Iterable[Any], work: Callable[[Any], Any], at_once: int) -> None:
    """Do the work on every item, so many at once."""
    left = iter(items)

    async def hand() -> None:
        for item in left:
            await work(item)

    await asyncio.gather(*(hand() for _ in range(at_once)))


async def until(what: str, condition: Callable[[], Any], seconds: float, pause: float = 0.2) -> Any:
    """Poll until it is true; returns its value."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > end:
            raise SystemExit(f"waited {seconds:.0f} s in vain for {what}")
        await asyncio.sleep(pause)
    return value


class Audit:
    """The API server's audit log from now on: who asked for what, and when it was answered."""

    def __init__(self, plane: ControlPlane) -> None:
        self._path = plane.paths.audit
        self._from = self._path.stat().st_size

    def entries(self, agent: str = "") -> Iterator[Resource]:
        """Requests of programs whose user agent begins so."""
        with self._path.open() as log:
            log.seek(self._from)
            for line in log:
                if f'"userAgent":"{agent}' in line and line.endswith("\n"):
                    yield json.loads(line)

    def counts(self, agent: str) -> dict[str, int]:
        """Requests by verb and resource; a watch counts when it ends."""
        return {what: len(found) for what, found in self._by_kind(agent).items()}

    def milliseconds(self, agent: str) -> dict[str, float]:
        """Median time that the API server took for each kind of request."""
        return {what: round(statistics.median(found), 1) for what, found in self._by_kind(agent).items()}

    def _by_kind(self, agent: str) -> dict[str, list[float]]:
        found: dict[str, list[float]] = {}
        for entry in self.entries(agent):
            reference = entry.get("objectRef", {})
            what = "/".join(filter(None, (reference.get("resource"), reference.get("subresource"))))
            asked = datetime.fromisoformat(entry["requestReceivedTimestamp"]).timestamp()
            found.setdefault(f"{entry['verb']} {what}", []).append(1000 * (answered(entry) - asked))
        return dict(sorted(found.items()))


def answered(entry: Resource) -> float:
    """Unix time at which the API server had done it."""
    return datetime.fromisoformat(entry["stageTimestamp"]).timestamp()


def cpu_seconds(pid: int) -> float:
    """User and system seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


class Shares:
    """Who had how much of the machine since this was made: cores, by program."""

    def __init__(self, plane: ControlPlane, operator: int | None = None) -> None:
        self._pids = {name: plane.pid(name) for name in PROGRAMS if plane.runs(name)}
        if operator is not None:
            self._pids["operator"] = operator
        self._before = self._now()

    def _now(self) -> dict[str, float]:
        user, nice, system, _, _, irq, softirq, *_ = map(int, Path("/proc/stat").read_text().split("\n")[0].split()[1:])
        found = {name: cpu_seconds(pid) for name, pid in self._pids.items()}
        return found | {"machine": (user + nice + system + irq + softirq) / TICKS, "wall": time.monotonic()}

    def cores(self) -> dict[str, float]:
        """Cores on average, by program; `others` is everybody who is not listed, this benchmark among them."""
        now = self._now()
        wall = max(now["wall"] - self._before["wall"], 0.01)
        found = {name: (now[name] - self._before[name]) / wall for name in now if name != "wall"}
        found["others"] = max(0.0, found.pop("machine") - sum(found[name] for name in self._pids))
        return {name: round(value, 3) for name, value in found.items()}


def megabytes(pid: int, name: str = "VmRSS") -> float:
    """Resident size; VmHWM is the most it had."""
    return round(memory(pid, name) / 1e6, 1)


def metric(text: str, name: str) -> float:
    """The sum of a metric's series in the text of /metrics."""
    lines = (line for line in text.splitlines() if line.startswith(name) and line[len(name)] in " {")
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)
