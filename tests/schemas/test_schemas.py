"""The Arrow schemas hold what their stages promise."""

import pyarrow as pa
import pytest

from schemas import answers, embeddings, passages


def test_content_hash_depends_on_where_title_ends():
    assert passages.content_hash("a", "bc") != passages.content_hash("ab", "c")
    assert len(passages.content_hash("", "")) == passages.CONTENT_HASH_BYTES


@pytest.mark.parametrize(("dtype", "numbers"), [("float16", pa.float16()), ("float32", pa.float32())])
def test_vectors_are_fixed_size_lists(dtype, numbers):
    kind = embeddings.schema(768, dtype).field("vector").type
    assert kind.list_size == 768
    assert kind.value_type == numbers


def test_answers_have_the_promised_columns():
    promised = {
        "question_id",
        "question",
        "answer",
        "score",
        "passages",
        "model_digest",
        "index_digest",
        "truncated",
        "error",
    }
    assert promised <= set(answers.SCHEMA.names)
    assert [field.name for field in answers.PASSAGE] == ["id", "title", "section", "text", "score", "posterior"]


def test_an_error_row_needs_no_answer():
    row = dict.fromkeys(answers.SCHEMA.names) | {
        "question_id": "q",
        "question": "",
        "model_digest": "m",
        "index_digest": "i",
        "error": "the question is empty",
    }
    assert pa.Table.from_pylist([row], schema=answers.SCHEMA).num_rows == 1
