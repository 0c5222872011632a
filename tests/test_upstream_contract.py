"""Every way in which OpenRouter and Hugging Face are known to differ from OpenAI, and the tests that meet it.

The simulators can do each of them (tests/test_upstreams.py says so); here stand the tests in which the gateway reads
them right.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent

OPENROUTER = {
    "comments before the first event": (
        "proxy/test_exchange.py::test_an_error_before_the_answer_has_its_own_status",
        "proxy/test_exchange.py::test_framing_does_not_matter",
    ),
    "the finish_reason comes twice": (
        "proxy/core/test_stream_usage.py::test_usage_placements",
        "proxy/core/test_stream_usage.py::test_recorded_streams",
    ),
    "usage with one choice, with none, with a null finish_reason": (
        "proxy/test_exchange.py::test_usage_is_found_wherever_it_stands",
        "proxy/core/test_stream_usage.py::test_usage_placements",
    ),
    "an error as the first and only event, without [DONE]": (
        "proxy/test_exchange.py::test_an_error_before_the_answer_has_its_own_status",
        "proxy/test_fallbacks.py::test_passing_trouble_passes",
    ),
    "an error in mid-stream": ("proxy/test_exchange.py::test_an_error_in_mid_stream_is_an_error_event",),
    "a 200 with an error in it": (
        "proxy/test_exchange.py::test_a_whole_answer_that_is_an_error_is_not_an_answer",
        "plugins/test_openai_compatible_errors.py::test_answer_that_ends_in_error",
    ),
    "402 of three kinds": ("proxy/test_errors.py::test_every_refusal_of_openrouter_has_its_place",),
    "429 of its own, with limits in headers": (
        "proxy/test_upstream_rows.py::test_free_limits_go_on_to_a_fallback",
        "proxy/test_header_hygiene.py::test_no_header_of_a_provider_comes_down",
    ),
    "429 of a backing, with Retry-After and without": (
        "proxy/test_errors.py::test_waits_are_the_providers",
        "proxy/core/test_retries.py::test_retry_after_is_obeyed_within_a_bound",
    ),
    "X-Generation-Id on every answer": (
        "plugins/test_openrouter.py::test_head_and_backing",
        "proxy/test_upstream_rows.py::test_a_late_record_makes_a_cut_stream_exact",
    ),
    "the cost is not the backing's": (
        "proxy/test_costs.py::test_the_event_costs_what_the_books_say",
        "proxy/core/test_pricing.py::test_the_providers_figure_wins",
    ),
    "free models stop at 20 a minute and 50 a day": (
        "proxy/test_upstream_rows.py::test_free_limits_go_on_to_a_fallback",
    ),
    "a price of -1": ("proxy/test_costs.py::test_a_variable_price_is_the_providers_word_or_unknown",),
    "the model's slug changes": ("proxy/test_upstream_rows.py::test_a_changed_slug_is_recorded",),
    "a client that leaves stops the bill, or does not": (
        "proxy/test_client_gone.py::test_leaving_is_noticed_whatever_the_size",
        "proxy/test_client_gone.py::test_a_backing_that_bills_on_is_read_to_its_end",
    ),
    "/generation is 404 and then found": (
        "proxy/test_upstream_rows.py::test_a_late_record_makes_a_cut_stream_exact",
        "proxy/metering/test_recovery.py::test_the_generation_record_makes_it_exact",
    ),
}
HUGGING_FACE = {
    "errors as a string, an object, HTML": (
        "proxy/test_errors.py::test_every_refusal_of_hugging_face_has_its_place",
        "plugins/test_huggingface.py::test_recorded_errors",
    ),
    "the token is judged before the model": (
        "proxy/test_upstream_rows.py::test_the_token_is_judged_before_the_model",
    ),
    "the suffix is stripped from the answer's model": (
        "proxy/test_completions.py::test_a_name_leads_to_its_provider",
        "plugins/test_huggingface.py::test_base_id",
    ),
    "x-inference-provider names the backing": (
        "plugins/test_huggingface.py::test_head",
        "proxy/test_costs.py::test_hugging_face_costs_what_its_backing_costs",
    ),
    "usage in three places, or missing": (
        "proxy/test_exchange.py::test_usage_is_found_wherever_it_stands",
        "proxy/test_exchange.py::test_a_stream_without_usage_is_estimated",
    ),
    "a backing without a price": (
        "proxy/test_costs.py::test_hugging_face_costs_what_its_backing_costs",
        "plugins/test_huggingface.py::test_unknown_price",
    ),
    "a retired pair is 410": ("proxy/test_errors.py::test_every_refusal_of_hugging_face_has_its_place",),
    "/responses fails with status 200": (
        "proxy/test_api_failures.py::test_a_failed_response_with_status_200",
    ),
    "504 on a slow whole answer": ("proxy/test_upstream_rows.py::test_a_slow_whole_answer_is_504",),
}
ROWS = {f"OpenRouter: {row}": tests for row, tests in OPENROUTER.items()} | {
    f"Hugging Face: {row}": tests for row, tests in HUGGING_FACE.items()
}


@cache
def collected(file: str) -> frozenset[str]:
    """Return the tests that pytest collects from a file: by their names, at the top of a file with such a name."""
    path = TESTS / file
    assert path.match("test_*.py"), file
    nodes = ast.parse(path.read_text(encoding="utf-8")).body
    functions = (node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return frozenset(name for name in functions if name.startswith("test_"))


@pytest.mark.parametrize("row", ROWS)
def test_a_row_has_its_tests(row: str) -> None:
    """The tests that are said to meet a peculiarity of a provider exist, and pytest runs them."""
    assert ROWS[row]
    for place in ROWS[row]:
        file, _, name = place.partition("::")
        assert name in collected(file), place
