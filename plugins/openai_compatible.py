"""A server that speaks OpenAI's chat API: Ollama, vLLM, llama.cpp, TGI, LM Studio, OpenAI itself.

Law: what a provider sends counts as far as it makes sense; the rest is unknown, and never an exception.
A plugin for a dialect of this API is a subclass that overrides what differs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, ClassVar

import orjson
from msgspec.structs import replace

from plugins import lenient
from plugins.bodies import CAP_FIELDS, HEADERS, PATHS, chat_body, plain_body, written
from plugins.contract import (
    Api,
    ApiCall,
    Failure,
    FailureKind,
    Head,
    Json,
    ModelInfo,
    Price,
    ProviderOptions,
    Translator,
    UpstreamRequest,
    Usage,
)
from plugins.reading import amount, count, first, get, text, texts, usage

CONTEXT_FIELDS = ("context_length", "max_model_len", "context_window", "max_context_length")
PRICE_FIELDS = frozenset(Price.__struct_fields__) - {"discount", "overrides"}
LONGEST_WAIT = 30 * 86_400
LONGEST_MESSAGE = 500
LONGEST_ID = 256

# HTML and XML pages of load balancers; `<|im_end|>` or `List<int>` in a message must pass.
MARKUP = re.compile(
    r"(?i)<(?:!doctype|\?xml|/?(?:html|head|body|title|meta|link|script|style|iframe|div|span|center|table|h[1-6]"
    r"|p|a|b|i|br|hr|ul|li|pre|img|svg)\b)"
)

STATUSES_OF_KIND = {
    FailureKind.INVALID_REQUEST: (400, 422),
    FailureKind.CREDENTIALS: (401,),
    FailureKind.CREDITS: (402,),
    FailureKind.FORBIDDEN: (403,),
    FailureKind.NOT_FOUND: (404, 410),
    FailureKind.TIMEOUT: (408, 504, 524),
    FailureKind.TOO_LARGE: (413,),
    FailureKind.RATE_LIMIT: (429,),
}
KIND_OF_STATUS = {status: kind for kind, statuses in STATUSES_OF_KIND.items() for status in statuses}
# For errors inside a 200 that name no number: OpenAI's, OpenRouter's and Anthropic's words, exact ones first,
# for OpenAI's type says invalid_request_error beside a code that says invalid_api_key.
WORDS_OF_STATUS = {
    401: "invalid_api_key authentication authentication_error",
    402: "payment_required insufficient_quota",
    403: "permission_denied permission_error content_policy_violation content_filter refusal",
    404: "model_not_found model_not_supported not_found not_found_error",
    413: "payload_too_large",
    429: "rate_limit_exceeded rate_limit_error",
    503: "provider_overloaded overloaded_error",
    504: "timeout",
    422: "unprocessable",
    400: "context_length_exceeded max_tokens_exceeded token_limit_exceeded string_too_long precondition_failed"
    " invalid_prompt invalid_image invalid_request invalid_request_error",
}
STATUS_OF_WORD = {word: status for status, words in WORDS_OF_STATUS.items() for word in words.split()}
UNKNOWN_MODEL = frozenset({"model_not_found", "model_not_supported", "not_found"})
AGAINST_POLICY = frozenset({"content_policy_violation", "content_filter", "refusal"})


@dataclass(frozen=True)
class OpenAICompatible:
    """A provider with OpenAI's API; `options.extra` may hold what is in `OPTIONS`, to which a subclass may add."""

    OPTIONS: ClassVar = frozenset({"prices", "max_tokens_field", "apis"})
    APIS: ClassVar = frozenset({Api.CHAT, Api.EMBEDDINGS})
    options: ProviderOptions
    apis: frozenset[Api] = field(init=False, repr=False)
    prices: Mapping[str, Price] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Refuse wrong options; a value that no header can carry would fail every request instead."""
        extra = self.options.extra
        if unknown := sorted(set(extra) - self.OPTIONS):
            raise ValueError(f"unknown option {unknown[0]!r}")
        if extra.get("max_tokens_field", "max_tokens") not in CAP_FIELDS:
            raise ValueError(f"max_tokens_field must be one of {', '.join(CAP_FIELDS)}")
        labels = f"{self.options.app_url or ''}{self.options.app_title or ''}"
        if not (labels.isascii() and labels.isprintable()):
            raise ValueError(f"app_url and app_title are headers, hence plain ASCII: not {labels!r}")
        object.__setattr__(self, "apis", frozenset(map(Api, extra.get("apis", self.APIS))))
        object.__setattr__(self, "prices", configured_prices(extra.get("prices", {})))

    @property
    def name(self) -> str:
        """The configured name."""
        return self.options.name

    def models_request(self, api_key: str | None) -> UpstreamRequest:
        """Describe GET /models."""
        return UpstreamRequest("GET", "/models", self.headers(api_key))

    def api_request(self, call: ApiCall, api_key: str | None) -> UpstreamRequest:
        """Describe the POST of a request."""
        headers = self.headers(api_key) | HEADERS[call.api]
        return UpstreamRequest("POST", PATHS[call.api], headers, written(self.body(call)))

    def translator(self, call: ApiCall) -> Translator | None:  # noqa: ARG002 - the contract's signature
        """Translate nothing: this is OpenAI's form."""
        return None

    def headers(self, api_key: str | None) -> dict[str, str]:
        """List the headers that every request carries."""
        headers = {"Accept-Encoding": "identity"}
        if api_key:
            headers["Authorization"] = f"Bearer {api_key}"
        return headers

    def body(self, call: ApiCall) -> Json:
        """Write the caller's body with our model, cap and demand for usage in it."""
        if call.api is Api.CHAT:
            return chat_body(call, self.cap_field(call.body))
        return plain_body(call)

    def cap_field(self, body: Mapping[str, Any]) -> str:
        """Choose the field that carries a chat's cap: the caller's own, or the configured one where he has none."""
        for each in CAP_FIELDS:
            if body.get(each) is not None:
                return each
        default: str = self.options.extra.get("max_tokens_field", "max_tokens")
        return default

    def read_models(self, body: bytes) -> Sequence[ModelInfo]:
        """Read a model list; entries that make no sense are left out, and a configured price wins."""
        document = lenient.loads(body)
        # Together answers with a bare list; Ollama without models has `data: null`.
        entries = document if isinstance(document, list) else get(document, "data")
        if entries is None and get(document, "object") == "list":
            entries = []
        if not isinstance(entries, list):
            raise ValueError("not a model list: no `data`")  # noqa: TRY004 - the contract names ValueError
        models = (self.read_model(each) for each in entries if is_model(each))
        return [replace(each, price=self.prices.get(each.id, each.price)) for each in models]

    def read_model(self, entry: Json) -> ModelInfo:
        """Read one entry of the list; its id is known to be one."""
        architecture = get(entry, "architecture")
        lengths = (count(get(entry, each)) for each in CONTEXT_FIELDS)
        return ModelInfo(
            id=entry["id"],
            name=text(get(entry, "name")) or entry["id"],
            price=None,
            description=text(get(entry, "description")),
            created=count(get(entry, "created")) or 0,
            owned_by=text(get(entry, "owned_by")),
            context_length=next(filter(None, lengths), None),
            max_output_tokens=count(get(entry, "max_completion_tokens")) or None,
            input_modalities=texts(get(architecture, "input_modalities")) or ("text",),
            output_modalities=texts(get(architecture, "output_modalities")) or ("text",),
            supported_parameters=texts(get(entry, "supported_parameters")),
        )

    def read_head(self, headers: Mapping[str, str]) -> Head:  # noqa: ARG002 - the contract's signature
        """Find nothing: the plain API has no such headers."""
        return Head()

    def read_backing(self, frame: Json) -> str | None:  # noqa: ARG002 - the contract's signature
        """Find nothing: a plain server is its own backing."""
        return None

    def read_usage(self, frame: Json) -> Usage | None:
        """Find the usage record at the top, under Groq's `x_groq`, or in a choice (Moonshot)."""
        if not isinstance(frame, dict):
            return None
        if (record := frame.get("usage")) and (found := usage(record)):
            return found
        for holder in (frame.get("x_groq"), *choices(frame)):
            if isinstance(holder, dict) and (record := holder.get("usage")) and (found := usage(record)):
                return found
        return None

    def read_error(self, frame: Json) -> Failure | None:
        """Find an error at the top or in a choice, or an answer that ended with one and says no more."""
        if not isinstance(frame, dict):
            return None
        if error := frame.get("error"):
            return _reported(error)
        ended = None
        for choice in choices(frame):
            if isinstance(choice, dict):
                if error := choice.get("error"):
                    return _reported(error)
                if ended is None and choice.get("finish_reason") == "error":
                    ended = choice
        if ended is None:
            return None
        # Gemini's MALFORMED_FUNCTION_CALL arrives like this (captured from OpenRouter).
        reason = clean(text(ended.get("native_finish_reason"))) or "an error"
        return Failure(FailureKind.PROVIDER, f"the provider ended the answer with {reason}", 502)

    def read_failure(self, status: int, headers: Mapping[str, str], body: bytes) -> Failure:
        """Read a refusal in any of the shapes that servers and the balancers before them send."""
        error = None if "html" in headers.get("content-type", "").lower() else complaint(body)
        return failure(error, status, headers, f"HTTP {status} from the provider")

    def base_id(self, model: str) -> str | None:  # noqa: ARG002 - the contract's signature
        """Find nothing: the plain API has no routing suffixes."""
        return None

    def stops_billing(self, backing: str | None) -> bool:  # noqa: ARG002 - the contract's signature
        """Say yes: servers of this API stop generating when their client is gone."""
        return True


def configured_prices(given: object) -> dict[str, Price]:
    """Read the operator's price list; raise `ValueError` with one line when it is wrong."""
    if not isinstance(given, Mapping):
        raise ValueError("prices must map model ids to prices")  # noqa: TRY004 - the contract names ValueError
    return {str(model): _configured_price(str(model), price) for model, price in given.items()}


def _configured_price(model: str, given: object) -> Price:
    if not isinstance(given, Mapping) or not {"prompt", "completion"} <= given.keys():
        raise ValueError(f"prices of {model!r}: prompt and completion are needed")
    amounts: dict[str, Decimal] = {}
    for name, value in given.items():
        price = amount(value)
        if name not in PRICE_FIELDS or price is None:
            raise ValueError(f"prices of {model!r}: {name}: {value!r} is not a known price in USD")
        amounts[name] = price
    return replace(Price(amounts["prompt"], amounts["completion"]), **amounts, overrides=())


def choices(frame: object) -> list[Any]:
    """Return the choices of what may be a chunk or an answer."""
    found = frame.get("choices") if isinstance(frame, dict) else None
    return found if isinstance(found, list) else []


def is_model(entry: object) -> bool:
    """Say whether an entry of a model list has an id that can name a model."""
    name = text(get(entry, "id"))
    return 0 < len(name.strip()) <= len(name) <= LONGEST_ID and name.isprintable()


def _reported(error: object) -> Failure:
    return failure(error, None, {}, "the provider reported an error")


def complaint(body: bytes) -> object:
    """Find the error in the body of a refusal: an object, or a text, or nothing."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        plain = body.decode(errors="replace")
        return None if "\ufffd" in plain else plain
    # Google's OpenAI endpoint wraps its error object in a list.
    if isinstance(document, list) and document:
        document = document[0]
    error = get(document, "error")
    return error if error and isinstance(error, (str, dict)) else document


def failure(error: object, status: int | None, headers: Mapping[str, str], fallback: str) -> Failure:
    """Judge an error by its own number, then the HTTP status, then its words; 502 when nothing says."""
    words = _words(error)
    numbers = (_error_status(get(error, "code")), _error_status(get(error, "http_status")), status)
    by_word = next((STATUS_OF_WORD[each] for each in STATUS_OF_WORD if each in words), 502)
    decided = next(filter(None, numbers), by_word)
    message = clean(said(error)) or fallback
    kind = _kind(decided, words, error, message)
    return Failure(
        kind, message, decided, _wait(error, headers), code(error), text(get(error, "param")) or None
    )


def code(error: object) -> str | None:
    """Find an error's word for itself; where its `code` is a status, OpenRouter has a word beside it."""
    places = (get(error, "code"), get(get(error, "metadata"), "error_type"), get(error, "error_type"))
    return next(filter(None, (text(each) for each in places if _error_status(each) is None)), None)


def _words(error: object) -> frozenset[str]:
    places = (error, get(error, "metadata"), get(error, "availability"))
    found = (get(place, each) for place in places for each in ("code", "type", "error_type"))
    return frozenset(each.lower() for each in found if isinstance(each, str))


def _error_status(value: object) -> int | None:
    if isinstance(value, str) and len(value) == len("500") and value.isdecimal():
        value = int(value)
    # Some servers number their errors from 1000 on: no HTTP status.
    return value if isinstance(value, int) and 400 <= value <= 599 else None  # noqa: PLR2004 - HTTP's own numbers


def _kind(status: int, words: frozenset[str], error: object, message: str) -> FailureKind:
    metadata = get(error, "metadata")
    if "insufficient_quota" in words:  # OpenAI says so with 429, but waiting will not help.
        return FailureKind.CREDITS
    if status in (400, 403, 422) and words & AGAINST_POLICY:
        return FailureKind.MODERATION
    if status in (400, 422) and (words & UNKNOWN_MODEL or "is not a valid model id" in message.lower()):
        return FailureKind.NOT_FOUND
    if status == 402 and get(metadata, "reason") == "in_flight_budget_exhausted":  # noqa: PLR2004 - HTTP's own number
        return FailureKind.IN_FLIGHT_BUDGET
    if status == 403 and any(get(metadata, each) for each in ("flagged_input", "reasons", "patterns")):  # noqa: PLR2004
        return FailureKind.MODERATION
    return KIND_OF_STATUS.get(status, FailureKind.PROVIDER)


def said(error: object) -> str:
    """Find what an error says, in the words of OpenAI, of FastAPI, or plain."""
    if isinstance(error, str):
        return error
    detail = get(error, "detail")
    if isinstance(detail, list):
        return "; ".join(_field_error(each) for each in detail[:10])
    return text(get(error, "message")) or text(detail)


def _field_error(entry: object) -> str:
    return ": ".join(filter(None, (".".join(texts(get(entry, "loc"))), text(get(entry, "msg")))))


def clean(message: str) -> str:
    """Return one short line of plain text, or nothing for markup and blanks."""
    printable = "".join(each if each.isprintable() else " " for each in message[: 4 * LONGEST_MESSAGE])
    line = " ".join(printable.split())
    return "" if MARKUP.search(line) else line[:LONGEST_MESSAGE]


def _wait(error: object, headers: Mapping[str, str]) -> float | None:
    milliseconds = seconds(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    metadata = get(error, "metadata")
    relayed = (get(get(metadata, "headers"), each) for each in ("Retry-After", "retry-after"))
    stated = (get(metadata, "retry_after_seconds"), get(get(error, "availability"), "retry_after"))
    return first(map(seconds, (headers.get("retry-after"), *relayed, *stated)))


def seconds(value: object) -> float | None:
    """Read a wait; an HTTP date is none, for there is no clock here."""
    wait = amount(value)
    return None if wait is None or wait > LONGEST_WAIT else float(wait)
