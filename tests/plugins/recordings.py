"""What providers answered, recorded; and generators of what they might answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

# How fast examples are made says nothing about the plugins.
PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

FIXTURES = Path(__file__).parent / "fixtures"

# Names that mean something to a plugin, so that wild values meet its code and are not passed over.
_NAMES = (
    "usage x_groq choices error message code type metadata error_type http_status availability retry_after"
    " retry_after_seconds headers Retry-After raw detail loc msg finish_reason native_finish_reason provider"
    " prompt_tokens completion_tokens total_tokens prompt_tokens_details completion_tokens_details cached_tokens"
    " cache_write_tokens reasoning_tokens cost cost_details upstream_inference_cost is_byok data id object pricing"
    " prompt completion request discount overrides min_prompt_tokens utc_start input_cache_read providers status"
    " input output context_length architecture input_modalities top_provider max_completion_tokens max_tokens"
    " stream_options max_price model messages role content tools tool_choice function name n stream"
    " response_format"
)
NAMES = st.sampled_from(_NAMES.split())
WORDS = st.sampled_from(
    ["error", "429", "-1", "0.1", "1e400", "NaN", "live", "<html>", "user", "demo/echo", ""]
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(min_value=-(2**63), max_value=2**64 - 1)
    | st.floats()
    | st.text(max_size=20)
    | WORDS
)
JSON = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(NAMES | st.text(max_size=5), inner, max_size=6)
    ),
    max_leaves=10,
)
OBJECTS = st.dictionaries(NAMES | st.text(max_size=5), JSON, max_size=5)
LISTS = st.lists(OBJECTS, max_size=3)
HEADERS = st.dictionaries(
    st.sampled_from(["retry-after", "retry-after-ms", "content-type", "ratelimit", "x-generation-id"]),
    st.text(max_size=20) | WORDS,
)
BODIES = st.binary(max_size=200) | JSON.map(orjson.dumps)


@dataclass(frozen=True, slots=True)
class Answer:
    """A recorded refusal."""

    name: str
    status: int
    headers: Mapping[str, str]
    body: bytes


def read(name: str) -> Any:
    """Read a JSON fixture."""
    return orjson.loads((FIXTURES / name).read_bytes())


def answers(name: str) -> list[Answer]:
    """Read the recorded error answers in a fixture."""
    found = []
    for label, answer in read(name).items():
        body = answer["body"]
        raw = body.encode() if isinstance(body, str) else orjson.dumps(body)
        found.append(Answer(label, answer["status"], answer["headers"], raw))
    return found


def frames(name: str) -> list[Any]:
    """Read the events of a recorded stream."""
    lines = (FIXTURES / name).read_text().splitlines()
    events = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    return [orjson.loads(event) for event in events if event != "[DONE]"]
