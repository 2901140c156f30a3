"""The description is true: what is made from it is understood, what breaks it is refused, and answers are what it says."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis import Case, GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from phasewise.live.openapi import description
from serving import MODEL, Board, Reads, in_a_thread, says

SCHEMA = schemathesis.openapi.from_dict(description(MODEL, locked=False))
OPERATIONS = [result.ok() for result in SCHEMA.get_all_operations()]
UNREAD = ("invalid_json", "invalid_utf8", "invalid_value")  # the codes of bodies that could not be decoded


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, requests.Session]]:
    with in_a_thread(lambda: Board(says("Hello!"), tools=Reads)) as (port, _), requests.Session() as session:
        yield f"http://127.0.0.1:{port}", session


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda o: o.label)
@pytest.mark.parametrize("mode", GenerationMode)
def test_what_is_described_is_so(operation, mode: GenerationMode, server: tuple[str, requests.Session]) -> None:  # type: ignore[no-untyped-def]
    url, session = server
    if mode is GenerationMode.NEGATIVE and operation.method == "get":
        pytest.skip("nothing in it can be wrong")

    @seed(5)
    @settings(
        max_examples=15, deadline=None, database=None, phases=(Phase.generate,), suppress_health_check=list(HealthCheck)
    )
    @given(operation.as_strategy(generation_mode=mode))
    def looks(case: Case) -> None:
        answer = case.call_and_validate(base_url=url, session=session, excluded_checks=[positive_data_acceptance])
        if mode is GenerationMode.POSITIVE and answer.status_code == 400:
            # It may ask for what cannot be had (two prompts in one), but is never misread. JSON schemas take 1.0 for 1.
            error = answer.json()["error"]
            assert error["code"] not in UNREAD or "got `float`" in error["message"], error

    looks()
