"""When failures are the job's: over half of at least twenty questions, all of one kind."""

import pytest

from rag_ops.errors import JobError
from rag_ops.questions.failures import MODEL_FAILED, NO_HIT, NOT_ENCODED, Failures, is_of_model

BOOM = f"{MODEL_FAILED} (RuntimeError: boom at place {{}})"


def counted(*errors: str | None) -> Failures:
    failures = Failures()
    failures.add(errors)
    return failures


@pytest.mark.parametrize(
    "errors",
    [
        [],
        [BOOM] * 19,  # too few questions to say anything
        [BOOM] * 10 + [None] * 10,  # half is not over half
        [BOOM] * 10 + [f"{MODEL_FAILED} (IndexError: no place)"] * 10,  # two different faults
        [BOOM] * 10 + [f"{NOT_ENCODED} (RuntimeError: boom)"] * 10,  # in two models
        [BOOM] * 19 + [NO_HIT] * 40,  # what found no passage was not asked
        [NO_HIT] * 40,
    ],
)
def test_what_is_no_fault_of_the_model_as_a_whole_passes(errors):
    counted(*errors).check()


@pytest.mark.parametrize(
    ("errors", "message"),
    [
        (
            [BOOM.format(n) for n in range(11)] + [None] * 9,
            "the model failed alike on 11 of 20 questions: 'the model failed (RuntimeError: boom at place 0)'",
        ),
        (
            [f"{NOT_ENCODED} (its vector is not finite)"] * 21 + [None],
            "21 of 22 questions: 'the question cannot be enc",
        ),
        ([f"{MODEL_FAILED} (its scores are not numbers)"] * 25 + [NO_HIT] * 99, "on 25 of 25 questions"),
    ],
)
def test_over_half_of_the_questions_that_reached_the_model_fail_the_job_in_one_line(errors, message):
    with pytest.raises(JobError) as error:
        counted(*errors).check()
    assert message in str(error.value)
    assert "--keep_going" in str(error.value)
    assert "\n" not in str(error.value)


def test_only_the_models_failures_are_its_own():
    assert is_of_model(BOOM)
    assert is_of_model(f"{NOT_ENCODED} (ValueError: no)")
    assert not any(map(is_of_model, (None, NO_HIT, "the question is empty")))
