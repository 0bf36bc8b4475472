"""Hits: the passages found for each row of the question files, best first; the rows of `hits/`."""

from __future__ import annotations

import pyarrow as pa

# Null in the one row of a question that has an error.
HIT_FIELDS = [
    pa.field("rank", pa.int32()),  # 1, 2, 3 ... within the question
    pa.field("row", pa.int64()),  # of the passage in the whole corpus
    pa.field("passage_id", pa.string()),
    pa.field("title", pa.string()),
    pa.field("section", pa.string()),  # if models read it; else empty
    pa.field("text", pa.string()),
    pa.field("score", pa.float32()),  # what the order goes by: never more than that of the rank before
    pa.field("dense_score", pa.float32()),  # inner product of question and passage vectors; null if not found by it
    pa.field("bm25_score", pa.float32()),  # likewise
    pa.field("rerank_score", pa.float32()),  # of the cross-encoder; null behind --rerank_top
]

# What the search finds for one distinct question, before it is joined with the rows that ask it.
RESULTS = pa.schema(
    [
        pa.field("hits", pa.list_(pa.struct(HIT_FIELDS))),  # null with an error
        pa.field("truncated", pa.bool_()),
        pa.field("error", pa.string()),
    ]
)

SCHEMA = pa.schema(
    [
        pa.field("question_id", pa.string(), nullable=False),
        pa.field("question", pa.string(), nullable=False),
        *HIT_FIELDS,
        pa.field("gold_answers", pa.list_(pa.string())),  # as the question file gave them, else null
        pa.field("truncated", pa.bool_()),  # the question, or one of its passages, was cut to fit a model
        pa.field("error", pa.string()),  # why there is no passage
    ]
)
