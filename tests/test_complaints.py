"""What users of other gateways complain about most, and the tests here that would fail if it were so here too."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent

COVERED = {
    "concurrent requests pass a stale budget": (
        "torture/test_trials.py::test_a_crowd_never_overspends_a_budget",
        "proxy/metering/test_meters.py::test_a_budget_is_never_overspent",
        "proxy/metering/test_meters.py::test_fifty_a_day_are_fifty",
    ),
    "a hard limit fails open, or the hold shrinks": (
        "proxy/core/test_rules.py::test_a_hold_covers_every_cost",
        "proxy/core/test_limits.py::test_every_text_to_embed_has_a_context_of_its_own",
        "proxy/test_budgets.py::test_a_search_that_nobody_asked_for_is_held",
        "proxy/test_budgets.py::test_what_a_provider_adds_to_a_prompt_is_held",
        "proxy/metering/test_meters.py::test_the_cap_is_lowered_to_what_is_affordable",
        "proxy/handlers/test_account.py::test_a_budget_ends_in_402",
    ),
    "holds leak, and good requests get 429": (
        "proxy/metering/test_recovery.py::test_open_requests_of_a_dead_worker_are_closed",
        "proxy/metering/test_direct.py::test_a_hold_of_a_dead_process_is_closed_once",
        "proxy/metering/test_meters.py::test_one_after_the_other_are_fifty_too",
    ),
    "a client that disconnects pays nothing": (
        "proxy/test_client_gone.py::test_a_hundred_leave_at_once",
        "proxy/test_client_gone.py::test_a_whole_answer_is_recorded_without_its_reader",
    ),
    "a client that disconnects pays for everything": (
        "proxy/test_client_gone.py::test_leaving_is_noticed_whatever_the_size",
        "proxy/test_client_gone.py::test_whoever_leaves_before_the_provider_is_asked_pays_nothing",
        "proxy/metering/test_recovery.py::test_the_generation_record_makes_it_exact",
    ),
    "streams are booked at 0": (
        "proxy/test_costs.py::test_the_event_costs_what_the_books_say",
        "proxy/test_exchange.py::test_a_stream_without_usage_is_estimated",
    ),
    "the usage record is missed because of its shape": (
        "proxy/test_exchange.py::test_usage_is_found_wherever_it_stands",
        "proxy/core/test_stream_usage.py::test_usage_placements",
    ),
    "an unknown model costs nothing": (
        "proxy/test_costs.py::test_a_variable_price_is_the_providers_word_or_unknown",
        "proxy/handlers/test_account.py::test_a_budget_ends_in_402",
    ),
    "the provider's own figure is ignored": ("proxy/test_costs.py::test_the_event_costs_what_the_books_say",),
    "cached tokens are billed twice": (
        "proxy/metering/test_event.py::test_the_price_of_the_fixture_is_exact",
        "proxy/handlers/test_account.py::test_a_request_is_explained_line_by_line",
    ),
    "spend is recorded twice": (
        "proxy/metering/test_meters.py::test_a_settlement_counts_once",
        "proxy/metering/test_recovery.py::test_recovery_may_die_at_every_step",
    ),
    "a shutdown or a restart loses spend": (
        "test_ends.py::test_a_stream_outlives_sigterm",
        "test_ends.py::test_a_killed_stream_is_closed_after_the_restart",
        "test_ends.py::test_a_stream_longer_than_the_drain_is_ended",
    ),
    "a failure of the database loses spend": (
        "torture/test_trials.py::test_kills_lose_and_double_nothing",
        "torture/test_trials.py::test_a_frozen_database_stops_no_stream",
        "admin_api/chat/test_turns.py::test_a_database_that_is_away_for_a_while",
        "proxy/metering/test_recovery.py::test_recovery_may_die_at_every_step",
    ),
    "budgets are never reset, or too often": (
        "proxy/core/test_rules.py::test_counters_carry_their_windows",
        "proxy/core/test_rules.py::test_windows_end_where_the_next_begins",
    ),
    "a hiccup of the database is a 401, or for ever": (
        "proxy/test_auth.py::test_a_frozen_database_is_503_and_never_401",
    ),
    "memory leaks": ("proxy/test_relay.py::test_cancelled_requests_leave_the_pool_whole",),
    "metrics explode with what clients send": ("proxy/test_metrics.py::test_no_client_makes_a_series",),
    "the log of requests slows everything": (
        "proxy/metering/test_statistics.py::test_every_cut_is_the_sum_of_the_events",
    ),
    "revoked keys still work": ("proxy/test_auth.py::test_a_change_counts_within_a_second",),
    "an upgrade breaks the start": (
        "admin_api/test_migration.py::test_the_command_says_what_it_did",
        "proxy/test_catalog.py::test_a_record_of_another_release_does_no_harm",
    ),
    "another route escapes the budget": (
        "admin_api/chat/test_endpoints.py::test_tokens_run_out",
        "proxy/test_completions.py::test_what_costs_money_is_for_those_who_pay",
    ),
    "a negative price credits the caller": (
        "proxy/test_costs.py::test_a_variable_price_is_the_providers_word_or_unknown",
        "proxy/core/test_bill.py::test_nonsense_is_no_usage_record",
        "test_third_party.py::test_a_negative_price_is_none",
    ),
    "there is a default administrator": ("proxy/test_server.py::test_the_first_admin_is_made_at_the_start",),
    "one document for a whole chat slows it": (
        "admin_api/chat/test_turns.py::test_a_turn_is_stored_as_it_is_answered",
    ),
}


def functions_of(path: Path) -> set[str]:
    """Return the names of a file's functions."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


@pytest.mark.parametrize("complaint", COVERED)
def test_a_complaint_has_its_tests(complaint: str) -> None:
    """The tests that are said to cover a complaint exist."""
    for place in COVERED[complaint]:
        file, _, name = place.partition("::")
        assert name in functions_of(TESTS / file), place
