"""Helpers of the pipeline tests: a small corpus, and the command line run in this process."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.cli import main
from rag_ops.storage import store
from rag_ops.storage.manifests import read_manifest
from rag_ops.storage.parquet import write_parquet
from rag_ops.storage.stages import StageOutput, write_shard
from schemas import answers, embeddings, passages
from schemas.layout import ANSWER, STAGES

CORPUS = (("passages", "chunk"), ("embeddings", "embed"))
TOPICS = ["moon", "sun", "river", "king", "city", "war", "ice"]


def write_articles(path: Path, count: int = 30, words: int = 120) -> None:
    """A JSONL file of articles of different lengths; article n speaks of topic n modulo 7 and of its own number."""
    with path.open("w") as file:
        for number in range(count):
            topic = TOPICS[number % 7]
            body = f"the {topic} {number} is in the river " * (1 + words * (number % 5) // 35)
            file.write(json.dumps({"id": number, "title": f"{topic} {number}", "text": body.strip()}) + "\n")


def write_questions(path: Path, extra: list[dict] | None = None) -> list[dict]:
    """A JSONL file of questions with a duplicate and an empty one; returns its rows."""
    rows = [
        {"id": f"q{n}", "question": f"what is the {topic} {n}", "answer": [topic]} for n, topic in enumerate(TOPICS)
    ]
    rows += [{"id": "again", "question": rows[0]["question"]}, {"id": "empty", "question": "  "}, *(extra or [])]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return rows


def ragbeam(*arguments: object) -> None:
    """Runs a command that must succeed."""
    assert main([str(argument) for argument in arguments]) == 0


def chunked(directory: Path, count: int, num_shards: int) -> Path:
    """The passages of so many articles, in a directory of their own."""
    write_articles(directory / "articles.jsonl", count=count)
    ragbeam("chunk", "--input", directory / "articles.jsonl", "--output", directory / "p", "--num_shards", num_shards)
    return directory / "p"


def arguments_of(name: str, place: object, encoder: object, model: object, generator: object = "") -> list[object]:
    """A command that reads files and stages of a directory and models, without its output.

    Args:
        name: the command's name.
        place: directory or URL with articles.jsonl, questions.jsonl, wiki.parquet and the folders of the stages.
        encoder, model, generator: directories or URLs of an encoder, a RAG-Token model and a generator.
    """
    articles, questions, index = f"{place}/articles.jsonl", f"{place}/questions.jsonl", f"{place}/index"
    more: dict[str, list[object]] = {
        "chunk": ["--input", articles],
        "embed": ["--passages", f"{place}/passages", "--encoder", encoder, "--threads", 1],
        "index": ["--embeddings", f"{place}/embeddings", "--threads", 1],
        "answer": ["--questions", questions, "--index", index, "--model", model, "--threads", 1],
        "search": ["--questions", questions, "--index", index, "--question_encoder", encoder, "--threads", 1],
        "evaluate": ["--answers", f"{place}/answers"],
        "diff": [f"{place}/answers", f"{place}/answers"],
        "run": ["--input", articles, "--encoder", encoder, "--questions", questions, "--model", model],
        "verify": [place],
        "demo": ["--encoder", encoder, "--questions", questions, "--model", model],
        "compose": ["--question_encoder", encoder, "--generator", generator],
        "finetune": ["--model", model, "--index", index, "--train", questions, "--max_steps", 1, "--threads", 1],
        "import": ["--format", "wiki_dpr", "--input", f"{place}/wiki.parquet"],
        "export": ["--index", index],
        "plan": ["--passages", f"{place}/passages"],
    }
    return [name, *more[name]]


def instead(command: Sequence[object], flags: Sequence[object]) -> list[object]:
    """A command line in which flags with their values take the place of its own."""
    given, kept, replaced = {str(flag).partition("=")[0] for flag in flags}, list[object](), False
    for part in command:
        if str(part).startswith("--"):
            replaced = part in given
        kept += [part] * (not replaced)
    return [*kept, *flags]


def fails(capsys, *arguments: object) -> tuple[int, str]:
    """Runs a command that must fail; returns its exit code and the one line that it wrote to stderr."""
    capsys.readouterr()
    code = main([str(argument) for argument in arguments])
    lines = [line for line in capsys.readouterr().err.splitlines() if line]
    errors = [line for line in lines if line.startswith("ragbeam: error:")]
    assert len(errors) == 1, lines
    assert "Traceback" not in "\n".join(lines)
    return code, errors[0]


def digests(url: object, stage: str) -> list[tuple[str, str]]:
    """Name and SHA-256 of every shard of a stage, computed anew from the files."""
    found = []
    for shard in read_manifest(str(url), stage).shards:
        data = store.open_read(store.join(str(url), shard.path)).read()
        assert hashlib.sha256(data).hexdigest() == shard.sha256
        found.append((shard.path, shard.sha256))
    return found


def write_corpus(
    directory: Path, shards: Sequence[np.ndarray | Callable[[], np.ndarray]], normalize: bool, **more: object
) -> None:
    """Passages and embeddings as chunk and embed would leave them, with given vectors, (rows, dimension) a shard.

    `more` is what the manifest of the embeddings says besides.
    """
    outputs = [StageOutput(str(directory / name), stage, {}, {}) for name, stage in CORPUS]
    for output in outputs:
        output.begin(False)
    records: list[list] = [[], []]
    row = 0
    for number, given in enumerate(shards):
        vectors = given() if callable(given) else given
        ids = [str(row + n) for n in range(len(vectors))]
        hashes = pa.array([hashlib.sha256(name.encode()).digest()[:16] for name in ids], pa.binary(16))
        columns = {
            "id": ids,
            "article_id": ids,
            "position": [0] * len(ids),
            "title": ids,
            "text": [f"passage {name}" for name in ids],
            "content_hash": hashes,
            "section": [""] * len(ids),
            "kind": ["prose"] * len(ids),
        }
        tables = [
            pa.table({name: columns[name] for name in passages.SCHEMA.names}, schema=passages.SCHEMA),
            embeddings.table(pa.chunked_array([hashes]), vectors, str(vectors.dtype)),
        ]
        for (_, stage), output, table, done in zip(CORPUS, outputs, tables, records, strict=True):
            name = STAGES[stage].shard(number, len(shards))
            done.append(
                write_shard(
                    *(output.url, name, "f" * 32),
                    lambda file, t=table: write_parquet(file, iter([t]), t.schema, 1000),
                )
            )
        row += len(vectors)
    dimension, dtype = vectors.shape[1], str(vectors.dtype)
    made = outputs[0].finish(records[0], {}, {})
    info = {"dimension": dimension, "dtype": dtype, "normalize": normalize, "passages_digest": made.digest}
    info |= {"encoder": "none", "encoder_digest": "0" * 32, "pooling": "pooler", **more}
    outputs[1].finish(records[1], {"passages": outputs[0].url}, info)


def write_wiki(path: Path, vectors: Sequence[Sequence[float]] = ((1.0,) * 16, (2.0,) * 16)) -> None:
    """A Parquet file as the wiki_dpr dataset has them, of a passage for each vector."""
    columns = {name: [str(number) for number in range(len(vectors))] for name in ("id", "title", "text")}
    pq.write_table(pa.table({**columns, "embeddings": vectors}), path)


def answer_row(question_id: str, question: str, answer: str | None, gold: list[str] | None, **more) -> dict:
    """A row of answers, without passages unless they are given."""
    row = dict.fromkeys(answers.SCHEMA.names) | {"question_id": question_id, "question": question, "answer": answer}
    row |= {"gold_answers": gold, "model_digest": "m", "index_digest": "i", "passages": [], "truncated": False}
    return row | more


def write_answers(directory: Path, rows: list[dict], n_docs: int = 5, row_group_rows: int = 100, **config) -> str:
    """An output directory of answer that holds `rows`, in two shards; returns its URL."""
    settings = {"n_docs": n_docs, "model_digest": "m", "reading": {}, **config}
    output = StageOutput(str(directory), "answer", settings, {})
    output.begin(False)
    half = len(rows) // 2
    records = []
    for number, part in enumerate((rows[:half], rows[half:])):
        table = pa.Table.from_pylist(part, schema=answers.SCHEMA)
        records.append(
            write_shard(
                *(output.url, ANSWER.shard(number, 2), output.fingerprint),
                lambda file, t=table: write_parquet(file, iter([t]), t.schema, row_group_rows),
            )
        )
    output.finish(records, {"index": "../index"}, {"errors": {}})
    return output.url
