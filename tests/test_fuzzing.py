"""Random question files and dumps, some hundred of each; `python -m tests.benchmarks fuzz` runs 200,000."""

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests import fuzzing

CASES = 300
CALM = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture]


@pytest.mark.parametrize("check", [fuzzing.check_question_case, fuzzing.check_dump_case])
def test_no_row_and_no_page_is_lost_and_nothing_but_an_input_error_is_raised(check, tmp_path):
    kinds = {check(random.Random(seed), tmp_path) for seed in range(CASES)}
    assert any(kind.endswith("refused") for kind in kinds)
    assert any(kind.endswith(" read") for kind in kinds)


@settings(max_examples=60, deadline=None, suppress_health_check=CALM)
@given(draw=st.randoms(use_true_random=False))
@pytest.mark.parametrize("check", [fuzzing.check_question_case, fuzzing.check_dump_case])
def test_nor_where_hypothesis_looks_for_one(check, draw, tmp_path):
    check(draw, tmp_path)


def test_a_reader_that_loses_a_row_would_be_found(tmp_path, monkeypatch):
    real = fuzzing.read_questions
    monkeypatch.setattr(fuzzing, "read_questions", lambda *arguments: list(real(*arguments))[:-1])

    def twenty_cases() -> None:
        for seed in range(20):
            fuzzing.check_question_case(random.Random(seed), tmp_path)

    with pytest.raises(fuzzing.LostError):
        twenty_cases()
