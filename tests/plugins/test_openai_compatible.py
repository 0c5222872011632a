"""The plain plugin: requests that any server understands, answers that any server might send."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from plugins.contract import ApiCall, Head, Price, Provider, ProviderOptions, Usage
from plugins.openai_compatible import OpenAICompatible
from tests.plugins import recordings

PLAIN = OpenAICompatible(ProviderOptions("local"))
CALL = ApiCall(body={"messages": []}, model="m", stream=False, max_tokens=None)


def body_of(call: ApiCall, provider: OpenAICompatible = PLAIN) -> dict[str, Any]:
    """Read back what is sent."""
    sent: dict[str, Any] = orjson.loads(provider.api_request(call, None).body)
    return sent


def usage_of(**record: Any) -> Usage | None:
    """Read a usage record."""
    return PLAIN.read_usage({"usage": record})


def test_is_a_provider() -> None:
    """The plain plugin satisfies the contract, and is called as configured."""
    assert isinstance(PLAIN, Provider)
    assert PLAIN.name == "local"


def test_models_request() -> None:
    """The model list is asked for with the key alone, uncompressed."""
    request = PLAIN.models_request("secret")
    assert (request.method, request.path, request.body) == ("GET", "/models", b"")
    assert request.headers == {"Accept-Encoding": "identity", "Authorization": "Bearer secret"}


@pytest.mark.parametrize("api_key", [None, ""])
def test_no_key_no_authorization(api_key: str | None) -> None:
    """Without a key no Authorization header is sent."""
    request = PLAIN.api_request(CALL, api_key)
    assert request.headers == {"Accept-Encoding": "identity", "Content-Type": "application/json"}


def test_chat_request_passes_unknown_fields() -> None:
    """What the gateway does not decide goes upstream as the caller wrote it, after the model."""
    body = {
        "messages": [{"role": "user", "content": "hi"}],
        "top_k": 5,
        "provider": {"order": ["x"]},
        "model": "his",
    }
    request = PLAIN.api_request(replace(CALL, body=body), "k")
    assert (request.method, request.path) == ("POST", "/chat/completions")
    assert orjson.loads(request.body) == {**body, "model": "m", "stream": False}
    assert request.body.startswith(b'{"model":"m"')


def test_stream_asks_for_usage() -> None:
    """A stream always asks for usage, and keeps the caller's other stream options."""
    asked = {"stream_options": {"include_usage": False, "include_obfuscation": False}}
    sent = body_of(replace(CALL, body=asked, stream=True))
    assert sent["stream"] is True
    assert sent["stream_options"] == {"include_usage": True, "include_obfuscation": False}


@pytest.mark.parametrize("options", [None, "nonsense", []])
def test_stream_options_that_are_none(options: Any) -> None:
    """Stream options that are no object are replaced."""
    assert body_of(replace(CALL, body={"stream_options": options}, stream=True))["stream_options"] == {
        "include_usage": True
    }


def test_no_stream_no_stream_options() -> None:
    """Without a stream there are no stream options, which OpenAI would refuse."""
    assert "stream_options" not in body_of(replace(CALL, body={"stream_options": {"include_usage": True}}))


@pytest.mark.parametrize(
    ("asked", "cap", "sent"),
    [
        ({}, None, {}),
        ({}, 7, {"max_tokens": 7}),
        ({"max_tokens": 9}, 7, {"max_tokens": 7}),
        ({"max_completion_tokens": 9}, 7, {"max_completion_tokens": 7}),
        ({"max_completion_tokens": 9, "max_tokens": 9}, 7, {"max_completion_tokens": 7}),
        ({"max_completion_tokens": None, "max_tokens": 9}, 7, {"max_tokens": 7}),
        ({"max_completion_tokens": 9}, None, {"max_completion_tokens": 9}),
        ({"max_tokens": None}, None, {}),
    ],
)
def test_cap(asked: dict[str, Any], cap: int | None, sent: dict[str, Any]) -> None:
    """The gateway's cap stands in the field that the caller used, alone."""
    found = body_of(replace(CALL, body=asked, max_tokens=cap))
    assert {key: found[key] for key in found if key.startswith("max_")} == sent


def test_configured_cap_field() -> None:
    """An operator may name the field for callers who name none: OpenAI's reasoning models refuse max_tokens."""
    provider = OpenAICompatible(
        ProviderOptions("openai", extra={"max_tokens_field": "max_completion_tokens"})
    )
    assert body_of(replace(CALL, max_tokens=7), provider)["max_completion_tokens"] == 7


def test_options_of_a_subclass() -> None:
    """A plugin that derives from this one may have options of its own."""

    class Regional(OpenAICompatible):
        OPTIONS = OpenAICompatible.OPTIONS | {"region"}

    assert Regional(ProviderOptions("acme", extra={"region": "eu", "apis": ["chat"]})).name == "acme"
    with pytest.raises(ValueError, match="unknown option 'price'"):
        Regional(ProviderOptions("acme", extra={"region": "eu", "price": {}}))


@pytest.mark.parametrize(
    ("extra", "complaint"),
    [
        ({"price": {}}, "unknown option 'price'"),
        ({"max_tokens_field": "tokens"}, "max_tokens_field must be one of"),
        ({"prices": []}, "prices must map"),
        ({"prices": None}, "prices must map"),
        ({"prices": {"m": "0.1"}}, "prices of 'm': prompt and completion"),
        ({"prices": {"m": {"prompt": "0.1"}}}, "prices of 'm': prompt and completion"),
        ({"prices": {"m": {"prompt": "-1", "completion": "0"}}}, "prompt: '-1' is not"),
        ({"prices": {"m": {"prompt": "x", "completion": "0"}}}, "prompt: 'x' is not"),
        ({"prices": {"m": {"prompt": "0", "completion": "0", "discount": "1"}}}, "discount: '1' is not"),
    ],
)
def test_wrong_options(extra: dict[str, Any], complaint: str) -> None:
    """A wrong option is refused in one line that names it."""
    with pytest.raises(ValueError, match=complaint) as refused:
        OpenAICompatible(ProviderOptions("local", extra=extra))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("options", [{"app_title": "Größe"}, {"app_url": "http://a\r\nX-Evil: 1"}])
def test_labels_are_headers(options: dict[str, str]) -> None:
    """A title or address that no header can carry is refused at the start."""
    with pytest.raises(ValueError, match="plain ASCII"):
        OpenAICompatible(ProviderOptions("local", **options))  # type: ignore[arg-type]


def test_configured_prices() -> None:
    """Configured prices are exact, and win for the models that they name."""
    given = {"prompt": "0.000001", "completion": 0.000002, "request": "0.5"}
    provider = OpenAICompatible(ProviderOptions("local", extra={"prices": {"m": given}}))
    priced, free = provider.read_models(b'{"data": [{"id": "m"}, {"id": "n"}]}')
    assert priced.price == Price(Decimal("0.000001"), Decimal("0.000002"), request=Decimal("0.5"))
    assert free.price is None


def test_read_models_of_openai() -> None:
    """OpenAI's own list is read, with nothing but ids and owners in it."""
    body = orjson.dumps(recordings.read("openrouter_misc.json")["openai models list"])
    (model,) = PLAIN.read_models(body)
    assert (model.id, model.name, model.owned_by, model.created) == (
        "gpt-4o-mini",
        "gpt-4o-mini",
        "system",
        1721172741,
    )
    assert (model.price, model.is_free, model.context_length) == (None, False, None)


@pytest.mark.parametrize("field", ["max_model_len", "context_length", "context_window", "max_context_length"])
def test_context_length(field: str) -> None:
    """The context length is found under the names that vLLM, Together, Groq and LM Studio give it."""
    (model,) = PLAIN.read_models(orjson.dumps({"data": [{"id": "m", field: 4096}]}))
    assert model.context_length == 4096


@pytest.mark.parametrize(
    ("body", "ids"),
    [
        (b'{"object": "list", "data": null}', []),
        (b'[{"id": "m"}]', ["m"]),
        (
            b'{"data": [{"id": "a"}, {"id": 3}, null, 7, {"id": ""}, {"id": " "}, {"id": "x\\n"}, {}, {"id": "b"}]}',
            ["a", "b"],
        ),
    ],
)
def test_odd_lists(body: bytes, ids: list[str]) -> None:
    """Empty, bare and partly malformed lists give the models that they name."""
    assert [model.id for model in PLAIN.read_models(body)] == ids


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"{}", b'{"data": {}}', b"null", b"\xff", b'{"error": "no"}']
)
def test_not_a_list(body: bytes) -> None:
    """What is no model list raises ValueError."""
    with pytest.raises(ValueError):  # noqa: PT011 - orjson's own message is as good as ours
        PLAIN.read_models(body)


def test_says_nothing_of_routing() -> None:
    """A plain server has no backing, no generation id and no suffixes, and stops when nobody listens."""
    assert PLAIN.read_head({"x-generation-id": "g"}) == Head()
    assert PLAIN.read_backing({"provider": "x"}) is None
    assert PLAIN.base_id("qwen3:8b") is None
    assert PLAIN.stops_billing(None)


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        ("openai_stream_include_usage.sse", [Usage(9, 1)]),
        ("hf_stream_groq_include_usage.sse", [Usage(72, 18)]),
        ("hf_stream_usage_on_finish_chunk.sse", [Usage(33, 8)]),
        ("hf_stream_no_usage.sse", []),
        ("openrouter_stream_error_first_event.sse", []),
        ("openrouter_stream_error_mid.sse", []),
        (
            "openrouter_stream_ok.sse",
            [Usage(15, 6, cost=Decimal("0.0000057915"))],
        ),
    ],
)
def test_usage_of_recorded_streams(stream: str, expected: list[Usage]) -> None:
    """In every recorded stream exactly the frames with a usage record give one."""
    found = map(PLAIN.read_usage, recordings.frames(stream))
    assert [usage for usage in found if usage is not None] == expected


def test_usage_of_recorded_answer() -> None:
    """The cost of a recorded answer comes back to the last digit."""
    usage = PLAIN.read_usage(recordings.read("openrouter_chat_paid.json"))
    assert usage == Usage(8, 1, cost=Decimal("0.000013"))


@pytest.mark.parametrize("vector", recordings.read("usage_cost_vectors.json")["vectors"])
def test_cost_digits(vector: dict[str, Any]) -> None:
    """A cost that travelled as a JSON number has the provider's digits, not those of binary arithmetic."""
    record = b'{"prompt_tokens": 1, "completion_tokens": 1, "cost": %s}' % vector["billed_cost"].encode()
    usage = PLAIN.read_usage({"usage": orjson.loads(record)})
    assert usage is not None
    assert usage.cost == Decimal(vector["billed_cost"])


@pytest.mark.parametrize(
    "frame",
    [
        {"usage": {"prompt_tokens": 3, "completion_tokens": 2}},
        {"usage": None, "x_groq": {"id": "r", "usage": {"prompt_tokens": 3, "completion_tokens": 2}}},
        {"choices": [{"delta": {}, "usage": {"prompt_tokens": 3.0, "completion_tokens": 2}}]},
        {"usage": {"prompt_tokens": 3, "total_tokens": 5}},
        {"usage": {"completion_tokens": 2, "total_tokens": 5, "prompt_tokens": -3}},
    ],
)
def test_usage_places(frame: dict[str, Any]) -> None:
    """Usage is found at the top, under x_groq or in a choice, and a missing count follows from the total."""
    assert PLAIN.read_usage(frame) == Usage(3, 2)


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"prompt_tokens": 1},
        {"total_tokens": 5},
        {"prompt_tokens": "1", "completion_tokens": "1"},
        {"prompt_tokens": True, "completion_tokens": True},
        {"prompt_tokens": -1, "completion_tokens": 1},
        {"prompt_tokens": 1.5, "completion_tokens": 1},
        {"prompt_tokens": 10**12, "completion_tokens": 1},
        {"prompt_tokens": float("inf"), "completion_tokens": float("nan")},
        {"prompt_tokens": 5, "total_tokens": 3},
    ],
)
def test_no_usage(record: dict[str, Any]) -> None:
    """A record without two sensible counts is no usage, rather than a usage of zero."""
    assert usage_of(**record) is None


def test_usage_zero_is_zero() -> None:
    """Explicit zeros are zeros, and a cost of zero is not an unknown cost."""
    assert usage_of(prompt_tokens=0, completion_tokens=0, cost=0) == Usage(0, 0, cost=Decimal(0))


def test_usage_details() -> None:
    """Cached, written, reasoning, searches and the key owner's own cost are read from their places."""
    assert usage_of(
        prompt_tokens=100,
        completion_tokens=50,
        prompt_tokens_details={"cached_tokens": 30, "cache_write_tokens": 20},
        completion_tokens_details={"reasoning_tokens": 40},
        server_tool_use_details={"web_search_requests": 2},
        cost=0.95,
        cost_details={"upstream_inference_cost": 19},
        is_byok=True,
    ) == Usage(100, 50, 30, 20, 40, 2, Decimal("0.95"), Decimal(19), is_byok=True)


@pytest.mark.parametrize(
    ("record", "cached"),
    [
        ({"cached_tokens": 4}, 4),
        ({"prompt_cache_hit_tokens": 4}, 4),
        ({"cached_tokens": 4, "prompt_tokens_details": {"cached_tokens": 0}}, 0),
        ({"cached_tokens": -4}, 0),
        ({"cached_tokens": 400}, 10),
    ],
)
def test_flat_cached_tokens(record: dict[str, Any], cached: int) -> None:
    """Cached tokens may lie flat in the record, and are never more than the prompt."""
    usage = usage_of(prompt_tokens=10, completion_tokens=1, **record)
    assert usage is not None
    assert usage.cached_tokens == cached


@pytest.mark.parametrize("cost", [-1, "-1", float("nan"), float("inf"), True, None, {}, [], 10**9, 1e-30])
def test_no_cost(cost: Any) -> None:
    """A cost that is negative, absurd or no number is unknown, never zero."""
    usage = usage_of(prompt_tokens=1, completion_tokens=1, cost=cost)
    assert usage == Usage(1, 1)


COUNTS = st.integers(-5, 200) | st.floats() | st.none() | st.booleans()


@recordings.PATIENT
@given(COUNTS, COUNTS, COUNTS, COUNTS, COUNTS)
def test_parts_fit_into_wholes(
    prompt: Any, completion: Any, cached: Any, written: Any, reasoning: Any
) -> None:
    """Whatever a provider counts, the parts fit into their wholes and nothing is negative."""
    usage = usage_of(
        prompt_tokens=prompt,
        completion_tokens=completion,
        prompt_tokens_details={"cached_tokens": cached, "cache_write_tokens": written},
        completion_tokens_details={"reasoning_tokens": reasoning},
    )
    if usage is not None:
        assert usage.cached_tokens >= 0
        assert usage.cache_write_tokens >= 0
        assert usage.cached_tokens + usage.cache_write_tokens <= usage.prompt_tokens
        assert 0 <= usage.reasoning_tokens <= usage.completion_tokens


@recordings.PATIENT
@given(recordings.JSON)
def test_no_frame_breaks_it(frame: Any) -> None:
    """No JSON value in a stream or an answer raises."""
    PLAIN.read_usage(frame)
    PLAIN.read_error(frame)
    PLAIN.read_backing(frame)


@recordings.PATIENT
@given(recordings.BODIES | recordings.LISTS.map(lambda entries: orjson.dumps({"data": entries})))
def test_no_list_breaks_it(body: bytes) -> None:
    """A model list either is read or raises ValueError."""
    try:
        models = PLAIN.read_models(body)
    except ValueError:
        return
    assert all(model.id for model in models)


@recordings.PATIENT
@given(recordings.OBJECTS, st.booleans(), st.none() | st.integers(1, 10**6))
def test_no_caller_breaks_it(body: dict[str, Any], stream: bool, cap: int | None) -> None:  # noqa: FBT001
    """Any body becomes a request whose routing, cap and demand for usage are ours."""
    sent = body_of(ApiCall(body, "m", stream, cap))
    assert (sent["model"], sent["stream"]) == ("m", stream)
    assert sent.get("stream_options", {}).get("include_usage", False) is stream
    if cap is not None:
        assert [sent[key] for key in ("max_tokens", "max_completion_tokens") if key in sent] == [cap]
