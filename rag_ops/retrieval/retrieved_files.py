"""Files of passages that another search found: TREC runs, Parquet of ragbeam search, JSON of DPR and Pyserini."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from rag_ops.errors import InputError
from rag_ops.questions.columns import ANSWER_NAMES, ID_NAMES, QUESTION_NAMES, QuestionOptions, choose, plain
from rag_ops.questions.files import FIRST_ROWS, NO_OBJECT, NOT_JSON, SHOWN_CHARS, Row
from rag_ops.questions.gold_answers import as_text
from rag_ops.questions.reading import question_of
from rag_ops.questions.text_lines import decoded_lines, decoded_text, peeked
from rag_ops.storage import compression, json_documents, store
from rag_ops.storage.parquet import open_given_parquet

FORMS = (
    "the output of ragbeam search, a TREC run (question Q0 passage rank score tag), or JSON as DPR and Pyserini write "
    "it (question, answers, ctxs)"
)
RUN, PARQUET, JSON = "run", "parquet", "json"
RUN_CELLS = 6
BATCH_ROWS = 1000
# Names as `plain` writes them, in order of preference.
QUESTION_ID = tuple(name for name in ID_NAMES if name != "id")
PASSAGE_ID = ("passageid", "docid", "docno", "pid", "psgid", "id")
CONTEXTS = ("ctxs", "contexts")
TEXT = ("text", "contents", "content")
_PARQUET_MAGIC = b"PAR1"
_BY_QUESTION = re.compile(rf'\{{\s*"(?:[^"\\]|\\.)*"\s*:\s*\{{\s*"(?:question|query|answers|{"|".join(CONTEXTS)})"\s*:')
_RANK = re.compile(r"[+-]?[0-9]{1,18}")  # what 64 bits hold
_TITLE_LINE = re.compile(r'"([^\n]*)"\n')  # how the texts of Pyserini's indexes of Wikipedia begin


@dataclasses.dataclass(frozen=True, slots=True)
class Hit:
    """A passage of a question, as a file has it.

    Attributes:
        question_id: id of the question.
        rank: its rank; smaller is better.
        line: number of its line or row in the files, which decides between equal ranks and scores.
        passage_id: id of the passage; "" if there is none.
        score: score on the file's scale; None if there is none.
        title, section, text: what the file has of them; text is None if it has none.
        problem: why it cannot be read, or None.
    """

    question_id: str
    rank: int
    line: int
    passage_id: str
    score: float | None
    title: str = ""
    section: str = ""
    text: str | None = None
    problem: str | None = None


Record = tuple[str, Row, list[Hit]]  # file and place, a question as the file has it, its passages


def kind_of(url: str) -> str:
    """What a file is, by its content: `RUN`, `PARQUET` or `JSON`.

    Raises:
        InputError: none of these.
    """
    with store.open_read(url) as raw:
        magic = raw.read(len(_PARQUET_MAGIC))
        if magic == _PARQUET_MAGIC:
            return PARQUET
        raw.seek(0)
        with compression.whole(url):
            head = peeked(compression.decompressed(raw, url))[0]
    first = next((line for line in head.splitlines() if line.strip()), "")
    if first.lstrip()[:1] in ("{", "["):
        return JSON
    if _run_hit(first, 0) is not None:
        return RUN
    raise InputError(
        "a file of --retrieved is none that ragbeam knows",
        value=f"{url} begins with {first[:60].strip()!r}" if first else f"{url}, which is empty",
        expected=FORMS,
    )


def tag_of(url: str) -> str:
    """The tag of a TREC run: the last cell of its first line."""
    with store.open_read(url) as raw:
        head = peeked(compression.decompressed(raw, url))[0]
    return _cells(next(line for line in head.splitlines() if line.strip()))[-1].strip()


def run_hits(url: str) -> Iterator[Hit]:
    """Yields the lines of a TREC run.

    Raises:
        InputError: a line is no ranked passage, or the file is damaged.
    """
    with store.open_read(url) as raw, compression.whole(url):
        for number, line in enumerate(decoded_lines(compression.decompressed(raw, url), url), 1):
            if not line.strip():
                continue
            if (hit := _run_hit(line, number)) is None:
                raise InputError(
                    "a line of a TREC run is no ranked passage",
                    value=f"{url}, line {number}: {line[:60].strip()}",
                    expected="question Q0 passage rank score tag",
                )
            yield hit


def _cells(line: str) -> list[str]:
    """The cells of a line of a run; those with tabs between them may hold spaces."""
    cells = line.rstrip("\n").split("\t")
    return cells if len(cells) == RUN_CELLS else line.split(None, RUN_CELLS - 1)


def _run_hit(line: str, number: int) -> Hit | None:
    cells = _cells(line)
    if len(cells) != RUN_CELLS:
        return None
    rank, score = cells[3].strip(), _number(cells[4])
    if score is None or not _RANK.fullmatch(rank):
        return None
    return Hit(cells[0].strip(), int(rank), number, cells[2].strip(), score)


def json_records(url: str, reading: QuestionOptions) -> Iterator[Record]:
    """Yields the questions of a JSON file with their passages: an array, an object a line, or one by question id.

    Raises:
        InputError: no object among the first has passages, or the file is damaged.
    """
    with store.open_read(url) as raw, compression.whole(url):
        head, stream = peeked(compression.decompressed(raw, url))
        objects: Iterable[tuple[int, Any, str]]
        if _BY_QUESTION.match(head.lstrip()):
            members = json_documents.members(decoded_text(stream), url)
            objects = ((number, _with_id(name, value), "") for number, (name, value) in enumerate(members, 1))
        elif json_documents.is_document(head):
            elements = json_documents.elements(decoded_text(stream), url)
            objects = ((number, value, "") for number, value in enumerate(elements, 1))
        else:
            objects = _lines(decoded_lines(stream, url))
        objects = iter(objects)
        first = list(itertools.islice(objects, FIRST_ROWS))
        names = list(dict.fromkeys(name for _, value, _ in first if isinstance(value, dict) for name in value))
        contexts = _named(names, CONTEXTS)
        if contexts is None:
            raise InputError(
                "JSON of --retrieved has no passages",
                value=f"{url} has {', '.join(names)[:200] or 'no objects'}",
                expected="question, answers and ctxs, a list of objects with id, title, text and score",
            )
        columns = choose(url, names, reading, keys=True)
        for number, value, line in itertools.chain(first, objects):
            where = f"{store.name_of(url)}:{number}"
            if isinstance(value, dict):
                row = Row(number, columns.id_of(value), value.get(columns.question), columns.answers_of(value))
                question_id = question_of(where, row).question_id
                yield where, row, list(_contexts(question_id, number, value.get(contexts)))
            else:
                problem = value if isinstance(value, str) and line else f"{NO_OBJECT} ({type(value).__name__})"
                yield where, Row(number, None, line[:SHOWN_CHARS], None, problem), []


def _lines(lines: Iterable[str]) -> Iterator[tuple[int, Any, str]]:
    """Yields number and value of each line, and the line; of one that is no JSON the value is what is wrong with it."""
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                yield number, json.loads(line, strict=False), ""
            except (ValueError, RecursionError) as error:
                yield number, f"{NOT_JSON} ({getattr(error, 'msg', 'nested too deeply')})", line


def _with_id(name: str, value: Any) -> Any:
    return {"id": name, **value} if isinstance(value, dict) else value


def _contexts(question_id: str, line: int, values: Any) -> Iterator[Hit]:
    """Yields the passages of a question, in the list's order."""
    if values is not None and not isinstance(values, list):
        yield Hit(question_id, 0, line, "", None, problem=f"the passages are no list ({type(values).__name__})")
        return
    for place, value in enumerate(values or (), 1):
        if not isinstance(value, dict):
            no_object = f"a passage is no JSON object ({type(value).__name__})"
            yield Hit(question_id, place, line, "", None, problem=no_object)
            continue
        by_name = {plain(name): member for name, member in value.items()}
        title, section, text = by_name.get("title"), by_name.get("section"), _first(by_name, TEXT)
        wrong = [one for one in (title, section, text) if one is not None and not isinstance(one, str)]
        problem = f"a passage's text is no text ({type(wrong[0]).__name__})" if wrong else None
        if title is None and isinstance(text, str) and (begins := _TITLE_LINE.match(text)):
            title, text = begins[1], text[begins.end() :]
        passage_id, score = as_text(_first(by_name, PASSAGE_ID)), _number(by_name.get("score"))
        texts = [encodable(one) if isinstance(one, str) else None for one in (title, section, text)]
        yield Hit(
            question_id, place, line, encodable(passage_id), score, texts[0] or "", texts[1] or "", texts[2], problem
        )


def _first(by_name: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((by_name[name] for name in names if by_name.get(name) is not None), None)


def _number(value: Any) -> float | None:
    """A score: a number, or a text that is one, as DPR writes them; else None. Python's 1_0 is no number of others."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)) or (isinstance(value, str) and "_" in value):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def encodable(text: str) -> str:
    """A text with what UTF-8 cannot hold, which JSON can write, replaced."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def parquet_records(url: str, reading: QuestionOptions) -> Iterator[Record]:
    """Yields the questions of a Parquet file, a row a passage, with their passages; rows of a question stand together.

    Raises:
        InputError: it has no question, or no ids of passages, or is damaged.
    """
    names = _names(url)
    question = reading.question_column or _named(names, QUESTION_NAMES)
    if question not in names:
        raise InputError(
            "Parquet of --retrieved does not have the questions' texts",
            value=f"{url} has {', '.join(names)}",
            expected=question or "a column question",
            remedy="give the question files with --questions",
        )
    answers = reading.answer_column or _named(names, ANSWER_NAMES)
    row: Row | None = None
    hits: list[Hit] = []
    for hit, cells in _rows(url, names):
        begins = row is None or hit.question_id != hits[0].question_id or hit.rank <= hits[-1].rank
        if begins and row is not None:
            yield f"{store.name_of(url)}:{row.number}", row, [hit for hit in hits if hit.rank >= 0 or hit.problem]
        if begins:
            row, hits = Row(hit.line, hit.question_id, cells[question], cells[answers] if answers else None), []
        hits.append(hit)
    if row is not None:
        yield f"{store.name_of(url)}:{row.number}", row, [hit for hit in hits if hit.rank >= 0 or hit.problem]


def parquet_hits(url: str) -> Iterator[Hit]:
    """Yields the rows of a Parquet file of passages; those of questions without any are left out.

    Raises:
        InputError: it has no ids of questions or of passages, or is damaged.
    """
    return (hit for hit, _ in _rows(url, _names(url)) if hit.rank >= 0 or hit.problem)


def _names(url: str) -> list[str]:
    with open_given_parquet(url) as parquet:
        return list(parquet.schema_arrow.names)


def _rows(url: str, names: Sequence[str]) -> Iterator[tuple[Hit, dict[str, Any]]]:
    """Yields each row as a hit and as cells by name. A row without a passage has rank -1."""
    wanted = {"question_id": QUESTION_ID, "passage_id": PASSAGE_ID, "rank": ("rank",), "score": ("score",)}
    wanted |= {"title": ("title",), "section": ("section",), "text": TEXT, "error": ("error",)}
    columns = {field: _named(names, known) for field, known in wanted.items()}
    if missing := [field for field in ("question_id", "passage_id") if columns[field] is None]:
        raise InputError(
            f"Parquet of --retrieved lacks the column {missing[0]}",
            value=f"{url} has {', '.join(names) or 'no columns'}",
            expected="a row for each passage: question_id, rank, passage_id, title, text, score",
        )
    number = place = 0
    before = None
    for batch in _batches(url):
        for cells in batch.to_pylist():
            number += 1
            one = {field: cells[name] if name else None for field, name in columns.items()}
            question_id = as_text(one["question_id"])
            place, before = 1 if question_id != before else place + 1, question_id
            rank = one["rank"] if isinstance(one["rank"], int) else place if columns["rank"] is None else -1
            if one["passage_id"] is None:
                rank = -1
            texts = [as_text(one[field]) for field in ("passage_id", "title", "section")]
            text = one["text"] if isinstance(one["text"], str) else None
            problem = one["error"] if isinstance(one["error"], str) else None
            hit = Hit(question_id, rank, number, texts[0], _number(one["score"]), texts[1], texts[2], text, problem)
            yield hit, cells


def _batches(url: str) -> Iterator[pa.RecordBatch]:
    with open_given_parquet(url) as parquet:
        yield from parquet.iter_batches(BATCH_ROWS)


def _named(names: Sequence[str], known: Sequence[str]) -> str | None:
    """The first of some names that is one of the known ones, in their order."""
    by_name = {plain(name): name for name in reversed(names)}
    return next((by_name[name] for name in known if name in by_name), None)
