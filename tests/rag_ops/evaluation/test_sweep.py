"""Tests of sweep: what is refused before a model is loaded; its answers are tested with the command's."""

import pytest

from rag_ops.errors import InputError
from rag_ops.evaluation.figures import AnswerSet
from rag_ops.evaluation.sweep import Sweep
from tests.pipelines.workspace import answer_row, write_answers


@pytest.fixture
def answers(tmp_path) -> AnswerSet:
    return AnswerSet.open(write_answers(tmp_path / "a", [answer_row("1", "what", "ice", ["ice"])] * 2, 3, retrieve=8))


def test_more_passages_than_are_kept_are_refused(answers, tiny_rag):
    with pytest.raises(InputError, match=r"--sweep wants more.*9.*at most 8.*--retrieve 9"):
        Sweep(answers, [1, 9], tiny_rag)


def test_another_model_is_refused(answers, tiny_rag):
    with pytest.raises(InputError, match="not the one that gave the answers"):
        Sweep(answers, [1, 8], tiny_rag)
