"""The rehearsal's inputs, the same every time: passages in the form of DPR's psgs_w100.tsv, vectors, models, questions.

Texts are words of the encoder's own vocabulary, as frequent as Zipf has it, so that they take as long to tokenize and
compress about as well as text does.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from transformers import AutoTokenizer

from pipelines.demo import command as demo
from pipelines.embed import job as embed_job
from pipelines.embed.options import EmbedOptions
from rag_ops.models import compose
from rag_ops.retrieval.kinds import kind_of
from rag_ops.storage.manifests import find_manifest, read_manifest
from rag_ops.storage.parquet import read_parquet, write_parquet
from rag_ops.storage.stages import StageOutput, write_shard
from schemas import embeddings, passages
from schemas.layout import CHUNK, EMBED
from schemas.manifest import ShardRecord
from tests.conftest import make_bart, make_sentence_encoder

SEED = 20
DIMENSION = 64
WORDS = 100  # of a passage
BLOCK_ROWS = 1 << 13  # rows made at a time, from a random state of their own
SLOTS = 1 << 18  # of the table of words: a word fills as many as it is frequent
PASSAGES_OF_AN_ARTICLE = 6  # those with one title; 6.5 in psgs_w100
SHARD_ROWS = 102_000  # of a file of passages: what chunk makes of psgs_w100
INDEX_ROWS = 2_000_000  # of an index shard
COMPUTE_DTYPE = "float32"
CENTRES = 4096  # around which vectors lie
QUESTIONS = 3610  # of NQ's test set


def index_shards(rows: int) -> int:
    """The number of index shards for so many vectors."""
    return -(-rows // INDEX_ROWS)


def searched(spec: str, rows: int) -> int:
    """What the time of a search grows with, in an index of so many vectors."""
    return kind_of(spec)(spec, DIMENSION).searched(rows, index_shards(rows))


@functools.cache
def word_table() -> pa.Array:
    """`SLOTS` words: the vocabulary's and, as rare words, two of them in one; some with a mark, some in quotes."""
    tokenizer = AutoTokenizer.from_pretrained(demo.package_path(*demo.ENCODER))
    ids = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])  # BERT's: the more frequent first
    plain = [word for word, _ in ids if word.isascii() and word.isalpha() and len(word) > 1]
    draw = np.random.default_rng(SEED)
    rare = ["".join(pair) for pair in draw.choice(plain, (len(plain), 2)).tolist()]
    words = [*plain, *rare]
    shares = 1 / (np.arange(len(words)) + 2) ** 1.25
    counts = np.maximum(1, np.floor(shares / shares.sum() * (SLOTS - len(words)))).astype(int)
    slots = [word for word, count in zip(words, counts, strict=True) for _ in range(count)]
    slots += draw.choice(plain, SLOTS - len(slots)).tolist()
    marks = draw.choice(["{}", "{},", "{}.", '"{}"'], SLOTS, p=[0.87, 0.06, 0.06, 0.01]).tolist()
    return pa.array([mark.format(word) for mark, word in zip(marks, slots, strict=True)])


def blocks(start: int, end: int) -> Iterator[pa.Table]:
    """Yields rows `start` to `end` of the corpus, with columns id, title and text."""
    for number in range(start // BLOCK_ROWS, -(-end // BLOCK_ROWS)):
        first = number * BLOCK_ROWS
        block = _block(number)
        yield block.slice(max(start - first, 0), min(end - first, BLOCK_ROWS) - max(start - first, 0))


def _block(number: int) -> pa.Table:
    rows = np.arange(BLOCK_ROWS) + number * BLOCK_ROWS
    picks = np.random.default_rng([SEED, number]).integers(0, SLOTS, BLOCK_ROWS * WORDS, np.int32)
    words = pa.ListArray.from_arrays(np.arange(BLOCK_ROWS + 1, dtype=np.int32) * WORDS, word_table().take(picks))
    articles = pc.cast(pa.array(rows // PASSAGES_OF_AN_ARTICLE), pa.string())
    titles = pc.binary_join_element_wise("Article", articles, " ")
    return pa.table(
        {"id": pc.cast(pa.array(rows + 1), pa.string()), "title": titles, "text": pc.binary_join(words, " ")}
    )


def write_tsv(path: Path, rows: int) -> Path:
    """Writes the corpus as psgs_w100.tsv has it: a header, then id, text in quotes, title; returns the path."""
    if path.exists():
        return path
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        file.write(b"id\ttext\ttitle\n")
        for block in blocks(0, rows):
            texts = pc.replace_substring(block["text"], '"', '""')
            quoted = pc.binary_join_element_wise('"', texts, '"', "")
            lines = pc.binary_join_element_wise(block["id"], quoted, block["title"], "\t")
            file.write(pc.binary_join_element_wise(lines, "\n", "").combine_chunks().buffers()[2])
    return temporary.rename(path)


def write_passages(place: Path, rows: int) -> None:
    """Writes passages as chunk's own files and manifest, unless there are some.

    All shards but the last are one file, linked: what is in them, each stage reads anew, and to make it takes a while.
    """
    if find_manifest(str(place)) is not None:
        return
    output = StageOutput(str(place), "chunk", {"rehearsal": rows}, {})
    output.begin(overwrite=False)
    count = -(-rows // SHARD_ROWS)
    names = [CHUNK.shard(number, count) for number in range(count)]

    def write(name: str, size: int) -> ShardRecord:
        tables = map(_as_passages, blocks(0, size))
        fill = functools.partial(write_parquet, batches=tables, schema=passages.SCHEMA)
        return write_shard(output.url, name, output.fingerprint, fill)

    last = write(names[-1], rows - (count - 1) * SHARD_ROWS)
    records = [write(names[0], SHARD_ROWS)] if count > 1 else []
    for name in names[1:-1]:
        (place / name).unlink(missing_ok=True)
        (place / name).hardlink_to(place / names[0])
        records.append(dataclasses.replace(records[0], path=name))
    output.finish([*records, last], {}, {"articles": rows, "dropped": {}, "dropped_titles": {}})


def _as_passages(block: pa.Table) -> pa.Table:
    """A block as chunk's table; content hashes are random, for the texts' own take as long as all the rest."""
    first = int(block["id"][0].as_py())
    width = passages.CONTENT_HASH_BYTES
    noise = pa.py_buffer(np.random.default_rng([SEED, first]).bytes(width * len(block)))
    hashes = pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), len(block), [None, noise])
    whole = {name: block[name] for name in block.column_names}
    whole |= {"article_id": block["id"], "position": np.zeros(len(block), np.int32), "content_hash": hashes}
    whole |= {"section": pa.repeat("", len(block)), "kind": pa.repeat(passages.PROSE, len(block))}
    return pa.table([whole[name] for name in passages.SCHEMA.names], schema=passages.SCHEMA)


@dataclasses.dataclass(frozen=True)
class Models:
    """The directories of a tiny encoder with a real tokenizer, and of a tiny RAG-Token model with it."""

    encoder: str
    model: str

    @classmethod
    def in_directory(cls, place: Path) -> Models:
        """Makes them, unless they are there."""
        parts = place / "encoder", place / "bart", place / "model"
        if not parts[2].exists():
            for part in parts[:2]:
                part.mkdir(parents=True, exist_ok=True)
            tokenizer = AutoTokenizer.from_pretrained(demo.package_path(*demo.ENCODER), model_max_length=512)
            config = {"vocab_size": len(tokenizer), "hidden_size": DIMENSION, "num_hidden_layers": 1}
            config |= {"num_attention_heads": 2, "intermediate_size": 2 * DIMENSION, "max_position_embeddings": 512}
            make_sentence_encoder(parts[0], tokenizer, config, seed=SEED, mode="cls_token", normalize=False)
            (parts[0] / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 512}))
            sizes = {"layers": 1, "width": DIMENSION, "init_std": 0.5, "max_position_embeddings": 512}
            make_bart(parts[1], tokenizer, seed=SEED, **sizes)
            compose.compose(str(parts[0]), str(parts[1]), str(parts[2]))
        return cls(str(parts[0]), str(parts[2]))


def write_vectors(place: Path, passages_place: Path, encoder: str, first: int) -> int:
    """Writes shards of random vectors as embed's own, finished, so that embed computes those before row `first` alone.

    Returns:
        The number of shards that are left to embed.
    """
    source = read_manifest(str(passages_place), "chunk")
    options = EmbedOptions(
        passages=str(passages_place), encoder=encoder, output=str(place), compute_dtype=COMPUTE_DTYPE
    )
    _, config, _ = embed_job._planned(options, [])
    output = StageOutput(options.output, "embed", config, {"passages": source.digest})
    if output.finished() is not None:
        return 0
    finished, left = output.begin(overwrite=False), 0
    for number, (shard, start) in enumerate(zip(source.shards, source.row_starts(), strict=False)):
        name, fingerprint = EMBED.shard(number, len(source.shards)), output.shard_fingerprint(shard.sha256)
        if start < first:
            left += 1
        elif name not in finished:
            hashes = read_parquet(str(passages_place / shard.path), ["content_hash"])["content_hash"]
            table = embeddings.table(hashes, vectors(number, shard.rows), options.dtype)
            write = functools.partial(
                write_parquet,
                batches=iter([table]),
                schema=table.schema,
                row_group_rows=embed_job.VECTOR_ROWS,
            )
            write_shard(options.output, name, fingerprint, write)
    return left


def vectors(number: int, rows: int) -> np.ndarray:
    """The vectors of an embedding shard, float16 (rows, `DIMENSION`): around centres, as an index's lists want them."""
    centres = np.random.default_rng(SEED).standard_normal((CENTRES, DIMENSION), np.float32)
    draw = np.random.default_rng([SEED, number])
    near = centres[draw.integers(0, CENTRES, rows)]
    return (near + 0.5 * draw.standard_normal((rows, DIMENSION), np.float32)).astype(np.float16)


def write_questions(path: Path, count: int) -> Path:
    """Writes questions of nine words as JSONL, with an answer each; returns the path."""
    picks = np.random.default_rng(SEED).integers(0, SLOTS, (count, 9))
    words = np.array(word_table().to_pylist(), object)[picks]
    rows = ({"question": " ".join(row), "answer": [row[0]]} for row in words)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
