"""The fence: a write of a replica that may not write never reaches the API server, whenever it was decided."""

import aiohttp
import pytest
from aiohttp import web

from finetune_operator.fence import Fence, FencedError


async def test_only_reads_and_the_lease_pass_while_it_is_shut() -> None:
    """What arrives at a real server: all reads, all writes of the Lease, and other writes only while it is open."""
    arrived: list[tuple[str, str]] = []

    async def answer(request: web.Request) -> web.Response:
        await request.read()
        arrived.append((request.method, request.path))
        return web.json_response({})

    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    job, lease = "/apis/batch/v1/namespaces/a/jobs", "/apis/coordination.k8s.io/v1/namespaces/a/leases/op"
    fence = Fence()
    try:
        async with aiohttp.ClientSession(trace_configs=[fence.trace()]) as session:
            for verb in ("POST", "PATCH", "DELETE"):
                with pytest.raises(aiohttp.ClientError) as refused:
                    await session.request(verb, url + job, json={"some": "body"})
                assert isinstance(refused.value.__cause__, FencedError)
            await session.get(url + job)
            await session.put(url + lease, json={})
            assert arrived == [("GET", job), ("PUT", lease)]
            fence.may_write = lambda: True
            await session.post(url + job, json={})
            assert arrived[-1] == ("POST", job)
    finally:
        await runner.cleanup()
