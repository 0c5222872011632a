"""Tests of what is booked for an answer that broke off, made no sense, or was never asked for: neither too little nor too much."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from io import BytesIO
from typing import Any

import orjson
import pytest

from proxy.core.routing import Role
from proxy.metering.journal import FoundJournal
from proxy.metering.records import Ended, Noted, Opened, Record
from tests.gateway import RunningGateway, provider_settings, running_gateway
from tests.proxy.bare_provider import BareProvider, body_of
from tests.proxy.stage import MINI, PLAIN, ask, assert_equals_books, staged
from tests.upstreams import Behaviour, OpenAICompatible, serving

BARE = "bare/model"
MODELS = {"object": "list", "data": [{"id": BARE, "object": "model"}]}
PRICES = {BARE: {"prompt": "0.000003", "completion": "0.00003"}}
LONG = 17 * 2**20
"""Bytes that no document in the database can have."""

BROKEN = {
    "cut at its begin": (True, Behaviour(cut="rst", cut_after=0)),
    "cut after comments": (True, Behaviour(cut="fin", cut_after=0, comments_before=3)),
    "a chunk that is none": (True, Behaviour(garbage="bad_json")),
    "a whole answer that is none": (False, Behaviour(garbage="bad_json")),
    "packed": (False, Behaviour(garbage="gzip")),
    "cut in its body": (False, Behaviour(cut="fin", cut_inside=True)),
}


@pytest.mark.parametrize(("stream", "behaviour"), BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("keeps_records", [False, True], ids=["estimated", "by its record"])
async def test_what_was_begun_and_broke_is_booked(
    mongodb_uri: str, behaviour: Behaviour, *, stream: bool, keeps_records: bool
) -> None:
    """What a provider began to answer, it has computed and billed: its record says how much, else an estimate."""
    async with staged(mongodb_uri, keeps_records=keeps_records) as stage:
        user = await stage.gateway.user(Role.PREMIUM)
        key = await stage.gateway.key(user, totalBudget="1")
        stage.openrouter.script.enqueue(behaviour)
        assert (await stage.gateway.chat(key, ask(MINI, stream=stream))).status_code == 502
        event = await stage.event()
        assert event["outcome"] == "upstream_error"
        if keeps_records:
            assert_equals_books(event, stage.openrouter.books[0])
        else:
            assert event["estimated"]
            assert event["tokens"]["prompt"] > 0
            assert event["costUsd"].to_decimal() > 0
        await stage.assert_balanced(user)


async def test_who_hangs_up_without_a_word_is_owed_nothing(mongodb_uri: str) -> None:
    """A provider that closes the connection before it has said anything has failed."""

    async def hang_up(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter, _body: bytes) -> None:
        writer.close()

    async with before_a_bare_provider(mongodb_uri, hang_up) as gateway:
        assert (await gateway.chat(await gateway.key(), ask(BARE))).status_code == 502
        (event,) = await gateway.events()
        assert (event["tokens"]["prompt"], event["requests"]) == (0, 0)


async def test_what_is_cut_costs_no_more_than_its_cap(mongodb_uri: str) -> None:
    """The bytes of a cut answer may be pictures, those of embeddings are numbers: what was held bounds the estimate."""

    async def cut(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter, body: bytes) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9000000\r\n\r\n{")
        writer.write(b" " * 2_000_000)
        await writer.drain()
        writer.close()

    async with before_a_bare_provider(mongodb_uri, cut) as gateway:
        user = await gateway.user(Role.PREMIUM)
        key = await gateway.key(user, totalBudget="1")
        headers = {"authorization": f"Bearer {key}"}
        assert (await gateway.chat(key, ask(BARE, max_tokens=100, n=2))).status_code == 502
        wish = {"model": BARE, "input": ["hello"] * 8}
        assert (await gateway.http.post("/v1/embeddings", json=wish, headers=headers)).status_code == 502
        chat, embeddings = await gateway.events()
        assert (chat["tokens"]["completion"], embeddings["tokens"]["completion"]) == (200, 0)
        for event in (chat, embeddings):
            assert event["tokens"]["prompt"] > 0
            assert (event["estimated"], event["overHold"]) == (True, False)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_no_name_is_too_long_to_be_stored(mongodb_uri: str, *, stream: bool) -> None:
    """Names of any length in a provider's answer keep neither its event nor those of others from the database."""
    size = 15 * 2**17 if stream else LONG  # an event of a stream may have 4 MiB

    async def boast(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter, _body: bytes) -> None:
        await answer(writer, answered("i" * size, "m" * size, stream=stream), stream=stream)

    async with serving(plain := OpenAICompatible()):
        others = {"plain": provider_settings("openai_compatible", plain.base_url, tier="free")}
        async with before_a_bare_provider(mongodb_uri, boast, others=others) as gateway:
            key, other = await gateway.key(), await gateway.key()
            assert (await gateway.chat(key, ask(BARE, stream=stream))).status_code == 200
            assert (await gateway.chat(other, ask(PLAIN))).status_code == 200
            boasted, _ = await gateway.events()
            assert (boasted["servedModel"], boasted["generationId"]) == ("m" * 256, "i" * 256)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_what_is_not_all_here_is_noted(mongodb_uri: str, *, stream: bool) -> None:
    """Should we die while an answer arrives, the journal says who was asked; one that is all here is settled at once."""
    kinds: dict[str, list[type[Record]]] = {}

    async def arrive(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter, _body: bytes) -> None:
        is_slow = len(kinds) == 1
        await answer(writer, answered("gen-1", "model", stream=stream), stream=stream, is_slow=is_slow)

    async with before_a_bare_provider(mongodb_uri, arrive) as gateway:
        key = await gateway.key()
        for name in ("at once", "slowly"):
            response = await gateway.chat(key, ask(BARE, stream=stream))
            assert response.status_code == 200
            kinds[name] = journal_of(gateway, response.headers["x-request-id"])
    assert kinds == {"at once": [Opened, Ended], "slowly": [Opened, Noted, Ended]}


def journal_of(gateway: RunningGateway, request_id: str) -> list[type[Record]]:
    """Return the kinds of the records of a request in the gateway's one journal."""
    (lock,) = gateway.parts.settings.data_dir.glob("journal/*/*/lock")
    records = (entry.record for entry in FoundJournal(lock.parent, BytesIO()).entries())
    return [type(record) for record in records if record.id == request_id]


@pytest.mark.parametrize("on_disconnect", ["cancel", "too late"])
async def test_who_was_never_asked_is_owed_nothing(mongodb_uri: str, on_disconnect: str) -> None:
    """Whoever leaves, or runs out of time, while the connection is still being made has used nothing."""
    is_late = on_disconnect == "too late"
    timeouts = {"connect": 60, "first_byte": 0.5 if is_late else 60, "total": 60}
    with nobody_accepts() as address:
        async with before_a_bare_provider(mongodb_uri, None, timeouts=timeouts) as gateway:
            gateway.parts.relay.endpoints["bare"].base_url = address
            user = await gateway.user()
            key = await gateway.key(user, onDisconnect="auto" if is_late else "cancel")
            asking = asyncio.create_task(gateway.chat(key, ask(BARE, stream=True)))
            if is_late:
                assert (await asking).status_code == 504
            else:
                async with asyncio.timeout(10):
                    while not gateway.parts.completions._running:  # noqa: ASYNC110  nothing says it
                        await asyncio.sleep(0.01)
                asking.cancel()
                await asyncio.wait([asking])
            await gateway.parts.completions.ended()
            assert await gateway.events() == []
            account = await gateway.account(user)
            assert {name: found["u"] for name, found in account["c"].items() if found["u"]} == {}


def answered(identity: str, model: str, *, stream: bool) -> bytes:
    """Write an answer, or its one chunk."""
    what = {"role": "assistant", "content": "hi"}
    choice: dict[str, Any] = {"index": 0, "finish_reason": "stop", "delta" if stream else "message": what}
    usage = {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}
    return orjson.dumps({"id": identity, "model": model, "choices": [choice], "usage": usage})


async def answer(writer: asyncio.StreamWriter, body: bytes, *, stream: bool, is_slow: bool = False) -> None:
    if stream:
        body = b"data: %b\n\ndata: [DONE]\n\n" % body
    kind = b"text/event-stream" if stream else b"application/json"
    head = b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n" % (kind, len(body))
    if is_slow:
        writer.write(head)
        await asyncio.sleep(0.1)
        head = b""
    writer.write(head + body)
    await writer.drain()


@contextmanager
def nobody_accepts() -> Iterator[str]:
    """Yield the address of a listener whose line is full: a connection to it is neither made nor refused."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for each in waiting:
            each.setblocking(False)  # noqa: FBT003
            each.connect_ex(listener.getsockname())
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        finally:
            for each in waiting:
                each.close()


@asynccontextmanager
async def before_a_bare_provider(
    mongodb_uri: str, chat: Any, *, others: Any = None, **values: Any
) -> AsyncIterator[RunningGateway]:
    """Run a gateway before a provider that answers calls so, and lists its one model."""

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = provider.requests[-1]
        body = await body_of(reader, head)
        if head.startswith(b"GET"):
            await answer(writer, orjson.dumps(MODELS), stream=False)
        else:
            await chat(reader, writer, body)

    async with BareProvider(respond) as provider:
        options = {"prices": PRICES, "apis": ["chat", "embeddings"]}
        bare = provider_settings(
            "openai_compatible", f"{provider.address}/v1", tier="free", options=options, **values
        )
        async with running_gateway(mongodb_uri, {"bare": bare, **(others or {})}) as gateway:
            yield gateway
