"""Answers: one row for each row of the question files, in their order; the rows of `answers/`."""

from __future__ import annotations

import pyarrow as pa

PASSAGE = pa.struct(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("title", pa.string(), nullable=False),
        pa.field("section", pa.string(), nullable=False),  # if models read it; else empty
        pa.field("text", pa.string(), nullable=False),
        pa.field("score", pa.float32(), nullable=False),  # inner product of question and passage vectors, or the file's
        # Share of the answer's tokens owed to this passage, or by RAG-Sequence p(passage | question, answer); sums
        # to 1. Null for one that is only kept (--retrieve), or that lazy decoding left unread.
        pa.field("posterior", pa.float32()),
    ]
)

TOKEN = pa.struct(
    [
        pa.field("text", pa.string(), nullable=False),
        # Under the mixture of all passages; a lower bound if some are unread.
        pa.field("log_probability", pa.float32(), nullable=False),
        # p(passage | question, tokens so far), in order; null for unread ones
        pa.field("posterior", pa.list_(pa.float32()), nullable=False),
    ]
)
ALTERNATIVE = pa.struct(
    [pa.field("answer", pa.string(), nullable=False), pa.field("score", pa.float32(), nullable=False)]
)

CHOICE = pa.struct(
    [
        pa.field("choice", pa.string(), nullable=False),
        # Marginal log-probability of its tokens, the end token included, natural logarithm
        pa.field("score", pa.float32(), nullable=False),
        pa.field("probability", pa.float32(), nullable=False),  # share of the probability of all of its choices
    ]
)

# What the generator finds for one distinct question, before it is joined with the rows that ask it. The first three
# come before the gold answers in the table.
RESULT_FIELDS = [
    pa.field("answer", pa.string()),  # null with an error, or if it is held back
    # Marginal log-probability of the answer's tokens, natural logarithm; a lower bound if passages are unread (--lazy),
    # or by --decoding sequence-fast.
    pa.field("score", pa.float32()),
    pa.field("passages", pa.list_(PASSAGE)),  # best first
    pa.field("score_high", pa.float32()),  # upper bound of the score; the score itself if that is exact
    pa.field("tokens", pa.list_(TOKEN)),  # of the answer, the end token included
    pa.field("alternatives", pa.list_(ALTERNATIVE)),  # the next best answers, best first; empty unless asked for
    # For each of `passages` the score of the answer's tokens without it, the others' priors made to sum to 1. Null
    # if there is but one passage, or some are unread; so is what stands for a passage that is only kept (--retrieve).
    pa.field("without", pa.list_(pa.float32())),
    pa.field("choices", pa.list_(CHOICE)),  # of a closed set, as given; null for an answer that is decoded
    pa.field("truncated", pa.bool_()),  # the question or a passage was cut to fit a model's length
    pa.field("abstained", pa.string()),  # why the answer is held back (--max_error), which is null then; all else stays
    pa.field("error", pa.string()),
]
RESULTS = pa.schema(RESULT_FIELDS)

SCHEMA = pa.schema(
    [
        pa.field("question_id", pa.string(), nullable=False),
        pa.field("question", pa.string(), nullable=False),
        *RESULT_FIELDS[:3],
        pa.field("gold_answers", pa.list_(pa.string())),  # as the question file gave them, else null
        pa.field("model_digest", pa.string(), nullable=False),
        pa.field("index_digest", pa.string(), nullable=False),
        *RESULT_FIELDS[3:],
    ]
)
