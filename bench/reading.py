"""The reads of a pass by one client of Kubernetes, in a process of its own, for some seconds.

`python -m bench.reading NAME KUBECONFIG FILE`, where FILE says the uid of each FineTuneJob by name as JSON: GET it,
LIST its Jobs and its Pods by label, again and again. bench/clients.py runs one after the other.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from bench.machine import memory
from finetune_api import names

NAMESPACE = "research"
Read = Callable[[str, str], Awaitable[Any]]
"""One pass's reads, of a FineTuneJob by its name and its uid."""
_AT_ONCE = 4
_SECONDS = 8.0


@asynccontextmanager
async def _kubernetes_raw(kubeconfig: str) -> AsyncIterator[Read]:
    """As the operator does it: kubernetes' asyncio client for login and connections, JSON as it comes."""
    os.environ["KUBECONFIG"] = kubeconfig
    from finetune_operator.cluster import connect
    from finetune_operator.fence import Fence

    cluster = await connect(30, Fence(), "bench")

    async def read(name: str, uid: str) -> Any:
        return await cluster.job((NAMESPACE, name)), await cluster.children(NAMESPACE, uid)

    yield read
    await cluster.close()


@asynccontextmanager
async def _kubernetes_typed(kubeconfig: str) -> AsyncIterator[Read]:
    """The same client with its models."""
    from kubernetes.aio import client, config

    configuration = client.Configuration()
    await config.load_kube_config(kubeconfig, client_configuration=configuration)
    async with client.ApiClient(configuration) as connection:
        custom, batch, core = (
            client.CustomObjectsApi(connection),
            client.BatchV1Api(connection),
            client.CoreV1Api(connection),
        )

        async def read(name: str, uid: str) -> Any:
            selector = f"{names.LABEL_JOB_UID}={uid}"
            return (
                await custom.get_namespaced_custom_object(names.GROUP, names.VERSION, NAMESPACE, names.PLURAL, name),
                await batch.list_namespaced_job(NAMESPACE, label_selector=selector),
                await core.list_namespaced_pod(NAMESPACE, label_selector=selector),
            )

        yield read


@asynccontextmanager
async def _lightkube(kubeconfig: str) -> AsyncIterator[Read]:
    from lightkube import AsyncClient, KubeConfig
    from lightkube.generic_resource import create_namespaced_resource
    from lightkube.resources.batch_v1 import Job
    from lightkube.resources.core_v1 import Pod

    ours = create_namespaced_resource(names.GROUP, names.VERSION, names.KIND, names.PLURAL)
    client = AsyncClient(config=KubeConfig.from_file(kubeconfig), namespace=NAMESPACE)

    async def read(name: str, uid: str) -> Any:
        labels = {names.LABEL_JOB_UID: uid}
        lists = [[item async for item in client.list(kind, labels=labels)] for kind in (Job, Pod)]
        return await client.get(ours, name), lists

    yield read
    await client.close()


@asynccontextmanager
async def _kr8s(kubeconfig: str) -> AsyncIterator[Read]:
    import kr8s.asyncio
    from kr8s.asyncio.objects import new_class

    ours = new_class(names.KIND, names.API_VERSION, asyncio=True, namespaced=True, plural=names.PLURAL)
    client = await kr8s.asyncio.api(kubeconfig=kubeconfig)

    async def read(name: str, uid: str) -> Any:
        labels = {names.LABEL_JOB_UID: uid}
        lists = [
            [item async for item in client.get(kind, namespace=NAMESPACE, label_selector=labels, raw=True)]
            for kind in ("jobs", "pods")
        ]
        return await ours.get(name, namespace=NAMESPACE, api=client), lists

    yield read


CLIENTS = {
    "kubernetes, raw JSON": _kubernetes_raw,
    "kubernetes, models": _kubernetes_typed,
    "lightkube": _lightkube,
    "kr8s": _kr8s,
}


async def _work(name: str, kubeconfig: str, objects: dict[str, str]) -> dict[str, float]:
    """Reads for some seconds, four at once."""
    async with CLIENTS[name](kubeconfig) as read:
        (some, uid), *_ = objects.items()
        await read(some, uid)
        done, begun, cpu = 0, time.monotonic(), _cpu_seconds()

        async def hand(number: int) -> None:
            nonlocal done
            mine = [*objects.items()][number::_AT_ONCE]
            while True:
                for one, its_uid in mine:
                    if time.monotonic() - begun > _SECONDS:
                        return
                    await read(one, its_uid)
                    done += 3

        await asyncio.gather(*map(hand, range(_AT_ONCE)))
        seconds, used = time.monotonic() - begun, _cpu_seconds() - cpu
    return {
        "requests_per_second": round(done / seconds, 1),
        "cpu_milliseconds_per_request": round(1000 * used / done, 2),
        "peak_rss_mb": round(memory(os.getpid(), "VmHWM") / 1e6, 1),
    }


def _cpu_seconds() -> float:
    used = os.times()
    return used.user + used.system


if __name__ == "__main__":
    print(json.dumps(asyncio.run(_work(sys.argv[1], sys.argv[2], json.loads(Path(sys.argv[3]).read_text())))))
