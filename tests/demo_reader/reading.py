"""What the demo's generator learns from: real question sets, cloze of real text, and their batches.

One article in ten is held out, by its title: neither its questions nor its text is trained on.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import random
import re
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq
import torch
from transformers import AutoTokenizer

from rag_ops.compute.batching import token_batches
from rag_ops.generation.contexts import ContextFormat, encode_contexts
from schemas.passages import Passage
from tests.benchmarks.common import excerpt, ragbeam

FORM = ContextFormat(" / ", " // ", "", 300)
WORDS = 100  # of a passage
MAX_ANSWER_TOKENS = 16
MAX_QUESTION_TOKENS = 64
COPIED = 12  # tokens of each context that are copied for practice
POOL = 1024  # samples that are sorted by length and cut into batches
SPAN = re.compile(r"(?<![.!?] )(?<!^)\b(?:[A-Z][\w'-]+(?: (?:of |de |the )?[A-Z][\w'-]+){0,3}|\d[\d,.]*\d|\d)\b")
PRONOUNS = ("he", "she", "it", "they", "his", "her", "its", "their", "this", "these")
SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"(])")


@dataclasses.dataclass(frozen=True)
class Sample:
    """A question with its answers and a text that holds one of them, or, if not `told`, none.

    `searched` tells the questions that people asked a search engine from those that readers of the text made up.
    """

    title: str
    text: str
    question: str
    answers: tuple[str, ...]
    told: bool = True
    searched: bool = False


def held_out(title: str) -> bool:
    """Whether an article is kept from training: one in ten, by its title."""
    return hashlib.sha256(title.encode()).digest()[0] % 10 == 0


def real_questions(folder: Path) -> Iterator[Sample]:
    """The question sets, each in its own schema; SQuAD's sample of 800 paragraphs has no titles."""
    for name in ("squad-train-v2.0-first10articles.json", "squadshifts-new_wiki_v1.0.json"):
        for article in json.loads((folder / name).read_text())["data"]:
            title = article["title"].replace("_", " ")
            for paragraph in article["paragraphs"]:
                for row in paragraph["qas"]:
                    if found := shortest_first(answer["text"] for answer in row["answers"]):
                        yield Sample(title, paragraph["context"], row["question"], found)
    for row in json.loads((folder / "squad-train-v1-sample800.json").read_text()):
        for pair in row["qas"]:
            yield Sample("", row["context"], pair["question"], (pair["answer"],))
    for line in (folder / "qed-dev.jsonlines").read_text().splitlines():
        row = json.loads(line)
        found = shortest_first(span["string"] for spans in row["original_nq_answers"] for span in spans)
        if found:
            yield Sample(row["title_text"], row["paragraph_text"], row["question_text"], found, searched=True)


def split(asked: Sequence[Sample]) -> tuple[list[Sample], list[Sample]]:
    """Questions to train on, and those about held-out articles.

    Paragraphs without a title are trained on, unless they stand in a held-out article too or mention its title.
    """
    unseen = [sample for sample in asked if sample.title and held_out(sample.title)]
    texts, titles = {sample.text for sample in unseen}, {sample.title.lower() for sample in unseen}

    def known(sample: Sample) -> bool:
        return sample.text in texts or any(title in sample.text.lower() for title in titles)

    leaked = {text for text in {s.text for s in asked if not s.title} if known(Sample("", text, "", ()))}
    training = [s for s in asked if (not held_out(s.title) if s.title else s.text not in leaked)]
    return training, unseen


def shortest_first(answers: Any) -> tuple[str, ...]:
    """Distinct answers, the shortest first: what is learned."""
    return tuple(sorted({answer.strip() for answer in answers if answer.strip()}, key=lambda text: (len(text), text)))


def window(sample: Sample, generator: random.Random, size: int = WORDS) -> Sample | None:
    """The sample with a window of `size` words that holds its answer, if any does; None where it is not to be found."""
    words = sample.text.split()
    if not sample.told:
        start = generator.randint(0, max(0, len(words) - size))
        return dataclasses.replace(sample, text=" ".join(words[start : start + size]))
    place = sample.text.find(sample.answers[0])
    if place < 0:
        return None
    first = len(sample.text[:place].split())
    last = first + len(sample.answers[0].split())
    earliest = max(0, last - size)
    start = generator.randint(earliest, max(earliest, min(first, len(words) - size)))
    return dataclasses.replace(sample, text=" ".join(words[start : start + size]))


def cloze(title: str, text: str, generator: random.Random) -> Sample | None:
    """A question made of one sentence of a passage: a name or number is the answer, some other words are lost.

    Where the sentence does not name its article, a question mostly does, in place of the pronoun that begins it.
    """
    sentences = [sentence for sentence in SENTENCE.split(text) if 6 <= len(sentence.split()) <= 40]
    if not sentences:
        return None
    sentence = generator.choice(sentences)
    spans = [match for match in SPAN.finditer(sentence) if len(match[0]) < 40]
    if not spans:
        return None
    span = generator.choice(spans)
    lost = generator.choice([0.0, 0.2, 0.4, 0.6])
    before, after = (
        [word for word in part.split() if generator.random() >= lost]
        for part in (sentence[: span.start()], sentence[span.end() :])
    )
    before, after = before[-generator.randint(3, 12) :], after[: generator.randint(3, 12)]
    subject = re.sub(r" \(.*", "", title)
    if subject and subject.lower() not in sentence.lower() and generator.random() < 0.8:
        rest = before[1:] if before and before[0].lower() in PRONOUNS else before
        before = [*subject.split(), *rest]
    asked = asked_of(sentence[: span.start()], span[0], generator)
    words = [*before, asked, *after] if generator.random() < 0.3 else [asked, *before, *after]
    return Sample(title, text, " ".join(words).rstrip(" .,;"), (span[0],))


def asked_of(before: str, answer: str, generator: random.Random) -> str:
    """A word that asks for an answer, by what it looks like and the word before it."""
    words = before.split()
    last = words[-1].lower() if words else ""
    if re.fullmatch(r"1\d\d\d|20\d\d", answer):
        return generator.choice(["when", "what year", "in what year", "in which year"])
    if answer[0].isdigit():
        return generator.choice(["how many", "what", "how much"])
    if last in ("in", "at", "near", "from", "to"):
        return generator.choice(["where", "where", "in which", "what"])
    return generator.choice(["who", "what", "who", "which"])


def passages_of_packages(wiki_json: Path | None) -> list[tuple[str, str]]:
    """Title and text of the demo excerpt's passages, and of lead sections where their file is given, none held out."""
    found = []
    with tempfile.TemporaryDirectory() as directory:
        ragbeam("chunk", "--input", excerpt(), "--output", directory, "--num_shards", 1)
        for path in Path(directory).glob("*.parquet"):
            table = pq.read_table(path, columns=["title", "text"])
            found += list(zip(table["title"].to_pylist(), table["text"].to_pylist(), strict=True))
    if wiki_json:
        for row in json.loads(wiki_json.read_text()).values():
            words = row["extract"].split()
            found += [
                (row["title"], " ".join(words[start : start + WORDS]))
                for start in range(0, len(words), WORDS)
                if len(words) - start > 20
            ]
    return [(title, text) for title, text in found if not held_out(title)]


class Encoder:
    """Samples to token ids."""

    def __init__(self, directory: str):
        self.tokenizer: Any = AutoTokenizer.from_pretrained(directory)
        self._start = self._end = self.tokenizer.sep_token_id

    def contexts(self, samples: Sequence[Sample]) -> list[list[int]]:
        passages = [Passage("", sample.title, sample.text) for sample in samples]
        ids = self._question_ids([sample.question for sample in samples])
        questions = self.tokenizer.batch_decode(ids, skip_special_tokens=True)
        return [ids for ids, _ in encode_contexts(self.tokenizer, FORM, passages, questions)]

    def places(self, contexts: Sequence[list[int]], labels: Sequence[list[int]], questions: Sequence[str]) -> list[Any]:
        """Where each context holds the answer: pairs of (place among the labels, place in the context).

        Every occurrence before the question counts; the end token is the context's last. None where there is none.
        """
        lengths = [len(ids) - 2 for ids in self._question_ids(questions)]
        found = []
        for ids, row, length in zip(contexts, labels, lengths, strict=True):
            answer = row[1:-1]
            end = len(ids) - 1 - length
            starts = [n for n in range(1, end - len(answer) + 1) if ids[n : n + len(answer)] == answer]
            pairs = [(t, start + t) for start in starts for t in range(len(answer))]
            found.append([*pairs, (len(answer), len(ids) - 1)] if pairs else None)
        return found

    def _question_ids(self, questions: Sequence[str]) -> list[list[int]]:
        return self.tokenizer(list(questions), truncation=True, max_length=MAX_QUESTION_TOKENS)["input_ids"]

    def labels(self, samples: Sequence[Sample]) -> list[list[int]]:
        texts = [sample.answers[0] for sample in samples]
        ids = self.tokenizer(texts, add_special_tokens=False, truncation=True, max_length=MAX_ANSWER_TOKENS)
        return [[self._start, *row, self._end] for row in ids["input_ids"]]


def pad(rows: Sequence[Sequence[int]]) -> torch.Tensor:
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)


class Batch(NamedTuple):
    """Samples as tensors.

    Attributes:
        ids: (samples, places), the contexts' tokens, 0 for none.
        labels: (samples, tokens), start token, answer, end token, 0 for none.
        looks: bool (samples, tokens - 1, places), where the context holds each token that is to be written.
        told: bool (samples,), whether the context holds the answer.
        copied: (samples,), the place of a token that the context has once, or of its first one: to copy from.
    """

    ids: torch.Tensor
    labels: torch.Tensor
    looks: torch.Tensor
    told: torch.Tensor
    copied: torch.Tensor


@dataclasses.dataclass(frozen=True)
class Mixture:
    """What a pool of samples is drawn from.

    Attributes:
        cloze: share of cloze.
        negative: share of passages without the answer.
        words: of a passage.
        asked: share of the questions that people asked a search engine, among the real ones; None for as many as are.
    """

    cloze: float
    negative: float
    words: int
    asked: float | None = None


class Source:
    """Everything that samples are drawn from.

    Args:
        questions: real ones.
        passages: title and text, for cloze.
    """

    def __init__(self, questions: Sequence[Sample], passages: Sequence[tuple[str, str]]):
        self._questions, self._passages = questions, passages
        self._asked = [one for one in questions if one.searched]
        self._read = [one for one in questions if not one.searched]
        texts: dict[str, dict[str, None]] = {}
        for title, text in [*((one.title, one.text) for one in questions), *passages]:
            texts.setdefault(title, {})[text] = None
        self._by_title = {title: list(found) for title, found in texts.items()}

    def draw(self, mixture: Mixture, generator: random.Random) -> Sample | None:
        """One sample, or None where what was drawn makes none."""
        if generator.random() < mixture.cloze:
            title, text = generator.choice(self._passages)
            cut = window(Sample(title, text, "", (), told=False), generator, mixture.words)
            sample = cloze(title, cut.text if cut else "", generator)
        elif mixture.asked is None:
            sample = generator.choice(self._questions)
        else:
            sample = generator.choice(self._asked if generator.random() < mixture.asked else self._read)
        if sample is not None and sample.title and generator.random() < mixture.negative:
            text = generator.choice(self._by_title[sample.title])
            if any(answer.lower() in text.lower() for answer in sample.answers):
                return None
            sample = dataclasses.replace(sample, text=text, told=False)
        return sample and window(sample, generator, mixture.words)


def copied_from(ids: Sequence[int], generator: random.Random) -> int:
    """The place of a token that a context has once, with COPIED more after it; the first token's if there is none."""
    times = Counter(ids)
    return generator.choice([place for place, one in enumerate(ids[:-COPIED]) if place and times[one] == 1] or [1])


def pool_of(source: Source, encoder: Encoder, seed: str, mixture: Mixture, tokens: int) -> list[Batch]:
    """The batches of one pool of samples, of about so many context tokens each; its seed alone decides."""
    generator = random.Random(seed)
    pool: list[Sample] = []
    while len(pool) < POOL:
        if (sample := source.draw(mixture, generator)) is not None:
            pool.append(sample)
    contexts, labels = encoder.contexts(pool), encoder.labels(pool)
    places = encoder.places(contexts, labels, [sample.question for sample in pool])
    parts = list(token_batches([len(ids) for ids in contexts], tokens))
    generator.shuffle(parts)
    made = []
    for part in parts:
        ids, targets = pad([contexts[n] for n in part]), pad([labels[n] for n in part])
        looks = torch.zeros(len(part), targets.shape[1] - 1, ids.shape[1], dtype=torch.bool)
        for row, n in enumerate(part):
            for t, place in (places[n] or ()) if pool[n].told else ():
                looks[row, t, place] = True
        told = torch.tensor([pool[n].told for n in part])
        made.append(Batch(ids, targets, looks, told, torch.tensor([copied_from(contexts[n], generator) for n in part])))
    return made
