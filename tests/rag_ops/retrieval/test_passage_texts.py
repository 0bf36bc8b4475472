"""Texts of found passages: one read for each passage shard, the right text for each row."""

import numpy as np
import pyarrow as pa

from rag_ops.retrieval import passage_texts
from rag_ops.storage import store
from rag_ops.storage.parquet import write_parquet
from rag_ops.storage.rows import needed_rows
from schemas import passages
from schemas.passages import Passage

STARTS = [0, 2500, 2500, 4000]


def write(tmp_path) -> list[str]:
    urls = []
    for number in range(3):
        rows = [
            {
                "id": f"{r}",
                "title": f"t{r}",
                "text": f"x{r}",
                "article_id": "a",
                "position": 0,
                "content_hash": b"h" * 16,
                "section": f"s{r}",
                "kind": "prose",
            }
            for r in range(STARTS[number], STARTS[number + 1])
        ]
        with store.atomic_write(str(tmp_path), f"p{number}.parquet") as file:
            write_parquet(file, iter([pa.Table.from_pylist(rows, schema=passages.SCHEMA)]), passages.SCHEMA)
        urls.append(str(tmp_path / f"p{number}.parquet"))
    return urls


def test_needed_rows_are_sorted_by_passage_shard_without_misses_and_doubles():
    rows = np.array([[3999, 5, -1], [5, 2500, 0]])
    needed = needed_rows(rows, STARTS)
    assert {shard: found.tolist() for shard, found in needed.items()} == {0: [0, 5], 2: [2500, 3999]}


def test_each_answer_shard_gets_its_rows(tmp_path):
    urls = write(tmp_path)
    wanted = {0: {4: np.array([0, 999, 1000, 2499]), 7: np.array([999])}, 2: {4: np.array([2500, 3999])}}
    references: dict[int, list] = {4: [], 7: []}
    for shard, needs in wanted.items():
        batches = passage_texts.fetch(urls[shard], STARTS[shard], needs, str(tmp_path), f"texts-{shard}.arrow")
        for answer_shard, batch in batches.items():
            references[answer_shard].append((str(tmp_path / f"texts-{shard}.arrow"), batch))
    rows = [0, 999, 1000, 2499, 2500, 3999]
    assert passage_texts.load(references[4]) == {row: Passage(str(row), f"t{row}", f"x{row}") for row in rows}
    assert passage_texts.load(references[7]) == {999: Passage("999", "t999", "x999")}


def test_sections_are_read_if_models_read_them(tmp_path):
    urls = write(tmp_path)
    passage_texts.fetch(urls[0], 0, {1: np.array([7])}, str(tmp_path), "texts.arrow", sections=True)
    assert passage_texts.load([(str(tmp_path / "texts.arrow"), 0)]) == {7: Passage("7", "t7", "x7", "s7")}
