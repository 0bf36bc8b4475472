"""The answer out of a closed set: the exact marginal of each choice, its end token included, by teacher forcing.

All choices of a question are scored together (`scoring`), so its passages are encoded once and read once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rag_ops.generation.decoding import Batch, Constraints, Hypothesis
from rag_ops.generation.provenance import log_probs_of
from rag_ops.generation.rag_sequence import hypothesis_of
from rag_ops.generation.scoring import scored
from rag_ops.questions.gold_answers import UnreadableError

Targets = Sequence[Sequence[int]]  # the tokens of each choice of one question, without the start token


@dataclasses.dataclass(frozen=True)
class Chosen:
    """What is found for one question: the choice that is likeliest, and log p(y|x) of each, float64 (choices,)."""

    best: int
    hypothesis: Hypothesis
    scores: np.ndarray

    @property
    def probabilities(self) -> np.ndarray:
        """p(y|x) of each choice over that of all of them together, float64 (choices,)."""
        shares = np.exp(self.scores - self.scores.max())
        return shares / shares.sum()


def targets_of(
    tokenizer: Any,
    choices: Sequence[str],
    constraints: Constraints,
    encode: Callable[[Sequence[str]], list[list[int]]] | None = None,
) -> list[list[int]]:
    """The tokens of choices as decoding would write them: a forced first token, those of the text, and an end token.

    Args:
        tokenizer: tokenizer of the generator.
        choices: texts.
        constraints: constraints of decoding.
        encode: gives the token ids of answers behind a prompt; None if they stand alone.

    Raises:
        UnreadableError: a choice is no text to the tokenizer, longer than an answer may be, or the same as another.
    """
    targets: list[list[int]] = []
    first = [] if constraints.first is None else [constraints.first]
    encoded = encode(choices) if encode else tokenizer([*choices], add_special_tokens=False)["input_ids"]
    for choice, ids in zip(choices, encoded, strict=True):
        length = len(first) + len(ids) + 1
        if not ids:
            raise UnreadableError(f"the tokenizer leaves nothing of {choice}")
        if length > constraints.longest:
            raise UnreadableError(
                f"{choice[:60]} has {length} tokens, more than --max_new_tokens {constraints.longest}"
            )
        forced = constraints.forced(length - 1)
        end = constraints.ends[0] if not forced or constraints.ends[0] in forced else forced[0]
        targets.append([*first, *ids, end])
        if targets[-1] in targets[:-1]:
            raise UnreadableError(f"{choice[:60]} has the tokens of another one")
    return targets


def choose(batch: Batch, targets: Sequence[Targets], by_sequences: bool = False) -> list[Chosen]:
    """The likeliest choice of each question of a batch; of two alike the first.

    Args:
        batch: the questions.
        targets: choices of each, by their tokens.
        by_sequences: whether p(y|x) is RAG-Sequence's, the mixture of what passages say of a choice as a whole.
    """
    found, ends = [], batch.constraints.ends
    given = [[one for target in own for one in _written_out(target, ends)] for own in targets]
    priors = batch.log_prior.double().cpu().numpy()
    for own, parts, log_prior in zip(targets, scored(batch, given, ends[0]), priors, strict=True):
        said = _joined(own, parts, ends)
        if by_sequences:
            hypotheses = [
                hypothesis_of(tuple(one), log_probs, log_prior) for one, log_probs in zip(own, said, strict=True)
            ]
            scores = np.array([one.score for one in hypotheses])
            best = int(scores.argmax())
            found.append(Chosen(best, hypotheses[best], scores))
            continue
        joints = [(log_probs + log_prior[:, None]).T.astype(np.float32) for log_probs in said]
        of_tokens = [log_probs_of(joint) for joint in joints]
        scores = np.array([one.sum(dtype=np.float64) for one in of_tokens])
        best = int(scores.argmax())
        hypothesis = Hypothesis.of(list(own[best]), float(scores[best]), of_tokens[best], joints[best], log_prior)
        found.append(Chosen(best, hypothesis, scores))
    return found


def _written_out(target: Sequence[int], ends: Sequence[int]) -> list[tuple[int, ...]]:
    """A target with each of the end tokens, if it ends with one: any of them ends the same answer.

    >>> _written_out([7, 2], (2, 3)), _written_out([7], (2, 3))
    ([(7, 2), (7, 3)], [(7,)])
    """
    return [(*target[:-1], end) for end in ends] if target[-1] in ends else [tuple(target)]


def _joined(targets: Targets, said: Sequence[np.ndarray], ends: Sequence[int]) -> list[np.ndarray]:
    """Log p(y_t | x, z, y_<t) of targets, the last token counting for all that may end them, float64 (D, T) each.

    Args:
        targets: targets of one question.
        said: the same of `_written_out` targets, (D, at least T) each.
        ends: end tokens.
    """
    left, found = iter(said), []
    for target in targets:
        parts = [next(left)[:, : len(target)] for _ in _written_out(target, ends)]
        last = np.logaddexp.reduce([part[:, -1:] for part in parts])
        found.append(np.concatenate([parts[0][:, :-1], last], axis=1))
    return found
