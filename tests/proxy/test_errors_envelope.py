"""The same table of errors as in test_errors.py, on the account service's surface: the envelope, with `code` at its top."""

from __future__ import annotations

import pytest

from proxy.core.routing import Role
from tests.admin_api.playground import OPENROUTER_KEY, playground
from tests.proxy.stage import MINI
from tests.upstreams import Behaviour, Failure

ROWS: list[tuple[str, int, str]] = [
    ("400_reasoning_mandatory", 400, "VALIDATION_ERROR"),
    ("400_invalid_model", 404, "NOT_FOUND"),
    ("401_bad_key", 502, "PROVIDER_ERROR"),
    ("402_credits_documented", 502, "PROVIDER_ERROR"),
    ("402_in_flight_budget_documented", 503, "SERVICE_UNAVAILABLE"),
    ("403_guardrail_documented", 403, "CONTENT_POLICY"),
    ("404_data_policy", 404, "NOT_FOUND"),
    ("408_documented", 503, "PROVIDER_ERROR"),
    ("413_documented", 413, "PAYLOAD_TOO_LARGE"),
    ("429_upstream_retry_after", 503, "PROVIDER_ERROR"),
    ("500_documented", 502, "PROVIDER_ERROR"),
    ("503_documented", 502, "PROVIDER_ERROR"),
    ("524_documented", 503, "PROVIDER_ERROR"),
    ("200_error_body", 502, "PROVIDER_ERROR"),
]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_every_refusal_of_a_provider_has_its_envelope(mongodb_uri: str, *, stream: bool) -> None:
    """Each row of the table is reached through the playground too, with the provider's name where it is its fault."""
    async with playground(mongodb_uri) as play:
        person = await play.person(Role.PREMIUM)
        for name, status, code in ROWS:
            play.openrouter.script.enqueue(Behaviour(error=name))
            response = await person.say("hello", MINI, stream=stream)
            assert response.status_code == status, name
            body = response.json()
            assert (body["status"], body["code"]) == ("fail" if status < 500 else "error", code), name
            assert body["message"]
            assert body.get("provider") == ("openrouter" if status >= 500 else None), name
            assert ("retry-after" in response.headers) is (name.startswith(("402_in", "429"))), name


async def test_no_envelope_shows_what_only_the_operator_may_know(mongodb_uri: str) -> None:
    """The provider's key and address never reach a browser."""
    async with playground(mongodb_uri) as play:
        person = await play.person(Role.PREMIUM)
        place = play.openrouter.base_url
        leak = f"{OPENROUTER_KEY} at {place} ({place.split('/')[2]})"
        for status in (400, 404, 429, 500):
            play.openrouter.script.enqueue(Behaviour(error=Failure(status, {"error": {"message": leak}})))
            response = await person.say("hello", MINI)
            assert response.status_code >= 400
            for secret in (OPENROUTER_KEY, place, place.split("/")[2], "Traceback"):
                assert secret not in response.text + str(response.headers)
