"""Tests of proxy/core/chat.py: what is read of a request, and that nothing else is judged."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core import api
from proxy.core.api import ApiRequest
from proxy.core.chat import CHAT
from proxy.core.fields import MAX_DEPTH
from proxy.core.limits import TEMPLATE_TOKENS, MediaTokens, prompt_bound
from proxy.core.prompt import Prompt
from proxy.errors import InvalidRequest
from tests.upstreams.ask import read_chat

HELLO = {"role": "user", "content": "hi"}
MEDIA = MediaTokens(image=6000, audio=20_000, file=100_000)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(), children, max_size=4),
    max_leaves=12,
)
parts = st.one_of(
    st.builds(lambda text: {"type": "text", "text": text}, st.text()),
    st.builds(
        lambda url, more: {"type": "image_url", "image_url": {"url": url}, **more},
        st.text(),
        st.dictionaries(st.sampled_from(["text", "content", "input", "detail"]), json_values, max_size=2),
    ),
    st.builds(lambda data: {"type": "input_audio", "input_audio": {"data": data}}, st.text()),
    st.builds(lambda data: {"type": "file", "file": {"file_data": data}}, st.text()),
    st.text(),
    st.dictionaries(st.text(), json_values, max_size=3),
)
calls = st.builds(
    lambda name, arguments: {
        "id": "1",
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    },
    st.text(),
    st.text(),
)
messages = st.builds(
    lambda role, content, tool_calls: {"role": role, "content": content, "tool_calls": tool_calls},
    st.sampled_from(["user", "assistant", "system", "tool"]),
    st.none() | st.text() | st.lists(parts, max_size=4),
    st.none() | st.lists(calls, max_size=3),
)
tools = st.lists(
    st.builds(
        lambda name, parameters: {"type": "function", "function": {"name": name, "parameters": parameters}},
        st.text(),
        json_values,
    ),
    max_size=3,
)
bodies = st.fixed_dictionaries(
    {"model": st.just("m"), "messages": st.lists(messages, min_size=1, max_size=4)},
    optional={
        "tools": tools,
        "response_format": st.fixed_dictionaries(
            {"type": st.just("json_schema"), "json_schema": json_values}
        ),
        "metadata": st.dictionaries(st.text(), st.text(), max_size=2),
    },
)


def parse(raw: bytes) -> ApiRequest:
    return api.parse(CHAT, raw)


def request(**fields: Any) -> ApiRequest:
    return parse(orjson.dumps({"model": "m", "messages": [HELLO], **fields}))


@given(bodies)
def test_the_bound_covers_what_is_counted(body: dict[str, Any]) -> None:
    """Whatever is said in whatever kind of part, tool or schema, the bound is at least what the simulator counts."""
    asked = parse(json.dumps(body).encode()) if is_utf8(body) else CHAT.read(body)
    assert prompt_bound(asked, None, MEDIA) - TEMPLATE_TOKENS >= read_chat(body).prompt_tokens


def is_utf8(body: dict[str, Any]) -> bool:
    return "\\ud" not in json.dumps(body)


@given(json_values)
def test_no_json_breaks_the_reader(value: Any) -> None:
    """Any JSON at all is read or refused with one sentence, in any field, and never raises anything else."""
    raw = json.dumps(value)
    for text in (
        raw,
        f'{{"model":"m","messages":{raw}}}',
        f'{{"model":{raw},"messages":[{{"role":"user"}}]}}',
    ):
        attempt(text.encode())
    for name in (
        "stream",
        "n",
        "max_tokens",
        "models",
        "tools",
        "plugins",
        "service_tier",
        "stream_options",
        "usage",
    ):
        attempt(f'{{"model":"m","messages":[{{"role":"user"}}],"{name}":{raw}}}'.encode())
    attempt(f'{{"model":"m","messages":[{{"role":"user","content":[{raw}]}}]}}'.encode())


def attempt(raw: bytes) -> None:
    with contextlib.suppress(InvalidRequest):
        assert isinstance(parse(raw), ApiRequest)


@given(st.binary())
def test_no_bytes_break_the_reader(raw: bytes) -> None:
    """Bytes that are no request are refused."""
    attempt(raw)


def test_the_body_passes_untouched() -> None:
    """What was sent is what is kept, known to us or not."""
    body = {
        "model": "m",
        "messages": [HELLO],
        "x": {"y": [1, 2.5, None]},
        "temperature": "hot",
        "stop": ["a"],
    }
    assert parse(orjson.dumps(body)).body == body


def test_defaults() -> None:
    """A request that names nothing wants one whole answer, without a cap and without extras."""
    asked = request()
    assert (asked.model, asked.models, asked.stream, asked.include_usage) == ("m", (), False, False)
    assert (asked.max_tokens, asked.choices, asked.paid_extras) == (None, 1, ())


@pytest.mark.parametrize(
    ("fields", "shown"),
    [
        ({}, False),
        ({"stream": True}, False),
        ({"stream": True, "stream_options": {"include_usage": True}}, True),
        ({"stream": True, "stream_options": {"include_usage": None}}, False),
        ({"stream": True, "stream_options": {"include_obfuscation": True}}, False),
        ({"stream": True, "usage": {"include": True}}, True),
        ({"stream": True, "usage": {"include": "yes"}}, False),
        ({"usage": {"include": True}}, False),
        ({"stream_options": None}, False),
    ],
)
def test_who_asks_for_usage(fields: dict[str, Any], shown: bool) -> None:  # noqa: FBT001  the expected answer
    """Usage in a stream is shown to whoever asked for it, in OpenAI's spelling or OpenRouter's."""
    assert request(**fields).include_usage is shown


def test_the_cap_has_two_names() -> None:
    """Either name of the output cap counts, both if they agree, and a contradiction is refused."""
    assert request(max_tokens=5).max_tokens == 5
    assert request(max_completion_tokens=6).max_tokens == 6
    assert request(max_tokens=7, max_completion_tokens=7).max_tokens == 7
    assert request(max_tokens=None, max_completion_tokens=8).max_tokens == 8
    with pytest.raises(InvalidRequest, match="contradict"):
        request(max_tokens=5, max_completion_tokens=6)


@pytest.mark.parametrize(
    ("fields", "extras"),
    [
        ({"plugins": [{"id": "web"}]}, ("plugins",)),
        ({"plugins": []}, ()),
        ({"preset": "mine"}, ("preset",)),
        ({"web_search_options": {}}, ("web_search_options",)),
        ({"model": "a/b:online"}, (":online",)),
        ({"models": ["a/b:online"]}, (":online",)),
        ({"tools": [{"type": "openrouter:web_search"}]}, ("tools",)),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, ()),
        ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, ()),
        ({"tools": [{"function": {"name": "f"}}]}, ()),
        ({"service_tier": "priority"}, ("service_tier",)),
        ({"service_tier": "flex"}, ()),
        ({"service_tier": ["priority"]}, ()),
    ],
)
def test_what_costs_extra(fields: dict[str, Any], extras: tuple[str, ...]) -> None:
    """What a provider bills on top of the tokens is named."""
    assert request(**fields).paid_extras == extras


def test_media_are_counted_apart() -> None:
    """Pictures, sound and files count one by one and not by their bytes; text beside them counts as text."""
    data = "x" * 10_000
    content = [
        {"type": "text", "text": "é"},
        {"type": "image_url", "image_url": {"url": data}},
        {"type": "input_image", "image_url": data},
        {"type": "input_audio", "input_audio": {"data": data}},
        {"type": "file", "file": {"file_data": data}},
        {"type": "video_url", "video_url": {"url": data}},
    ]
    prompt = request(messages=[{"role": "user", "content": content}]).prompt
    assert (prompt.messages, prompt.images, prompt.audios, prompt.files) == (1, 2, 1, 2)
    assert prompt.text_bytes < 200
    unknown = [{"type": "hologram", "url": "u"}, {"type": "text", "text": "x"}, "text", {}]
    prompt = request(messages=[{"role": "user", "content": unknown}]).prompt
    assert (prompt.images, prompt.audios, prompt.files) == (2, 0, 0)
    hidden = [{"type": "image_url", "image_url": {"url": "u"}, "text": data}]
    assert request(messages=[{"role": "user", "content": hidden}]).prompt.text_bytes >= 10_000


def test_whatever_may_reach_a_template_counts() -> None:
    """Fields that we do not know may end up in the prompt, so their bytes count; the gateway's own do not."""
    plain = request().prompt.text_bytes
    assert request(documents=["x" * 500]).prompt.text_bytes >= plain + 500
    assert request(chat_template="x" * 500).prompt.text_bytes >= plain + 500
    assert request(model="y" * 200, metadata={"a": "x" * 500}, user="z" * 99, stream=True).prompt == Prompt(
        plain, 1
    )


def test_depth_has_an_end() -> None:
    """A body is refused beyond the depth that we can write again, and read up to it."""
    for depth, fits in ((MAX_DEPTH - 1, True), (MAX_DEPTH, False), (500, False)):
        nest: Any = 1
        for _ in range(depth):
            nest = [nest]
        raw = json.dumps({"model": "m", "messages": [HELLO], "x": nest}).encode()
        if fits:
            assert orjson.dumps(parse(raw).body)
        else:
            with pytest.raises(InvalidRequest, match="nested"):
                parse(raw)
