"""Cuts question files into blocks: each distinct question once, a few hundred to a block, with all its rows."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa

from rag_ops.errors import JobError
from rag_ops.questions.failures import Failures, is_of_model
from rag_ops.questions.found import Found
from rag_ops.questions.reading import Question
from rag_ops.storage import store
from rag_ops.storage.parquet import read_parquet, write_parquet
from schemas import answers, questions

BLOCK_BYTES = 4 << 20  # a block of very long questions ends early, so that a block's memory is bounded
FOUND_BYTES = 64 << 20  # likewise of passages found elsewhere: hundreds of questions, each with a hundred passages
MAX_SHARDS = 256  # most answer shards: parts of one question file are read by each, so more would mean many tiny reads
DIGEST_BYTES = 16
RESULT_NAME = re.compile(r"result-\d{5,}\.parquet")


@dataclasses.dataclass(frozen=True)
class Block:
    """A block of distinct questions: its number, the number of questions, and a digest of their texts, in order."""

    number: int
    questions: int
    digest: str


@dataclasses.dataclass(frozen=True)
class Prepared:
    """The result of `prepare`: its blocks in order, and how many rows there are.

    `errors` have an error; of `notes` the gold answers could not be read, and `first_note` says why of the first.
    """

    blocks: tuple[Block, ...]
    rows: int
    errors: int
    notes: int = 0
    first_note: str | None = None


# Names of the files of a block by its number: its questions, passages found elsewhere for them, the rows read while it
# filled up, its results.
block_name = "block-{:05d}.parquet".format
found_name = "found-{:05d}.parquet".format
rows_name = "rows-{:05d}.parquet".format
result_name = "result-{:05d}.parquet".format


def prepare(source: Iterable[Question], directory: str, block_questions: int) -> Prepared:
    """Writes the questions of all files, read once and streamed, as blocks and rows.

    A distinct question goes to the block that is open when it first comes; later rows with its text refer to it. Two
    for which different passages were found are not the same.
    Memory is one block, of at most `block_questions`, with its passages of at most `FOUND_BYTES` and those of one
    question more; and some 200 bytes a distinct question.
    """
    seen: dict[bytes, tuple[int, int]] = {}
    blocks: list[Block] = []
    texts: list[str] = []
    found: list[tuple[Found, ...] | None] = []
    sets: list[tuple[str, ...] | None] = []
    rows: list[dict[str, object]] = []
    row_count = error_count = note_count = text_bytes = found_bytes = 0
    first_note = None

    def close() -> None:
        nonlocal texts, found, sets, rows, text_bytes, found_bytes
        number = len(blocks)
        table = pa.table({"question": texts, "choices": sets}, schema=questions.BLOCK)
        _write(directory, block_name(number), table)
        _write(directory, rows_name(number), pa.Table.from_pylist(rows, schema=questions.OCCURRENCES))
        if any(passages is not None for passages in found):
            lists = [[dataclasses.asdict(passage) for passage in passages or ()] for passages in found]
            _write(directory, found_name(number), pa.table({"passages": lists}, schema=questions.FOUND))
        digest = hashlib.sha256("\0".join(map(_identity, texts, sets)).encode("utf-8", "surrogatepass")).hexdigest()[
            :32
        ]
        blocks.append(Block(number, len(texts), digest))
        texts, found, sets, rows, text_bytes, found_bytes = [], [], [], [], 0, 0

    for question in source:
        place: tuple[int, int] | tuple[None, None] = (None, None)
        if question.error is None:
            key = _key(question)
            if key not in seen:
                seen[key] = (len(blocks), len(texts))
                texts.append(question.question)
                found.append(question.found)
                found_bytes += sum(len(passage.text or "") for passage in question.found or ())
                sets.append(question.choices)
                text_bytes += sum(map(len, question.choices or ()))
            place = seen[key]
        row_count += 1
        error_count += question.error is not None
        note_count += question.note is not None
        first_note = first_note or question.note
        row = {"question_id": question.question_id, "question": question.question, "error": question.error}
        rows.append({**row, "answers": question.answers, "block": place[0], "position": place[1]})
        text_bytes += len(question.question)
        large = text_bytes >= BLOCK_BYTES or found_bytes >= FOUND_BYTES
        if len(texts) >= block_questions or len(rows) >= 16 * block_questions or large:
            close()
    if rows or not blocks:
        close()
    return Prepared(tuple(blocks), row_count, error_count, note_count, first_note)


def _key(question: Question) -> bytes:
    """What is the same for two rows that are answered once: the text, and the passages found elsewhere for it."""
    key = hashlib.blake2b(_identity(question.question, question.choices).encode(), digest_size=DIGEST_BYTES)
    for passage in question.found or ():
        key.update(repr(dataclasses.astuple(passage)).encode("utf-8", "surrogatepass"))
    return key.digest()


def read_found(directory: str, number: int) -> list[list[Found]]:
    """The passages found elsewhere for the questions of a block, in their order, best first."""
    lists = read_parquet(store.join(directory, found_name(number)))["passages"].to_pylist()
    return [[Found(**passage) for passage in passages] for passages in lists]


def read_questions_of(directory: str, number: int) -> tuple[list[str], list[list[str] | None]]:
    """The questions of a block, in order, and the only answers of each; None for one that may have any."""
    table = read_parquet(store.join(directory, block_name(number)))
    return table["question"].to_pylist(), table["choices"].to_pylist()


def _identity(question: str, choices: Sequence[str] | None) -> str:
    """What makes a question a distinct one: its text, and its choices if it has some."""
    return question if choices is None else "\x1f".join([question, *choices])


def cut_shards(blocks: Sequence[Block], num_shards: int | None) -> list[list[int]]:
    """The numbers of the blocks of each answer shard: consecutive, even, at most `MAX_SHARDS` by default."""
    count = min(len(blocks), num_shards or MAX_SHARDS)
    return [part.tolist() for part in np.array_split(np.arange(len(blocks)), count)]


def join_answers(
    directory: str, results_directory: str, numbers: Sequence[int], digests: dict[str, str]
) -> Iterator[pa.Table]:
    """Yields the final rows of an answer shard, one table for each of its blocks, in the order of the question files.

    Args:
        directory: directory that `prepare` wrote to.
        results_directory: `result_name(n)` for each block n, rows as in the block (schemas.answers.RESULTS).
        digests: `model_digest` and `index_digest`, for every row.
    """
    for number in numbers:
        rows = read_parquet(store.join(directory, rows_name(number)))
        found = gather(results_directory, rows, answers.RESULTS)
        errors = [
            own or result for own, result in zip(rows["error"].to_pylist(), found["error"].to_pylist(), strict=True)
        ]
        columns = {
            "question_id": rows["question_id"],
            "question": rows["question"],
            "gold_answers": rows["answers"],
            **{name: pa.array([digest] * rows.num_rows, pa.string()) for name, digest in digests.items()},
            **{name: found[name] for name in answers.RESULTS.names},
            "error": pa.array(errors, pa.string()),
        }
        yield pa.table([columns[name] for name in answers.SCHEMA.names], schema=answers.SCHEMA)


def failures(directory: str, numbers: Iterable[int]) -> Failures:
    """Counts why questions of some blocks failed in the model, by the results in `directory`; some may have none."""
    counts = Failures()
    there = set(result_names(directory))
    for name in map(result_name, numbers):
        if name in there:
            counts.add(_errors(directory, name))
    return counts


def forget_failures(directory: str) -> bool:
    """Removes the results of blocks with questions that failed in the model, if those fail the job; returns whether.

    The next run asks these blocks again; if the job has another fault, a few such questions are no reason to.
    """
    errors = {name: _errors(directory, name) for name in result_names(directory)}
    counts = Failures()
    counts.add(itertools.chain.from_iterable(errors.values()))
    try:
        counts.check()
    except JobError:
        for name, found in errors.items():
            if any(map(is_of_model, found)):
                store.remove(store.join(directory, name))
        return True
    return False


def result_names(directory: str) -> list[str]:
    """The names of the files of results in a directory, sorted."""
    return [name for name in store.names_in(directory) if RESULT_NAME.fullmatch(name)]


def reason_of(error: str) -> str:
    """The kind of an error: its text without the brackets, which are about the one row.

    >>> reason_of("the question is no text (int, nq.jsonl:7)")
    'the question is no text'
    """
    return error.partition(" (")[0]


def error_counts(directory: str, names: Iterable[str]) -> dict[str, int]:
    """The number of rows with an error in answer shards of a directory, by `reason_of`, sorted."""
    counts: Counter[str] = Counter()
    for name in names:
        counts.update(reason_of(error) for error in _errors(directory, name) if error is not None)
    return dict(sorted(counts.items()))


def abstained_rows(directory: str, names: Iterable[str]) -> int:
    """The number of rows of answer shards whose answer is held back."""
    columns = (read_parquet(store.join(directory, name), ["abstained"])["abstained"] for name in names)
    return sum(len(column) - column.null_count for column in columns)


def truncated_rows(directory: str, names: Iterable[str]) -> int:
    """The number of rows of answer shards whose question or a passage was cut to fit a model."""
    return sum(
        read_parquet(store.join(directory, name), ["truncated"])["truncated"].to_pylist().count(True) for name in names
    )


def gather(directory: str, rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """The results of rows of questions, in their order; nulls for a row that is in no block.

    Args:
        directory: directory with `result_name(n)` for each block n.
        rows: rows as `prepare` wrote them.
        schema: schema of the results.
    """
    blocks, positions = rows["block"].to_pylist(), rows["position"].to_pylist()
    needed = sorted({block for block in blocks if block is not None})
    tables = [read_parquet(store.join(directory, result_name(block))) for block in needed]
    starts = dict(zip(needed, np.cumsum([0, *(table.num_rows for table in tables)]).tolist(), strict=False))
    indices = [
        None if block is None or position is None else starts[block] + position
        for block, position in zip(blocks, positions, strict=True)
    ]
    whole = pa.concat_tables(tables) if tables else schema.empty_table()
    return whole.take(pa.array(indices, pa.int64()))


def _errors(directory: str, name: str) -> list[str | None]:
    return read_parquet(store.join(directory, name), ["error"])["error"].to_pylist()


def _write(directory: str, name: str, table: pa.Table) -> None:
    with store.atomic_write(directory, name) as file:
        write_parquet(file, iter([table]), table.schema)
