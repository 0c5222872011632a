"""The Hugging Face plugin, against recorded answers of its router."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugins.contract import (
    ApiCall,
    ChecksKeys,
    FailureKind,
    Head,
    ModelInfo,
    Offering,
    Price,
    Provider,
    ProviderOptions,
    Usage,
)
from plugins.huggingface import HuggingFace
from tests.plugins import recordings

ROUTER = HuggingFace(ProviderOptions("huggingface"))
CATALOGUES = ["hf_router_models_verified.json", "hf_router_models_sim.json"]

KINDS = {
    "400_model_not_supported": FailureKind.NOT_FOUND,
    "400_not_chat_model": FailureKind.NOT_FOUND,
    "400_model_not_found": FailureKind.NOT_FOUND,
    "401_bad_token": FailureKind.CREDENTIALS,
    "401_bad_token_older": FailureKind.CREDENTIALS,
    "401_no_token": FailureKind.CREDENTIALS,
    "402_credits": FailureKind.CREDITS,
    "402_credits_2025": FailureKind.CREDITS,
    "403_permission": FailureKind.FORBIDDEN,
    "410_deprecated_pair": FailureKind.NOT_FOUND,
    "429_upstream_openai_shape_sim": FailureKind.RATE_LIMIT,
    "429_hub_ratelimit_headers": FailureKind.RATE_LIMIT,
    "upstream_message_shape_sim": FailureKind.INVALID_REQUEST,
    "upstream_detail_shape_sim": FailureKind.INVALID_REQUEST,
    "503_html_sim": FailureKind.PROVIDER,
    "504_html_sim": FailureKind.TIMEOUT,
    "503_legacy_loading": FailureKind.PROVIDER,
    "200_responses_auth_failure": FailureKind.CREDENTIALS,
}
WAITS = {"429_upstream_openai_shape_sim": 2, "429_hub_ratelimit_headers": 55}


def only_model(**entry: Any) -> ModelInfo:
    """Read a list of one."""
    (model,) = ROUTER.read_models(orjson.dumps({"data": [{"id": "org/name", **entry}]}))
    return model


def offer(prompt: Any = None, completion: Any = None, **more: Any) -> dict[str, Any]:
    """Write an offering as the router does."""
    return {
        "provider": "novita",
        "status": "live",
        "pricing": {"input": prompt, "output": completion},
        **more,
    }


def test_is_a_provider() -> None:
    """The Hugging Face plugin satisfies the contract."""
    assert isinstance(ROUTER, Provider)


def test_routing_fields_of_others() -> None:
    """OpenRouter's routing fields are left out, every other field stays."""
    body = {
        "models": [],
        "provider": {},
        "plugins": [],
        "route": "x",
        "transforms": [],
        "top_k": 4,
        "seed": 1,
    }
    call = ApiCall(body=body, model="org/name:fastest", stream=False, max_tokens=None)
    sent = orjson.loads(ROUTER.api_request(call, "k").body)
    assert sent == {"model": "org/name:fastest", "stream": False, "top_k": 4, "seed": 1}


@pytest.mark.parametrize("asked", [{}, {"max_completion_tokens": 9}, {"max_tokens": 9}])
def test_cap_is_max_tokens(asked: dict[str, int]) -> None:
    """The cap is always sent as max_tokens, the only field that the router documents."""
    sent = orjson.loads(ROUTER.api_request(ApiCall(asked, "m", stream=False, max_tokens=7), "k").body)
    assert {key: sent[key] for key in sent if key.startswith("max")} == {"max_tokens": 7}


@pytest.mark.parametrize("fixture", CATALOGUES)
def test_catalogue_is_read_whole(fixture: str) -> None:
    """Every record gives its live offerings, the highest price and the longest context among them."""
    records = recordings.read(fixture)["data"]
    models = ROUTER.read_models((recordings.FIXTURES / fixture).read_bytes())
    assert [model.id for model in models] == [record["id"] for record in records]
    for model, record in zip(models, records, strict=True):
        live = [each for each in record["providers"] if each["status"] == "live"]
        priced = [each["pricing"] for each in live if "pricing" in each]
        assert [each.backing for each in model.offerings] == [each["provider"] for each in live]
        assert not model.is_free
        assert model.context_length == max((each.get("context_length", 0) for each in live), default=None)
        assert model.price is not None
        assert model.price.prompt * 1_000_000 == max(Decimal(repr(each["input"])) for each in priced)
        assert model.price.completion * 1_000_000 == max(Decimal(repr(each["output"])) for each in priced)


def test_record_is_read_whole() -> None:
    """A record gives its offerings with exact prices per token, and none where the backing names none."""
    models = ROUTER.read_models((recordings.FIXTURES / "hf_router_models_verified.json").read_bytes())
    model = next(each for each in models if each.id == "Qwen/Qwen3.8-27B")
    assert model.price == Price(Decimal("0.00000099"), Decimal("0.000003"))
    assert model.offerings == (
        Offering("novita", Price(Decimal("0.00000042"), Decimal("0.000003")), 1_000_000),
        Offering("cerebras", Price(Decimal("0.00000099"), Decimal("0.00000149")), 65_536),
        Offering("featherless-ai", None, None),
    )
    assert (model.owned_by, model.created, model.input_modalities) == ("Qwen", 1785918179, ("text", "image"))


def test_offerings_that_do_not_count() -> None:
    """An offering that is down or nameless does not count; one without a status is live."""
    entries = [
        offer(9, 9, status="error"),
        offer(9, 9, provider=None),
        None,
        offer(1, 2, status=None),
    ]
    model = only_model(providers=entries)
    assert model.price == Price(Decimal("0.000001"), Decimal("0.000002"))
    assert len(model.offerings) == 1
    assert model.owned_by == "org"


@pytest.mark.parametrize("providers", [None, [], {}, [offer()], [offer(-1, 2)], [offer("x", 1)], [offer(1)]])
def test_unknown_price(providers: Any) -> None:
    """A model without a priced live offering has no price; it is not free."""
    model = only_model(providers=providers)
    assert (model.price, model.is_free) == (None, False)


def test_head() -> None:
    """The backing that the router chose is in the headers."""
    assert ROUTER.read_head({"x-inference-provider": "groq"}) == Head(backing="groq")
    assert ROUTER.read_head({}) == Head()


def test_cost_is_not_believed() -> None:
    """A cost that a backing writes is not what Hugging Face debits."""
    record = {"prompt_tokens": 1, "completion_tokens": 2, "cost": 5, "is_byok": True}
    assert ROUTER.read_usage({"usage": record}) == Usage(1, 2)
    assert ROUTER.read_usage({}) is None


def test_every_recorded_error_is_judged() -> None:
    """The table of this test names every recorded error."""
    assert [answer.name for answer in recordings.answers("hf_errors.json")] == list(KINDS)


@pytest.mark.parametrize("answer", recordings.answers("hf_errors.json"), ids=lambda each: each.name)
def test_recorded_errors(answer: recordings.Answer) -> None:
    """Each recorded error is judged rightly, with its wait and without its HTML."""
    if answer.status == 200:
        failure = ROUTER.read_error(orjson.loads(answer.body))
        assert failure is not None
    else:
        failure = ROUTER.read_failure(answer.status, answer.headers, answer.body)
        assert failure.status == answer.status
    assert failure.kind is KINDS[answer.name]
    assert failure.retry_after == WAITS.get(answer.name)
    neutral = f"HTTP {answer.status} from the provider"
    is_html = answer.body.startswith(b"<")
    assert (
        failure.message == neutral
        if is_html
        else failure.message.encode() in answer.body.replace(b'\\"', b'"')
    )


def test_hub_wait_yields_to_the_plain_one() -> None:
    """The hub's header counts only for a rate limit that names no other wait."""
    headers = {"ratelimit": '"api";r=0;t=55', "retry-after": "2"}
    assert ROUTER.read_failure(429, headers, b"").retry_after == 2
    assert ROUTER.read_failure(503, {"ratelimit": '"api";r=0;t=55'}, b"").retry_after is None
    assert ROUTER.read_failure(429, {"ratelimit": "soon"}, b"").retry_after is None


@pytest.mark.parametrize(
    ("model", "base"),
    [
        ("org/name:fastest", "org/name"),
        ("org/name:groq", "org/name"),
        ("org/name", None),
        ("org/name:", None),
        (":groq", None),
    ],
)
def test_base_id(model: str, base: str | None) -> None:
    """Every suffix is the router's: a policy or a backing."""
    assert ROUTER.base_id(model) == base


def test_bill_goes_on() -> None:
    """Nothing says that a closed connection stops the bill."""
    assert not ROUTER.stops_billing("groq")


@recordings.PATIENT
@given(recordings.JSON, st.text(max_size=20))
def test_no_frame_breaks_it(frame: Any, model: str) -> None:
    """No JSON value and no name raises."""
    ROUTER.read_backing(frame)
    ROUTER.read_usage(frame)
    ROUTER.read_error(frame)
    ROUTER.base_id(model)


@recordings.PATIENT
@given(st.integers(100, 599), recordings.HEADERS, recordings.BODIES)
def test_no_refusal_breaks_it(status: int, headers: dict[str, str], body: bytes) -> None:
    """No refusal raises."""
    assert 0 < len(ROUTER.read_failure(status, headers, body).message) <= 500
    ROUTER.read_head(headers)


@recordings.PATIENT
@given(recordings.BODIES | recordings.LISTS.map(lambda entries: orjson.dumps({"data": entries})))
def test_no_list_breaks_it(body: bytes) -> None:
    """A model list either is read or raises ValueError."""
    try:
        models = ROUTER.read_models(body)
    except ValueError:
        return
    assert all(
        model.price is None or min(model.price.prompt, model.price.completion) >= 0 for model in models
    )


@recordings.PATIENT
@given(recordings.OBJECTS, st.booleans())
def test_no_caller_breaks_it(body: dict[str, Any], stream: bool) -> None:  # noqa: FBT001
    """Any body becomes a request."""
    assert orjson.loads(ROUTER.api_request(ApiCall(body, "m", stream, None), None).body)["model"] == "m"


def test_a_failed_response_says_its_status_in_words() -> None:
    """A refusal inside of a 200 is judged by the status before its words, and any other error as always."""
    for message, kind in (
        ('401 "Invalid username or password."', FailureKind.CREDENTIALS),
        ("429 Too many requests", FailureKind.RATE_LIMIT),
        ("4011 is a number", FailureKind.PROVIDER),
        ("boom", FailureKind.PROVIDER),
    ):
        failure = ROUTER.read_error({"error": {"code": "server_error", "message": message}})
        assert failure is not None
        assert (failure.kind, failure.message) == (kind, message)
    assert ROUTER.read_error({"error": None}) is None


def test_a_key_is_tried_at_a_model_that_nobody_has() -> None:
    """The router refuses a wrong key before it looks for the model, and a right one costs nothing."""
    request = ROUTER.key_request("hf_x")
    assert isinstance(ROUTER, ChecksKeys)
    assert (request.method, request.path) == ("POST", "/chat/completions")
    assert request.headers["Authorization"] == "Bearer hf_x"
    sent = orjson.loads(request.body or b"")
    assert sent["max_tokens"] == 1
    assert "no-such" in sent["model"]
