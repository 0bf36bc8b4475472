"""What comes out for a question: its answer with score, posterior and tokens."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from rag_ops.generation.choices import Chosen
from rag_ops.generation.decoding import Hypothesis
from rag_ops.generation.spelling import respell
from rag_ops.generation.stops import Stops
from rag_ops.questions.failures import MODEL_FAILED
from schemas.passages import Passage

Contexts = Sequence[tuple[list[int], bool]]  # for one question: token ids of each context, and whether it was cut


@dataclasses.dataclass(frozen=True)
class Token:
    """One token of an answer: its text, log p(y_t | x, y_<t), and p(z | x, y_1..t) for each passage.

    Of an answer with passages unread, the former is a lower bound, and the latter None for these.
    """

    text: str
    log_probability: float
    posterior: list[float | None]


@dataclasses.dataclass(frozen=True)
class Answer:
    """The answer to one question.

    Attributes:
        text: decoded without special tokens, spelt as the settings say; None with an error.
        score: marginal log-probability of its tokens, the end token and forced ones included, as the model gives them;
            natural logarithm.
        posterior: for each passage given, the mean over the answer's tokens of p(z | x, y_1..t), or, by RAG-Sequence,
            p(z | x, y); sums to 1. None for a passage that lazy decoding left unread.
        truncated: whether a context was cut.
        error: why there is no answer, or None.
        tokens: tokens of the answer as generated, with the end token if there is one.
        token_ids: ids of these tokens.
        others: text and score of the next best answers, best first.
        score_high: upper bound of the score, which is a lower one if passages were left unread, or by fast decoding
            of RAG-Sequence; else the score.
        read: number of passages read.
        without: for each passage given, the score that the same tokens have without it; None if there is but one
            passage, or some are unread.
        choices: if the answer was to be one of a closed set, each choice with its score and its share of the
            probability of all of them, in the order given.
    """

    text: str | None
    score: float | None
    posterior: list[float | None]
    truncated: bool
    error: str | None = None
    tokens: Sequence[Token] = ()
    token_ids: Sequence[int] = ()
    others: Sequence[tuple[str, float]] = ()
    score_high: float | None = None
    read: int = 0
    without: Sequence[float] | None = None
    choices: Sequence[tuple[str, float, float]] = ()


def written(
    tokenizer: Any,
    found: Sequence[Sequence[Hypothesis]],
    contexts: Sequence[Contexts],
    stops: Stops | None = None,
) -> list[Answer]:
    """Answers from the best sequences of each question, best first.

    Args:
        tokenizer: tokenizer of the generator.
        found: sequences of each question.
        contexts: contexts of each question.
        stops: texts that end an answer and are no part of it.
    """
    answers = []
    for best, given in zip(found, contexts, strict=True):
        texts = tokenizer.batch_decode([one.tokens for one in best], skip_special_tokens=True)
        if stops is not None:
            texts = [stops.cut(text) for text in texts]
        first, posterior = best[0], best[0].posterior[:, : len(given)]
        read = np.ones(len(given), bool) if first.read is None else first.read[: len(given)]
        pieces = tokenizer.batch_decode([[token] for token in first.tokens])
        tokens = [
            Token(text, float(log_probability), _where(read, shares))
            for text, log_probability, shares in zip(pieces, first.log_probs, posterior, strict=True)
        ]
        share = posterior.mean(0) if first.share is None else first.share[: len(given)]
        score, mean = float(first.log_probs.sum()), _where(read, share)
        if math.isnan(score):
            answers.append(Answer(None, None, [], False, f"{MODEL_FAILED} (its scores are not numbers)"))
            continue
        high = score if first.highest is None else float(first.highest.sum())
        rest = zip(texts[1:], best[1:], strict=True)
        others = [(text.strip(), float(one.log_probs.sum())) for text, one in rest]
        cut = any(was_cut for _, was_cut in given)
        text, count = texts[0].strip(), int(read.sum())
        alone = None if first.without is None else first.without[: len(given)].tolist()
        answers.append(Answer(text, score, mean, cut, None, tokens, first.tokens, others, high, count, alone))
    return answers


def chosen(
    tokenizer: Any, found: Sequence[Chosen], contexts: Sequence[Contexts], choices: Sequence[Sequence[str]]
) -> list[Answer]:
    """Answers that are one of a closed set, spelt as it is there.

    Args:
        tokenizer: tokenizer of the generator.
        found: what is found for each question.
        contexts: contexts of each question.
        choices: closed set of each question.
    """
    answers = written(tokenizer, [[one.hypothesis] for one in found], contexts)
    for number, (one, own) in enumerate(zip(found, choices, strict=True)):
        if answers[number].error is None:
            rows = tuple(zip(own, one.scores.tolist(), one.probabilities.tolist(), strict=True))
            answers[number] = dataclasses.replace(answers[number], text=own[one.best], choices=rows)
    return answers


def spelt_as(passages: Sequence[Passage], answer: Answer) -> Answer:
    """The answer with its texts as the passages spell them, those first that it owes most to; all else stays."""
    if answer.text is None or answer.choices:
        return answer
    likely = sorted(range(len(passages)), key=lambda doc: -(answer.posterior[doc] or 0.0))
    sources = [part for doc in likely for part in (passages[doc].text, passages[doc].heading)]
    others = [(respell(text, sources), score) for text, score in answer.others]
    return dataclasses.replace(answer, text=respell(answer.text, sources), others=others)


def _where(read: np.ndarray, shares: np.ndarray) -> list[float | None]:
    """Shares of the passages that were read, None for the others."""
    return [share if known else None for share, known in zip(shares.tolist(), read.tolist(), strict=True)]
