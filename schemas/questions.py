"""Questions: the answer job's working tables. None is kept once the answers are written."""

from __future__ import annotations

import pyarrow as pa

# One row for each row of the question files, in their order.
OCCURRENCES = pa.schema(
    [
        pa.field("question_id", pa.string(), nullable=False),
        pa.field("question", pa.string(), nullable=False),
        pa.field("answers", pa.list_(pa.string())),  # gold answers; null where the file has none
        pa.field("error", pa.string()),  # why it cannot be answered
        pa.field("block", pa.int32()),  # the block that answers this question; null with an error
        pa.field("position", pa.int32()),  # its row in that block
    ]
)

# One row for each distinct question of a block: equal texts with other choices are two questions.
BLOCK = pa.schema(
    [
        pa.field("question", pa.string(), nullable=False),
        pa.field("choices", pa.list_(pa.string())),  # the only answers that it may have; null for any
    ]
)

# Passages found elsewhere for a question: a column of lists, a row for each distinct question of a block.
FOUND = pa.schema(
    [
        pa.field(
            "passages",
            pa.list_(
                pa.struct(
                    [
                        pa.field("passage_id", pa.string(), nullable=False),
                        pa.field("score", pa.float32(), nullable=False),
                        pa.field("title", pa.string(), nullable=False),
                        pa.field("section", pa.string(), nullable=False),
                        pa.field("text", pa.string()),  # null if it is still to be read
                        pa.field("row", pa.int64(), nullable=False),  # of the passages; -1 if the text is here
                    ]
                )
            ),
            nullable=False,
        )
    ]
)
