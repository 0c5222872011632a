"""Tests of admin_api/models/popularity.py."""

from __future__ import annotations

from datetime import timedelta

from admin_api.models.popularity import Popularity
from proxy.clock import utc_now
from tests.admin_api.playground import FREE, playground


async def test_what_was_asked_for_lately(mongodb_uri: str) -> None:
    """Requests of the last month count, whichever surface they came by and with whatever routing suffix."""
    now = utc_now()
    clock = {"now": now - timedelta(days=40)}
    async with playground(mongodb_uri, clock=lambda: clock["now"]) as play:
        person = await play.person()
        await person.say("long ago", FREE)
        clock["now"] = now
        person = await play.person()
        await person.say("now", FREE)
        open_model = "meta-llama/Llama-3.3-70B-Instruct"
        body = {"model": f"{open_model}:fastest", "messages": [{"role": "user", "content": "hi"}]}
        assert (await play.gateway.chat(await play.gateway.key(), body)).status_code == 200
        await play.gateway.settled()
        popularity = Popularity()
        counts = await popularity.counts(play.gateway.parts)
        assert counts == {("openrouter", FREE): 1, ("huggingface", open_model): 1}
        await person.say("again", FREE)
        assert await popularity.counts(play.gateway.parts) is counts
