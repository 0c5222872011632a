"""The contract between the gateway and a provider: frozen values, and one protocol of pure functions.

A plugin says which HTTP request asks its provider for something and what an answer means. It opens no
connection, reads no clock and no environment; `proxy.relay` performs what it describes.

Words: a *provider* is the company, a *plugin* our code for it, a *backing* the machine park behind a router
(OpenRouter's "DeepInfra", Hugging Face's "groq"). Money is USD as `Decimal`; `None` always means unknown and
never zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from enum import StrEnum
from typing import Any, Protocol, runtime_checkable

from msgspec import field

from plugins.values import Value

Json = dict[str, Any]


class Api(StrEnum):
    """An API that callers speak to the gateway, and that a provider may have."""

    CHAT = "chat"
    EMBEDDINGS = "embeddings"
    RESPONSES = "responses"
    MESSAGES = "messages"


class UpstreamRequest(Value, frozen=True):
    """One HTTP request for the relay to perform; `path` begins with a slash and goes behind the provider's base URL."""

    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


class PriceOverride(Value, frozen=True):
    """Prices that replace the base ones once a prompt is longer than `min_prompt_tokens` (strictly greater)."""

    min_prompt_tokens: int
    prompt: Decimal | None = None
    completion: Decimal | None = None
    cache_read: Decimal | None = None
    cache_write: Decimal | None = None
    cache_write_1h: Decimal | None = None

    def __post_init__(self) -> None:
        """Refuse what is no amount."""
        _check_amounts(self, besides=("min_prompt_tokens",))


class Price(Value, frozen=True, cache_hash=True):
    """What a model costs: USD per token, but `request` per call, `image` per input image, `web_search` per search.

    A cache price of `None` means that the provider publishes none and bills the prompt price. Output in pictures or
    sound counts in the completion tokens, at `image_output` and `audio_output` where they are given: a hold must
    cover the dearest of the three. `overrides` ascend by threshold, and the last one that applies wins. Raises
    `ValueError` for an amount that is none: below zero it would credit whoever asks.
    """

    prompt: Decimal
    completion: Decimal
    cache_read: Decimal | None = None
    cache_write: Decimal | None = None
    cache_write_1h: Decimal | None = None
    request: Decimal = Decimal(0)
    image: Decimal | None = None
    audio: Decimal | None = None
    image_output: Decimal | None = None
    audio_output: Decimal | None = None
    web_search: Decimal | None = None
    discount: Decimal = Decimal(0)
    overrides: tuple[PriceOverride, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what is no amount."""
        _check_amounts(self, besides=("overrides",))


def _check_amounts(prices: Price | PriceOverride, *, besides: tuple[str, ...]) -> None:
    for name in prices.__struct_fields__:
        value = getattr(prices, name)
        if value is None or name in besides:
            continue
        if not isinstance(value, Decimal) or not value.is_finite() or value < 0:
            raise ValueError(f"a price is a Decimal of at least 0, and {name} is {value!r}")


class Offering(Value, frozen=True):
    """One backing's offer of a model, for routers that publish a price for each."""

    backing: str
    price: Price | None
    context_length: int | None = None


class ModelInfo(Value, frozen=True):
    """A model as its provider describes it. `price` is `None` where the provider names none (or a variable one)."""

    id: str
    name: str
    price: Price | None
    is_free: bool = False
    description: str = ""
    created: int = 0
    owned_by: str = ""
    context_length: int | None = None
    max_output_tokens: int | None = None
    input_modalities: tuple[str, ...] = ("text",)
    output_modalities: tuple[str, ...] = ("text",)
    supported_parameters: tuple[str, ...] = ()
    offerings: tuple[Offering, ...] = ()


class Usage(Value, frozen=True):
    """What a provider says it counted.

    `cached_tokens`, `cache_write_tokens` and `audio_tokens` are parts of `prompt_tokens`, and of the tokens written
    `cache_write_1h_tokens`, which are kept for an hour; `reasoning_tokens`, `audio_output_tokens` and
    `image_output_tokens` are parts of `completion_tokens`. `cost` is what the provider debits; with `is_byok` that is
    its fee alone and `upstream_cost` is what the owner of the key pays on top; without, nobody looks at it.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    web_searches: int = 0
    cost: Decimal | None = None
    upstream_cost: Decimal | None = None
    is_byok: bool = False
    audio_tokens: int = 0
    audio_output_tokens: int = 0
    image_output_tokens: int = 0
    cache_write_1h_tokens: int = 0


class Head(Value, frozen=True):
    """What the response headers of a provider tell before its first byte."""

    generation_id: str | None = None
    backing: str | None = None


class FailureKind(StrEnum):
    """Why a provider did not answer, in terms of what the gateway does about it."""

    INVALID_REQUEST = "invalid_request"
    TOO_LARGE = "too_large"
    CREDENTIALS = "credentials"
    CREDITS = "credits"
    IN_FLIGHT_BUDGET = "in_flight_budget"
    MODERATION = "moderation"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    TIMEOUT = "timeout"
    RATE_LIMIT = "rate_limit"
    PROVIDER = "provider"
    UNREACHABLE = "unreachable"


class Failure(Value, frozen=True):
    """A provider's refusal.

    `message` is the provider's own text, `code` its own word for what is wrong and `param` the field that is; who
    may see them is the gateway's decision.
    """

    kind: FailureKind
    message: str
    status: int | None = None
    retry_after: float | None = None
    code: str | None = None
    param: str | None = None


class ApiCall(Value, frozen=True):
    """A request on its way to a provider: the caller's body with the routing already decided.

    `body` is the caller's, minus what the gateway decides itself; `model` is the provider's id. `max_tokens`
    is the output cap that the gateway holds for (`None`: the caller named none and nothing limits him).
    `max_price`, where the caller's budget demands one, is the highest price that the hold covers.
    `has_unread_files` says that there are files in the body, and that a model which may serve it takes none.
    """

    body: Mapping[str, Any]
    model: str
    stream: bool
    max_tokens: int | None
    max_price: Price | None = None
    api: Api = Api.CHAT
    has_unread_files: bool = False


class Framing(StrEnum):
    """How a stream is cut into pieces: server-sent events, or one line each."""

    EVENTS = "events"
    LINES = "lines"


class Translator(Protocol):
    """Puts one answer that is not in OpenAI's form into it; made anew for every answer.

    Both methods may raise `ValueError` for what makes no sense; the provider has failed then. An error goes into
    `error`, as OpenAI writes it, and usage into `usage`; `Provider.read_error` and `read_usage` read both there.
    An event of `[DONE]` ends the stream, as it does OpenAI's, and is not translated.
    """

    framing: Framing

    def answer(self, body: bytes) -> Json:
        """Translate a whole answer into a chat completion."""

    def chunks(self, piece: bytes) -> Iterable[Json]:
        """Translate the data of one event, or one line, into chunks; every choice ends with a `finish_reason`."""


@runtime_checkable
class Provider(Protocol):
    """A configured provider. Every method is pure; none raises on what a provider may send."""

    @property
    def name(self) -> str:
        """The configured name: the prefix in model ids, and the label in metrics and events."""

    @property
    def apis(self) -> frozenset[Api]:
        """The APIs that this provider has."""

    def models_request(self, api_key: str | None) -> UpstreamRequest:
        """Describe the request for the provider's model list."""

    def read_models(self, body: bytes) -> Sequence[ModelInfo]:
        """Read that list; raise `ValueError` when it is not one."""

    def api_request(self, call: ApiCall, api_key: str | None) -> UpstreamRequest:
        """Describe the request for an answer of one of `apis`; usage is always asked for.

        Raise `ValueError` with one line, which the caller gets, when the provider cannot be asked that.
        """

    def translator(self, call: ApiCall) -> Translator | None:
        """Make what translates the answer to a chat request; `None` if it comes in OpenAI's form."""

    def read_head(self, headers: Mapping[str, str]) -> Head:
        """Read the response headers (lower-case names) of an answer."""

    def read_backing(self, frame: Json) -> str | None:
        """Find the name of the backing in a chunk or an answer."""

    def read_usage(self, frame: Json) -> Usage | None:
        """Find the usage record in a chunk or an answer, wherever this provider puts it.

        Records of other APIs than chat are put into a chunk's `usage`, under chat's names, before they get here.
        """

    def read_error(self, frame: Json) -> Failure | None:
        """Find an error in a chunk or an answer that came with status 200."""

    def read_failure(self, status: int, headers: Mapping[str, str], body: bytes) -> Failure:
        """Read an answer whose status is not 2xx."""

    def base_id(self, model: str) -> str | None:
        """Return the id without a routing suffix that leaves the record the same (`:nitro`), or `None`."""

    def stops_billing(self, backing: str | None) -> bool:
        """Say whether closing the connection of a stream stops the bill."""


@runtime_checkable
class SelfAnswering(Protocol):
    """A provider that answers by itself, in this process, without a network."""

    def respond(self, request: UpstreamRequest, *, request_id: str, now: int) -> tuple[int, Iterable[bytes]]:
        """Answer `request` with a status and the pieces of a body; `now` is in seconds since 1970."""


@runtime_checkable
class KeepsRecords(Protocol):
    """A provider that can be asked afterwards what an answer of its has cost, by the id that it gave it."""

    def generation_request(self, generation_id: str, api_key: str | None) -> UpstreamRequest:
        """Describe the request for the record of a generation."""

    def read_generation(self, body: bytes) -> Usage | None:
        """Read that record; `None` while it does not say what was used."""


@runtime_checkable
class ChecksKeys(Protocol):
    """A provider that shows its models to everybody, and is asked in another way whether it accepts a key."""

    def key_request(self, api_key: str) -> UpstreamRequest:
        """Describe a request that costs nothing, and that a provider refuses for a wrong key before all else."""


class ProviderOptions(Value, frozen=True):
    """What an operator configures of a provider, given to its plugin's factory."""

    name: str
    app_url: str | None = None
    app_title: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


class Factory(Protocol):
    """What an entry point of the group `aipasta.plugins` names."""

    def __call__(self, options: ProviderOptions) -> Provider:
        """Make the provider; raise `ValueError` with one line when an option is wrong."""
