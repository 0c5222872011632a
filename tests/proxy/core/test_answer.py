"""Tests of proxy/core/answer.py: what a whole answer says, and whether it is one."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from plugins.contract import FailureKind, ProviderOptions, Usage
from plugins.openai_compatible import OpenAICompatible
from plugins.openrouter import OpenRouter
from proxy.core.answer import NO_CHOICES, NOT_JSON, WholeAnswer, read_answer
from proxy.core.api import Form
from proxy.core.bill import Served
from proxy.core.chat import CHAT
from proxy.core.embeddings import EMBEDDINGS
from proxy.core.messages import MESSAGES
from proxy.core.responses import RESPONSES

PROVIDER = OpenRouter(ProviderOptions("openrouter"))
USAGE = {"prompt_tokens": 8, "completion_tokens": 1, "total_tokens": 9}


def answer(**fields: Any) -> WholeAnswer:
    message = {"role": "assistant", "content": "OK", "reasoning": "hmm"}
    frame = {"id": "gen-1", "model": "a/b-0813", "provider": "DeepInfra", "choices": [{"message": message}]}
    return read_answer(PROVIDER, orjson.dumps({**frame, "usage": USAGE, **fields}))


def test_an_answer_says_who_gave_it_and_what_it_used() -> None:
    """Usage, backing, served model and id are read; the text can be measured in all of its fields."""
    assert replace(answer(), body=b"") == WholeAnswer(
        failure=None,
        usage=Usage(8, 1),
        backing="DeepInfra",
        served_model="a/b-0813",
        upstream_id="gen-1",
        output=[{"role": "assistant", "content": "OK", "reasoning": "hmm"}],
    )
    assert Served(output=answer().output).measured() == (1, 5)
    assert orjson.loads(answer().body)["usage"] == USAGE
    calls = [{"function": {"name": "f", "arguments": "{}"}}]
    called = answer(choices=[{"message": {"content": None, "tool_calls": calls}}])
    assert Served(output=called.output).measured() == (1, 3)


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'"x"', b"null", b"{", b"\xff"])
def test_what_is_no_object_is_no_answer(body: bytes) -> None:
    """Anything but a JSON object is a failure of the provider's."""
    assert read_answer(PROVIDER, body).failure == NOT_JSON


@pytest.mark.parametrize("choices", [None, [], {}, "x", [1, None]])
def test_an_answer_without_choices_is_none(choices: Any) -> None:
    """Without a choice there is nothing to answer with, but what was used still counts."""
    read = answer(choices=choices)
    assert (read.failure, read.usage) == (NO_CHOICES, Usage(8, 1))


def test_an_error_inside_is_a_failure() -> None:
    """An error at the top, in a choice or as the reason to finish is a failure, be there choices or not."""
    for fields in (
        {"error": {"message": "overloaded", "code": 503}},
        {"choices": [{"message": {}, "error": {"message": "gone", "code": 502}}]},
        {"choices": [{"message": {"content": "half"}, "finish_reason": "error"}]},
    ):
        failure = answer(**fields).failure
        assert failure is not None
        assert failure.kind is FailureKind.PROVIDER


@given(st.binary())
def test_no_bytes_raise(body: bytes) -> None:
    """Whatever a provider sends, it is read or a failure."""
    assert read_answer(OpenAICompatible(ProviderOptions("x")), body).failure is not None


def test_a_deep_answer_does_not_raise() -> None:
    """An answer may nest as deep as the parser goes."""
    deep = b'{"choices":[{"message":{"content":' + b"[" * 1000 + b'"x"' + b"]" * 1000 + b"}}]}"
    assert Served(output=read_answer(PROVIDER, deep).output).measured() in ((0, 0), (1, 1))


@pytest.mark.parametrize("form", [CHAT, EMBEDDINGS, MESSAGES, RESPONSES])
def test_half_a_character(form: Form) -> None:
    """Half a surrogate pair, which JavaScript servers write where an answer is cut, makes it no worse an answer."""
    body = (
        rb'{"choices":[{"message":{"content":"hi \ud83d"}}],"content":[{"text":"hi \ud83d"}],"output":[],"data":[[1]],'
        rb'"note":"\ud83d","usage":{"prompt_tokens":8,"completion_tokens":1,"input_tokens":8,"output_tokens":1}}'
    )
    read = form.read_answer(PROVIDER, body, None)
    assert (read.failure, read.usage, read.body) == (None, Usage(8, 1), body)
