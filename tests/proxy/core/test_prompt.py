"""Tests of proxy/core/prompt.py: the bound of a prompt is never below what a provider counts, in any API."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.core.api import ApiRequest, Form, parse
from proxy.core.chat import CHAT
from proxy.core.embeddings import EMBEDDINGS
from proxy.core.limits import TEMPLATE_TOKENS, MediaTokens, prompt_bound
from proxy.core.messages import MESSAGES
from proxy.core.prompt import TOOL_PROMPT_TOKENS
from proxy.core.responses import RESPONSES
from tests.proxy.core.test_chat import json_values
from tests.upstreams.ask import read_embeddings, read_messages, read_responses

MEDIA = MediaTokens(image=6000, audio=20_000, file=100_000)
BIG = "x" * 10_000
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
BLOCKS = st.one_of(
    TEXTS.map(lambda text: {"type": "text", "text": text}),
    TEXTS.map(lambda data: {"type": "image", "source": {"type": "base64", "data": data}}),
    TEXTS.map(lambda data: {"type": "document", "source": {"type": "base64", "data": data}}),
    json_values.map(lambda value: {"type": "tool_use", "id": "t", "name": "f", "input": value}),
    st.lists(TEXTS.map(lambda text: {"type": "text", "text": text}), max_size=3).map(
        lambda inner: {"type": "tool_result", "tool_use_id": "t", "content": inner}
    ),
)
ITEMS = st.one_of(
    TEXTS.map(lambda text: {"role": "user", "content": text}),
    st.lists(
        TEXTS.map(lambda text: {"type": "input_text", "text": text})
        | TEXTS.map(lambda url: {"type": "input_image", "image_url": url}),
        max_size=3,
    ).map(lambda parts: {"type": "message", "role": "user", "content": parts}),
    TEXTS.map(lambda text: {"type": "function_call", "call_id": "c", "name": "f", "arguments": text}),
    TEXTS.map(lambda text: {"type": "function_call_output", "call_id": "c", "output": text}),
)
TOOLS = st.lists(
    json_values.map(lambda schema: {"name": "f", "input_schema": schema, "type": "function"}), max_size=2
)


def read(form: Form, **fields: Any) -> ApiRequest:
    """Read a request."""
    return parse(form, orjson.dumps({"model": "m", **fields}))


def message(*content: Any, **fields: Any) -> ApiRequest:
    """Read a request of one message."""
    asked = {"max_tokens": 1, "messages": [{"role": "user", "content": list(content)}], **fields}
    return read(MESSAGES, **asked)


@given(st.lists(st.lists(BLOCKS, max_size=4), min_size=1, max_size=3), TEXTS, TOOLS)
@settings(deadline=None)
def test_messages(contents: list[Any], system: str, tools: list[Any]) -> None:
    """Messages with every kind of block, a system prompt and tools are bounded."""
    messages = [{"role": "user", "content": content} for content in contents]
    body = {"max_tokens": 9, "messages": messages, "system": system, "tools": tools}
    bound = prompt_bound(read(MESSAGES, **body), None, MEDIA) - TEMPLATE_TOKENS
    assert bound >= read_messages({"model": "m", **body}).prompt_tokens


@given(st.lists(ITEMS, min_size=1, max_size=4) | TEXTS.filter(bool), TEXTS, TOOLS)
@settings(deadline=None)
def test_responses(given_input: Any, instructions: str, tools: list[Any]) -> None:
    """Items of every kind, instructions and tools are bounded."""
    body = {"input": given_input, "instructions": instructions, "tools": tools}
    bound = prompt_bound(read(RESPONSES, **body), None, MEDIA) - TEMPLATE_TOKENS
    assert bound >= read_responses({"model": "m", **body}).prompt_tokens


@given(TEXTS.filter(bool) | st.lists(TEXTS, min_size=1, max_size=5))
@settings(deadline=None)
def test_embeddings(given_input: Any) -> None:
    """One text or several are bounded, and there is no output to hold for."""
    asked = read(EMBEDDINGS, input=given_input)
    assert prompt_bound(asked, None, MEDIA) >= read_embeddings(asked.body).prompt_tokens
    assert (asked.max_tokens, asked.choices, asked.stream) == (0, 1, False)


@pytest.mark.parametrize("tokens", [[1, 2, 3], [[1], [2, 3]], [0] * 1000])
def test_tokens_count_as_what_they_are(tokens: list[Any]) -> None:
    """A list of tokens has at least as many as it names."""
    count = sum(len(each) if isinstance(each, list) else 1 for each in tokens)
    assert prompt_bound(read(EMBEDDINGS, input=tokens), None, MEDIA) >= count


def test_media_count_one_by_one_wherever_they_are() -> None:
    """Pictures and files count by their number and not by their bytes, inside of a tool's answer too."""
    picture = {"type": "image", "source": {"type": "base64", "data": BIG}}
    file = {"type": "document", "source": {"type": "url", "url": BIG}}
    answer = {"type": "tool_result", "tool_use_id": "t", "content": [picture, file, picture]}
    for content, images, files in (([picture, file], 1, 1), ([answer], 2, 1)):
        prompt = message(*content).prompt
        assert (prompt.images, prompt.files) == (images, files)
        assert prompt.text_bytes < 1000
    shown = {"type": "computer_call_output", "output": {"type": "input_image", "image_url": BIG}}
    told = {"type": "function_call_output", "output": [{"type": "input_image", "image_url": BIG}]}
    prompt = read(RESPONSES, input=[shown, told]).prompt
    # One more for the item whose kind nobody knows.
    assert (prompt.images, prompt.text_bytes < 1000) == (3, True)
    # Whoever adds a role hides nothing.
    told = {
        "type": "function_call_output",
        "role": "user",
        "output": [{"type": "input_file", "file_data": BIG}],
    }
    prompt = read(RESPONSES, input=[told]).prompt
    assert (prompt.files, prompt.text_bytes < 1000) == (1, True)
    parts = [{"type": "text", "text": "x"}, {"type": "image_url", "image_url": {"url": BIG}}]
    prompt = read(EMBEDDINGS, input=[{"content": parts}]).prompt
    assert (prompt.images, prompt.text_bytes < 1000) == (1, True)


def test_a_document_of_text_counts_as_text() -> None:
    """A document may be any number of tokens, so its text counts by its bytes."""
    for source in ({"type": "text", "data": BIG}, {"type": "content", "content": BIG}):
        prompt = message({"type": "document", "source": source}).prompt
        assert prompt.text_bytes >= len(BIG)
        assert prompt.files == 0
    odd = message({"type": "document", "source": "x"}, {"type": ["image"]}, {"type": "document"}).prompt
    assert (odd.files, odd.images) == (2, 1)


def test_what_is_said_about_tools_counts() -> None:
    """Models are told about tools beyond the caller's text, and Anthropic's more about those that they know."""
    plain = message("hi").prompt.text_bytes
    own = message("hi", tools=[{"name": "f"}]).prompt.text_bytes
    known = message("hi", tools=[{"name": "f"}, {"type": "bash_20250124"}]).prompt.text_bytes
    assert own >= plain + TOOL_PROMPT_TOKENS
    assert known >= own + TOOL_PROMPT_TOKENS
    tools = [{"type": "function", "function": {"name": "f"}}]
    for form, body in (
        (CHAT, {"messages": [{"role": "user", "content": "hi"}]}),
        (RESPONSES, {"input": "hi"}),
    ):
        bare, told = (read(form, **body, **more).prompt.text_bytes for more in ({}, {"tools": tools}))
        assert told >= bare + TOOL_PROMPT_TOKENS
