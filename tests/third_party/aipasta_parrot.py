"""Parrot, for the AI Pasta gateway: an API with turns, voices and a JSON document on each line of a stream."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal

from plugins.contract import (
    Api,
    ApiCall,
    Failure,
    FailureKind,
    Framing,
    Head,
    Json,
    ModelInfo,
    Price,
    ProviderOptions,
    UpstreamRequest,
    Usage,
)

KINDS = {400: FailureKind.INVALID_REQUEST, 429: FailureKind.RATE_LIMIT}
FINISH = {"done": "stop", "limit": "length"}


class Speech:
    """Translates one answer of Parrot's into OpenAI's form."""

    framing = Framing.LINES

    def __init__(self) -> None:
        self.head: Json = {}

    def usage(self, heard: int, said: int) -> Json:
        return {"prompt_tokens": heard, "completion_tokens": said, "total_tokens": heard + said}

    def answer(self, body: bytes) -> Json:
        told = json.loads(body)
        message = {"role": "assistant", "content": told["says"]}
        choice = {"index": 0, "message": message, "finish_reason": FINISH[told["why"]]}
        head = {"id": told["id"], "model": told["voice"], "created": told["at"], "object": "chat.completion"}
        return {**head, "choices": [choice], "usage": self.usage(**told["counted"])}

    def chunks(self, piece: bytes) -> Iterable[Json]:
        told = json.loads(piece)
        if "oops" in told:
            return [{"error": {"message": told["oops"], "code": told["status"]}}]
        self.head = self.head or {"id": told["id"], "model": told["voice"], "created": told["at"]}
        delta = {"role": "assistant"} if "id" in told else {"content": told["w"]} if "w" in told else {}
        choice = {"index": 0, "delta": delta, "finish_reason": FINISH[told["why"]] if "why" in told else None}
        chunk = {**self.head, "object": "chat.completion.chunk", "choices": [choice]}
        return [{**chunk, "usage": self.usage(**told["counted"])} if "counted" in told else chunk]


class Parrot:
    apis = frozenset({Api.CHAT})

    def __init__(self, options: ProviderOptions) -> None:
        self.name = options.name

    def api_request(self, call: ApiCall, api_key: str | None) -> UpstreamRequest:
        turns = [{"who": each["role"], "says": each.get("content")} for each in call.body["messages"]]
        if not all(isinstance(turn["says"], str) for turn in turns):
            raise ValueError("Parrots hear text and nothing else.")
        asked = {"voice": call.model, "turns": turns, "limit": call.max_tokens, "live": call.stream}
        return UpstreamRequest("POST", "/speak", {"X-Parrot-Key": api_key or ""}, json.dumps(asked).encode())

    def translator(self, call: ApiCall) -> Speech:
        return Speech()

    def models_request(self, api_key: str | None) -> UpstreamRequest:
        return UpstreamRequest("GET", "/voices", {"X-Parrot-Key": api_key or ""})

    def read_models(self, body: bytes) -> Sequence[ModelInfo]:
        usd = {name: [Decimal(each) / 10**6 for each in pair] for name, pair in json.loads(body).items()}
        return [ModelInfo(name, name.title(), Price(pair[0], pair[1])) for name, pair in usd.items()]

    def read_usage(self, frame: Json) -> Usage | None:
        usage = frame.get("usage")
        return Usage(usage["prompt_tokens"], usage["completion_tokens"]) if usage else None

    def read_error(self, frame: Json) -> Failure | None:
        error = frame.get("error")
        return Failure(FailureKind.PROVIDER, error["message"], error["code"]) if error else None

    def read_failure(self, status: int, headers: Mapping[str, str], body: bytes) -> Failure:
        return Failure(KINDS.get(status, FailureKind.PROVIDER), body.decode(errors="replace"), status)

    def read_head(self, headers: Mapping[str, str]) -> Head:
        return Head()

    def read_backing(self, frame: Json) -> None:
        return None

    def base_id(self, model: str) -> None:
        return None

    def stops_billing(self, backing: str | None) -> bool:
        return True
