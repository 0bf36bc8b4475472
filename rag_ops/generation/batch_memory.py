"""How much memory decoding a batch of questions takes, by the sizes that decoding itself goes by.

It comes on top of the weights, and of what layers make for themselves and let go.

**Rows.** A batch has `tokens` tokens of contexts: `defaults.ANSWER_BATCH_TOKENS`, with lazy decoding
`LAZY_BATCH_TOKENS`, all of whose passages may have to be read. A row is one passage of one question; a passage of 100
words with its title and the question has about `CONTEXT_TOKENS`.

**An encoder-decoder** keeps the encoder's state of each token; keys and values of each token in each decoder layer,
once more than `defaults.DIRECT_LOOKS` queries have come to a passage (`bart`); and those of the answers so far, which
have room for the longest answer from the beginning, in each row for each beam. When a question is finished or, with
lazy decoding, waits for passages, its rows leave: what stays is copied, so that both are there for a moment (`COPIES`).

**A causal generator** keeps keys and values of whole prompts and answers in each row for each beam. Rows leave layer by
layer, so that a copy takes one layer more. What `--passage_memory` holds comes on top.

**Logits** of all rows and beams are there a few times over (`decoding.Mixture`), in float32 whatever the dtype.
"""

from __future__ import annotations

import dataclasses

from rag_ops import defaults
from rag_ops.generation.settings import GenerationSettings

CONTEXT_TOKENS = 128  # of a passage of 100 words with its title, and a question
COPIES = 2  # of what an encoder-decoder has cached, while some of its rows leave
LOGIT_COPIES = 4
SCORED_ROWS = 512  # passages times choices that a causal generator scores at once, as it does beams


@dataclasses.dataclass(frozen=True)
class Decoder:
    """The sizes of a generator's decoder.

    Attributes:
        keys: numbers of keys and values of one token, in all layers together.
        width: numbers of an encoder's state of one token; 0 for a causal generator, which has no encoder.
        vocabulary: number of tokens that there are.
        layers: number of layers.
        shares_passages: whether the beams of a question read one copy of its passages.
    """

    keys: int
    width: int
    vocabulary: int
    layers: int
    shares_passages: bool = False

    @property
    def is_causal(self) -> bool:
        """Whether it has no encoder."""
        return not self.width


BART_LARGE = Decoder(12 * 2 * 1024, 1024, 50_265, 12, shares_passages=True)


def batch_bytes(
    decoder: Decoder,
    settings: GenerationSettings,
    n_docs: int = 1,
    batch_tokens: int | None = None,
    number_bytes: int = 4,
) -> float:
    """Returns the bytes that a batch takes at its peak on a CPU, with what is held of other batches' passages.

    Args:
        decoder: sizes of the decoder.
        settings: settings of decoding.
        n_docs: number of passages of a question: one question is never cut.
        batch_tokens: context tokens of a batch; None for those of a CPU.
        number_bytes: bytes of a number of keys, values and states: 4, or 2 in bfloat16.
    """
    budgets = defaults.LAZY_BATCH_TOKENS if settings.lazy else defaults.ANSWER_BATCH_TOKENS
    tokens = max(batch_tokens or budgets["cpu"], n_docs * CONTEXT_TOKENS)
    rows, beams = tokens / CONTEXT_TOKENS, settings.num_beams
    if decoder.is_causal and settings.closed_set:
        beams = min(len(settings.closed_set), max(1, int(SCORED_ROWS / rows)))
    key_bytes = decoder.keys * number_bytes
    answers = rows * beams * settings.max_new_tokens * key_bytes
    logits = LOGIT_COPIES * rows * beams * decoder.vocabulary * 4
    if decoder.is_causal:
        one_more = 1 + 1 / decoder.layers
        return (tokens * beams * key_bytes + answers) * one_more + logits + settings.passage_bytes
    copies = 1 if decoder.shares_passages else beams
    looks = beams * settings.max_new_tokens
    passages = tokens * copies * key_bytes if looks > defaults.DIRECT_LOOKS or not decoder.shares_passages else 0
    states = tokens * copies * decoder.width * number_bytes
    return COPIES * (states + passages + answers) + logits
