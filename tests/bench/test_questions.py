"""Tests of bench/questions.py."""

from __future__ import annotations

import re

from bench import questions
from bench.questions import Subject
from tests.test_endpoints import ENDPOINTS


def test_everything_that_reads_is_asked() -> None:
    """Every GET endpoint is among the questions, and every question is one of those."""
    subject = Subject(user="u1", session="s1", request="r1", model="maker/model")
    asked = [
        path.partition("?")[0]
        for ask in (questions.of_user, questions.of_key, questions.of_admin)
        for path in ask(subject)
    ]
    asked += questions.of_nobody()
    templates = [endpoint.removeprefix("GET ") for endpoint in ENDPOINTS if endpoint.startswith("GET ")]
    found = {path: [template for template in templates if matches(template, path)] for path in asked}
    assert all(found.values())
    assert {template for each in found.values() for template in each} == set(templates)


def matches(template: str, path: str) -> bool:
    return re.fullmatch(re.sub(r"\\\{\w+\\\}", "[^/]+(?:/model)?", re.escape(template)), path) is not None
