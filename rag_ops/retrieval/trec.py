"""TREC runs: a line for each passage of each question, with question id, Q0, passage id, rank, score and a tag."""

from __future__ import annotations

from collections.abc import Iterator

from rag_ops.errors import InputError
from rag_ops.retrieval.score_origin import run_tag
from rag_ops.storage import store
from rag_ops.storage.compression import COMPRESSIONS
from rag_ops.storage.parquet import open_parquet
from schemas.manifest import Manifest

FIRST_BYTES, CELLS = 4096, 6  # of a run's first line
COLUMNS = ["question_id", "passage_id", "rank", "score"]


def write_run(url: str, manifest: Manifest, path: str) -> int:
    """Writes the hits of a finished search as a TREC run; returns the number of its lines.

    A score has all its digits, so that reading it as a number gives the same one; lines of a question are in order of
    rank. A question without passages has no line. Of rows with the same question id the first counts, for a run can't
    tell them apart.

    Args:
        url: output directory of search.
        manifest: its manifest.
        path: URL of the file to write.

    Raises:
        InputError: an id has white space in it, or two different questions have one id.
    """
    count = 0
    with store.write_stream(path) as file:
        for line in _lines(url, manifest):
            file.write(line.encode())
            count += 1
    return count


def check_place(path: str) -> None:
    """Checks that a run may be written: nothing is there, or a run, whose first line shows it.

    Raises:
        InputError: another file is there, or a directory, or the name is that of a compressed file.
    """
    if path.lower().endswith(COMPRESSIONS):
        raise InputError(
            "--trec is written as plain text", value=path, expected=f"a name without {' or '.join(COMPRESSIONS)}"
        )
    if store.is_directory(path):
        raise InputError("--trec is a directory", value=path, expected="a file")
    if not store.exists(path):
        return
    with store.open_read(path) as file:
        first = file.read(FIRST_BYTES).split(b"\n")[0].split()
    if first and (len(first) != CELLS or first[1] != b"Q0"):
        raise InputError(
            "--trec is a file that is no run", value=path, expected="a new file", remedy="give another, or move it away"
        )


def _lines(url: str, manifest: Manifest) -> Iterator[str]:
    written: dict[str, int] = {}  # a digest of the question by its id
    current: tuple[str, int] | None = None
    tag = run_tag(manifest)
    for shard in manifest.shards:
        with open_parquet(store.join(url, shard.path), shard.rows) as parquet:
            for batch in parquet.iter_batches(columns=[*COLUMNS, "question"]):
                for row in batch.to_pylist():
                    question_id, rank, asked = row["question_id"], row["rank"], hash(row["question"])
                    if rank is None:
                        continue
                    if rank == 1:
                        current = None
                        if question_id not in written:
                            current, written[question_id] = (question_id, asked), asked
                            _check_id("question", question_id, url)
                        elif written[question_id] != asked:
                            raise InputError(
                                "two different questions have one id, which a TREC run can't tell apart",
                                value=question_id,
                                expected="an id for each question",
                                remedy=f"give them other ids, or leave out --trec: the passages are in {url}",
                            )
                    if current is not None:
                        _check_id("passage", row["passage_id"], url)
                        yield f"{question_id} Q0 {row['passage_id']} {rank} {row['score']!r} {tag}\n"


def _check_id(what: str, value: str, url: str) -> None:
    if not value or len(value.split()) != 1 or value != value.strip():
        raise InputError(
            f"a TREC run has no place for the id of a {what}",
            value=value,
            expected="an id without white space",
            remedy=f"leave out --trec: the passages are in {url}",
        )
