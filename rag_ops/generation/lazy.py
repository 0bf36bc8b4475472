"""Greedy RAG-Token decoding that reads no more passages than prove each token.

With the passages S read and the others not, p(v) = a(v) + r(v), where a(v) is the sum over S of p(z|x) p(v|z) and
r(v) of the others lies between 0 and e, the sum of their priors p(z|x). Where the likeliest of the allowed tokens by
a leads every other by more than e + d, it is the likeliest of the whole mixture; d bounds what rounding may make of
it (`rounding`).

Passages are read in order of their priors, in waves over a batch: a question whose token is not proved waits, at that
place, until the others have come as far as they can. Then the passages are encoded that it needs at least, the answer
so far is replayed for these in one pass, and decoding goes on.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import torch

from rag_ops.generation import provenance
from rag_ops.generation.decoding import Constraints, Hypothesis, Mixture
from rag_ops.generation.extractive import Source
from rag_ops.generation.generator import ReplayingGenerator

LOGIT_ROWS = 256  # rows whose logits are there at once where answers are replayed
PAYS = 0.6  # share of the passages, of which reading lazily is to read fewer
TYPICAL_LEAD = 0.3  # of a token over the next one, in what passages say that have almost all of the prior

Read = Callable[[Sequence[tuple[int, int]]], tuple[torch.Tensor, torch.Tensor]]


def sums_behind(priors: Sequence[float]) -> list[float]:
    """For 0, 1, 2 ... all passages read, the sum of the priors of the others, which are given in their order.

    >>> sums_behind([0.5, 0.25, 0.25])
    [1.0, 0.5, 0.25, 0.0]
    """
    return [*accumulate(reversed(priors), initial=0.0)][::-1]


def needed(unread: Sequence[float], read: int, lead: float, error: float) -> int:
    """How many passages must be read, at the least, before a token can be proved.

    What reading more adds to a token's lead is no more than the prior that it takes from the unread ones. So a lead L
    with e unread becomes at most L + e - e', and must be more than e' + d.

    Args:
        unread: see `sums_behind`.
        read: number of passages read so far.
        lead: of the likeliest token over the next; 0 before anything is read.
        error: d.

    >>> needed([1.0, 0.5, 0.25, 0.0], 0, 0.0, 0.001)
    2
    """
    places = range(read + 1, len(unread))
    return next((n for n in places if 2 * unread[n] < lead + unread[read] - error), len(unread) - 1)


def pays(unread: Sequence[float], error: float) -> bool:
    """Whether priors let lazy reading save enough; see `sums_behind` for the arguments."""
    docs = len(unread) - 1
    enough = next(n for n in range(docs + 1) if unread[n] + error < TYPICAL_LEAD or n == docs)
    return enough <= PAYS * docs


@dataclasses.dataclass
class Answering:
    """One question whose answer is begun; its passages are ranked by prior.

    Attributes:
        order: number of each passage, by rank.
        log_prior: log p(z|x), by rank.
        unread: see `sums_behind`.
        tokens: answer so far, the start token first.
        joint: for each passage read, by rank, log p(z|x) p(y_t | x, z, y_<t) of each token.
        read: number of passages read.
        wanted: number of passages to read before it goes on.
    """

    order: list[int]
    log_prior: list[float]
    unread: list[float]
    tokens: list[int]
    joint: list[list[float]] = dataclasses.field(default_factory=list)
    read: int = 0
    wanted: int = 0

    @classmethod
    def of(cls, log_prior: np.ndarray, start: int) -> Answering:
        """A question that nothing is read of; -inf in `log_prior`, (D,), is no passage of its own."""
        order = np.argsort(-log_prior, kind="stable")[: int(np.isfinite(log_prior).sum())]
        ranked = log_prior[order].tolist()
        return cls(order.tolist(), ranked, sums_behind([math.exp(one) for one in ranked]), [start])

    @property
    def is_read(self) -> bool:
        """Whether all of its passages are."""
        return self.read == len(self.order)

    def found(self, docs: int) -> Hypothesis:
        """The finished answer, with bounds by the passages that are read."""
        joint = torch.tensor(self.joint)
        lowest, posterior = joint.logsumexp(0), np.zeros((joint.shape[1], docs), np.float32)
        read = np.zeros(docs, bool)
        read[self.order[: self.read]] = True
        posterior[:, self.order[: self.read]] = joint.softmax(0).nan_to_num_(0.0).T.numpy()
        highest = None
        if not self.is_read:
            highest = (lowest.double().exp() + self.unread[self.read]).clamp(max=1.0).log().float().numpy()
        log_probs, alone = lowest.numpy(), None
        if self.is_read:
            log_prior, placed = np.full(docs, -np.inf), np.full((len(log_probs), docs), -np.inf)
            log_prior[self.order], placed[:, self.order] = self.log_prior, joint.T.numpy()
            alone = provenance.without(placed, log_prior)
        return Hypothesis(self.tokens[1:], float(log_probs.sum()), log_probs, posterior, highest, read, alone)


@dataclasses.dataclass
class _Rows:
    """Passages at one place of their answers: a row for each.

    Attributes:
        places: question and rank, of each row.
        cache: of the generator.
        logits: of the next token, (rows, vocabulary).
    """

    places: list[tuple[int, int]]
    cache: Any
    logits: torch.Tensor

    def of(self, questions: Sequence[int]) -> list[int]:
        """The rows of some questions, in the questions' order, by rank."""
        wanted: dict[int, list[tuple[int, int]]] = {question: [] for question in questions}
        for row, (question, rank) in enumerate(self.places):
            if question in wanted:
                wanted[question].append((rank, row))
        return [row for found in wanted.values() for _, row in sorted(found)]


class LazyGreedy:
    """Decodes a batch of questions.

    Args:
        generator: generator of the states.
        read: function that encodes passages, given as pairs of question and passage: states, (N, tokens, width), and a
            mask that is 1 for tokens, (N, tokens).
        log_prior: log p(z|x), float32 (B, D); -inf for a passage that only fills up.
        constraints: constraints on tokens and lengths.
        sources: texts that each question's answer must stand in, those of passages that are not read too.
        error: d.
    """

    def __init__(
        self,
        generator: ReplayingGenerator,
        read: Read,
        log_prior: torch.Tensor,
        constraints: Constraints,
        sources: Sequence[Source] | None,
        error: float,
    ):
        self._generator, self._read, self._constraints, self._sources = generator, read, constraints, sources
        self._error, self._docs, self._device = error, log_prior.shape[1], log_prior.device
        self._asked = [Answering.of(row, constraints.start) for row in log_prior.cpu().numpy()]

    def decode(self, exact_scores: bool = False) -> list[Hypothesis]:
        """The answers; with `exact_scores` the passages that none of them needed are read at the end."""
        todo = list(range(len(self._asked)))
        for question in self._asked:
            question.wanted = needed(question.unread, 0, 0.0, self._error)
        waiting: dict[int, _Rows] = {}
        while todo:
            waiting = self._wave(todo, waiting)
            todo = sorted({question for rows in waiting.values() for question, _ in rows.places})
        if exact_scores:
            self._read_rest()
        return [question.found(self._docs) for question in self._asked]

    def _wave(self, todo: Sequence[int], waiting: dict[int, _Rows]) -> dict[int, _Rows]:
        """Reads what some questions want and goes on with each until it ends, or a token is not proved.

        Returns the rows of the latter, by the number of tokens that their answers have.
        """
        fresh, stopped = self._fresh(todo), dict[int, _Rows]()
        running: _Rows | None = None
        for place in range(self._constraints.longest):
            # Nothing else refers to these, so that they go as soon as they are joined
            parts = [part for part in (running, waiting.pop(place, None), fresh.pop(place, None)) if part is not None]
            running = None
            if not parts:
                continue
            rows = self._join(parts)
            parts.clear()
            going, stuck = self._choose(rows, place)
            if stuck:
                stopped[place] = self._select(rows, sorted(rows.of(stuck)), place + 1)
            running = self._step(rows, sorted(rows.of(going)), place) if going else None
            del rows
        return stopped

    def _fresh(self, todo: Sequence[int]) -> dict[int, _Rows]:
        """Rows of passages that are now read, by place, with the answers so far replayed."""
        pairs = []
        for number in todo:
            question = self._asked[number]
            pairs += [(number, rank) for rank in range(question.read, question.wanted)]
            question.read = question.wanted
        outputs, cache = self._replay(pairs, 0)
        rows_at: dict[int, list[int]] = {}
        for row, (number, _) in enumerate(pairs):
            rows_at.setdefault(len(self._asked[number].tokens) - 1, []).append(row)
        fresh = {}
        for place, rows in rows_at.items():
            chosen = torch.tensor(rows, device=self._device)
            logits = self._generator.logits(outputs[chosen, place])
            fresh[place] = _Rows([pairs[row] for row in rows], cache.select(chosen, place + 1), logits)
        return fresh

    def _replay(self, pairs: Sequence[tuple[int, int]], unseen: int) -> tuple[torch.Tensor, Any]:
        """Encodes passages and replays their answers, but for the last `unseen` tokens; notes what they say of each.

        Returns outputs of the decoder, (rows, places, width), and its cache.
        """
        asked = self._asked
        states, mask = self._read([(number, asked[number].order[rank]) for number, rank in pairs])
        begun = [asked[number].tokens[: len(asked[number].tokens) - unseen] for number, _ in pairs]
        longest = max(map(len, begun))
        tokens = torch.tensor([row + [self._constraints.start] * (longest - len(row)) for row in begun])
        cache = self._generator.start(states, mask, self._constraints.longest)
        outputs = self._generator.replay(tokens.to(self._device), cache)
        targets = [asked[number].tokens[1:] for number, _ in pairs]
        rows = [(row, place) for row, following in enumerate(targets) for place in range(len(following))]
        said: list[float] = []
        for start in range(0, len(rows), LOGIT_ROWS):
            part = torch.tensor(rows[start : start + LOGIT_ROWS], device=self._device)
            logits = self._generator.logits(outputs[part[:, 0], part[:, 1]]).float()
            following = torch.tensor([targets[row][place] for row, place in rows[start : start + LOGIT_ROWS]])
            of_token = logits.gather(1, following.to(self._device)[:, None])[:, 0]
            said += (of_token - logits.logsumexp(1)).tolist()
        left = iter(said)
        for (number, rank), target in zip(pairs, targets, strict=True):
            prior = asked[number].log_prior[rank]
            asked[number].joint.append([prior + next(left) for _ in target])
        return outputs, cache

    def _choose(self, rows: _Rows, place: int) -> tuple[list[int], list[int]]:
        """Takes the next token of each question whose token is proved.

        Returns the questions that go on, and those that wait for passages.
        """
        going, stuck = [], []
        for questions in self._by_passages(rows):
            asked = [self._asked[number] for number in questions]
            mixture = self._mixture(rows, questions)
            tokens, proved, leads = self._likeliest(mixture, questions, place)
            joint = mixture.joint(torch.zeros_like(tokens), tokens)[:, 0].tolist()
            ends = self._constraints.are_ends(tokens[:, 0]).tolist()
            for row, (number, question) in enumerate(zip(questions, asked, strict=True)):
                if not proved[row]:
                    question.wanted = needed(question.unread, question.read, leads[row], self._error)
                    stuck.append(number)
                    continue
                question.tokens.append(int(tokens[row, 0]))
                for said, of_token in zip(question.joint, joint[row], strict=True):
                    said.append(of_token)
                if not ends[row] and place + 1 < self._constraints.longest:
                    going.append(number)
        return going, stuck

    def _by_passages(self, rows: _Rows) -> Iterator[list[int]]:
        """Questions in their order, those together that have as many passages read, and more to read or not."""
        groups: dict[tuple[int, bool], list[int]] = {}
        for number in sorted({number for number, _ in rows.places}):
            question = self._asked[number]
            groups.setdefault((question.read, question.is_read), []).append(number)
        yield from groups.values()

    def _mixture(self, rows: _Rows, questions: Sequence[int]) -> Mixture:
        """The mixture over the passages that are read, of questions with as many of them."""
        chosen = torch.tensor(rows.of(questions), device=self._device)
        priors = [self._asked[number].log_prior[: self._asked[number].read] for number in questions]
        return Mixture(rows.logits[chosen][:, None], torch.tensor(priors, device=self._device))

    def _likeliest(
        self, mixture: Mixture, questions: Sequence[int], place: int
    ) -> tuple[torch.Tensor, list[bool], list[float]]:
        """The likeliest allowed token of each question, int64 (B, 1), whether it is proved, and its lead."""
        asked = [self._asked[number] for number in questions]
        tokens = torch.tensor([question.tokens for question in asked], device=self._device)[:, None]
        sources = None if self._sources is None else [self._sources[number] for number in questions]

        def allowed() -> tuple[torch.Tensor, torch.Tensor]:
            scores = self._constraints.apply(mixture.log_probs, tokens, place, sources)
            return scores[:, 0], scores.argmax(-1)

        scores, chosen = allowed()
        if asked[0].is_read:
            own = mixture.log_probs.gather(2, chosen[:, :, None])[:, :, 0]
            if mixture.settle(own):
                _, chosen = allowed()
            return chosen, [True] * len(asked), [0.0] * len(asked)
        if self._constraints.forced(place):
            return chosen, [True] * len(asked), [0.0] * len(asked)
        best = scores.topk(min(2, scores.shape[1])).values.double().exp()
        first, second = (best[:, 0] - best[:, -1]).tolist(), (best[:, -1] == 0).tolist()
        leads = [math.inf if alone else lead for lead, alone in zip(first, second, strict=True)]
        unread = [question.unread[question.read] for question in asked]
        return chosen, [lead > e + self._error for lead, e in zip(leads, unread, strict=True)], leads

    def _join(self, parts: Sequence[_Rows]) -> _Rows:
        if len(parts) == 1:
            return parts[0]
        cache = self._generator.join([rows.cache for rows in parts])
        return _Rows([pair for rows in parts for pair in rows.places], cache, torch.cat([r.logits for r in parts]))

    def _select(self, rows: _Rows, chosen: Sequence[int], length: int) -> _Rows:
        if chosen == list(range(len(rows.places))):
            return rows
        places = torch.tensor(chosen, device=self._device)
        return _Rows([rows.places[row] for row in chosen], rows.cache.select(places, length), rows.logits[places])

    def _step(self, rows: _Rows, chosen: Sequence[int], place: int) -> _Rows:
        """The rows of questions that go on, after their newest token."""
        kept = self._select(rows, chosen, place + 1)
        newest = torch.tensor([self._asked[number].tokens[-1:] for number, _ in kept.places], device=self._device)
        kept.logits = self._generator.step(newest, kept.cache)[:, 0]
        return kept

    def _read_rest(self) -> None:
        """Reads all passages that are left; there is no token to choose any more."""
        pairs = []
        for number, question in enumerate(self._asked):
            pairs += [(number, rank) for rank in range(question.read, len(question.order))]
            question.read = len(question.order)
        if pairs:
            self._replay(pairs, 1)
