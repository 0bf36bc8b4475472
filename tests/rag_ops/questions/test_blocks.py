"""Questions into blocks and back: every row comes out, in order, duplicates answered once."""

import pyarrow as pa

from rag_ops.questions import blocks
from rag_ops.questions.reading import Question
from rag_ops.storage import store
from rag_ops.storage.parquet import read_parquet, write_parquet
from schemas import answers

DIGESTS = {"model_digest": "m", "index_digest": "i"}


def ask(*texts: str) -> list[Question]:
    return [
        Question(f"q{n}", text, ("gold",) if n % 2 else None, None if text else "empty", "")
        for n, text in enumerate(texts)
    ]


def answer_blocks(directory: str, prepared: blocks.Prepared) -> list[str]:
    """Answers every block with its questions in capitals; returns all questions that were answered."""
    asked = []
    for block in prepared.blocks:
        questions = read_parquet(store.join(directory, blocks.block_name(block.number)))["question"].to_pylist()
        asked += questions
        rows = [
            {
                "answer": q.upper(),
                "score": -1.0,
                "passages": [],
                "truncated": False,
                "error": "boom" if q == "bad" else None,
            }
            for q in questions
        ]
        with store.atomic_write(directory, blocks.result_name(block.number)) as file:
            write_parquet(file, iter([pa.Table.from_pylist(rows, schema=answers.RESULTS)]), answers.RESULTS)
    return asked


def join(directory: str, prepared: blocks.Prepared, num_shards: int | None = None) -> list[dict]:
    tables = [
        table
        for numbers in blocks.cut_shards(prepared.blocks, num_shards)
        for table in blocks.join_answers(directory, directory, numbers, DIGESTS)
    ]
    return pa.concat_tables(tables).to_pylist()


def test_rows_come_out_in_order_with_duplicates_across_blocks_answered_once(tmp_path):
    texts = ["a", "b", "a", "", "c", "d", "b", "e", "a", "bad"]
    prepared = blocks.prepare(iter(ask(*texts)), str(tmp_path), block_questions=2)
    asked = answer_blocks(str(tmp_path), prepared)
    assert sorted(asked) == sorted(set(texts) - {""})
    rows = join(str(tmp_path), prepared, num_shards=2)
    assert [row["question_id"] for row in rows] == [f"q{n}" for n in range(10)]
    assert [row["answer"] for row in rows] == ["A", "B", "A", None, "C", "D", "B", "E", "A", "BAD"]
    assert [row["error"] for row in rows] == [None] * 3 + ["empty"] + [None] * 5 + ["boom"]
    assert [row["gold_answers"] for row in rows[:2]] == [None, ["gold"]]
    assert {row["model_digest"] for row in rows} == {"m"}
    assert (prepared.rows, prepared.errors) == (10, 1)


def test_a_file_of_errors_alone_and_an_empty_file(tmp_path):
    prepared = blocks.prepare(iter(ask("", "")), str(tmp_path / "a"), 2)
    answer_blocks(str(tmp_path / "a"), prepared)
    assert [row["error"] for row in join(str(tmp_path / "a"), prepared)] == ["empty", "empty"]
    prepared = blocks.prepare(iter([]), str(tmp_path / "b"), 2)
    answer_blocks(str(tmp_path / "b"), prepared)
    assert join(str(tmp_path / "b"), prepared) == []


def test_a_block_ends_early_when_questions_are_long(tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 100)
    prepared = blocks.prepare(iter(ask(*(f"{n} " * 30 for n in range(10)))), str(tmp_path), 256)
    assert len(prepared.blocks) == 5
    assert sum(block.questions for block in prepared.blocks) == 10


def test_endless_duplicates_do_not_make_an_endless_block(tmp_path):
    prepared = blocks.prepare(iter(ask(*["a"] * 100)), str(tmp_path), 2)
    assert len(prepared.blocks) > 1
    answer_blocks(str(tmp_path), prepared)
    assert [row["answer"] for row in join(str(tmp_path), prepared)] == ["A"] * 100


def test_shards_are_at_most_as_many_as_asked_and_cover_all_blocks():
    many = [blocks.Block(n, 1, "") for n in range(1000)]
    for wanted, expected in ((None, 256), (7, 7), (5000, 1000)):
        cuts = blocks.cut_shards(many, wanted)
        assert len(cuts) == expected
        assert [n for cut in cuts for n in cut] == list(range(1000))
