"""Running trainers are asked in time, however many of them never answer."""

import asyncio
from collections import Counter

from finetune_operator.progress import Poller

ANSWER = b'{"phase": "Training", "step": 1}'


async def test_who_does_not_answer_costs_the_others_nothing() -> None:
    """Of 250 trainers 50 accept and stay silent: the others are asked as often as if they were alone.

    Counted in questions, not in seconds: while a silent one is waited for once, every other one is asked several times.
    """
    asked: Counter[str] = Counter()
    rounds = asyncio.Event()

    async def trainer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        address = writer.get_extra_info("sockname")[0]
        while await reader.readline():
            while (await reader.readline()).strip():
                pass  # headers
            asked[address] += 1
            if address.startswith("127.16.1."):
                await reader.read()  # until the other side gives up
                break
            head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(ANSWER)}\r\n\r\n"
            writer.write(head.encode() + ANSWER)
            if all(asked[address] >= 3 for address in answering):
                rounds.set()
        writer.close()

    answering = [f"127.16.0.{n}" for n in range(1, 201)]
    silent = [f"127.16.1.{n}" for n in range(1, 51)]
    server = await asyncio.start_server(trainer, "0.0.0.0", 0)  # noqa: S104 - each pod is an address of loopback
    changed: Counter[tuple[str, str]] = Counter()
    poller = Poller(0.5, lambda key: changed.update([key]), port=server.sockets[0].getsockname()[1])
    for address in silent + answering:  # the silent ones come first
        poller.follow(("n", address), "job", address)
    polling = asyncio.create_task(poller.run())
    await asyncio.wait_for(rounds.wait(), 30)
    polling.cancel()
    await asyncio.gather(polling, return_exceptions=True)
    server.close()
    assert changed == Counter({("n", address): 1 for address in answering})
    assert max(asked[address] for address in silent) <= 2, "a silent one is waited for, then asked less often"
