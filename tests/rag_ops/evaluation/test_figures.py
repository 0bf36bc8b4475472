"""Tests of figures: its figures next to a second implementation, written here from the definitions."""

import collections
import json
import math
import random
import re
import string

import pytest

from rag_ops.errors import InputError
from rag_ops.evaluation.figures import AnswerSet, GoldFile, evaluate
from rag_ops.questions.reading import QuestionOptions
from tests.pipelines.workspace import answer_row, write_answers

WORDS = "the a An moon Moon moon. sun's river-bed Zoë zoe U.S. us 1969 in, king, (ice) of".split()
KEPT = 30


def phrase(chance: random.Random, least: int, most: int) -> str:
    return " ".join(chance.choice(WORDS) for _ in range(chance.randint(least, most)))


def random_rows(count: int, seed: int) -> list[dict]:
    """Rows of answers of all kinds: right, partly right, wrong, empty, with errors, without gold."""
    chance = random.Random(seed)
    rows = []
    for number in range(count):
        gold = None if chance.random() < 0.1 else [phrase(chance, 1, 3) for _ in range(chance.randint(0, 3))]
        answer = chance.choice(gold).upper() if gold and chance.random() < 0.3 else phrase(chance, 0, 5)
        passages = [
            {
                "id": str(n),
                "title": "moon",
                "section": "",
                "text": phrase(chance, 2, 12),
                "score": -float(n),
                "posterior": None,
            }
            for n in range(chance.choice((KEPT, 7)))
        ]
        row = answer_row(f"q{number}", f"what is {number}", answer, gold, passages=passages)
        row["score"] = -chance.expovariate(1)
        if chance.random() < 0.07:
            row |= {"answer": None, "score": None, "error": "the model failed", "passages": None}
        rows.append(row | {"truncated": chance.random() < 0.1})
    return rows


class Squad:
    """Exact match and F1 as the paper of SQuAD tells them."""

    def words(self, text: str) -> list[str]:
        kept = "".join(character for character in text.lower() if character not in set(string.punctuation))
        return [word for word in re.sub(r"\b(a|an|the)\b", " ", kept).split() if word]

    def em(self, answer: str, gold: list[str]) -> bool:
        return any(self.words(answer) == self.words(one) for one in gold)

    def f1(self, answer: str, gold: list[str]) -> float:
        return max(self._one(self.words(answer), self.words(one)) for one in gold)

    def _one(self, answer: list[str], gold: list[str]) -> float:
        left = collections.Counter(gold)
        shared = 0
        for word in answer:
            if left[word] > 0:
                left[word] -= 1
                shared += 1
        if not shared:
            return 0.0
        precision, recall = shared / len(answer), shared / len(gold)
        return 2 * precision * recall / (precision + recall)


def dpr_tokens(text: str) -> list[str]:
    """Of the words above: they are ASCII but for one letter, which NFD writes as a letter and a mark."""
    return re.findall(r"[a-z0-9\u0308]+|[^a-z0-9\u0308\s]", text.lower().replace("ë", "e\u0308"))


def held(text: str, gold: list[str]) -> bool:
    words = dpr_tokens(text)
    wanted = [dpr_tokens(one) for one in gold]
    return any(words[n : n + len(one)] == one for one in wanted for n in range(len(words)))


def test_figures_of_500_answers_agree_with_a_second_implementation(tmp_path):
    rows = random_rows(500, seed=1)
    figures = evaluate([AnswerSet.open(write_answers(tmp_path / "a", rows, 5, retrieve=KEPT))])["all"]
    squad = Squad()
    scored = [row for row in rows if row["gold_answers"]]
    good = [row for row in scored if row["error"] is None]
    assert 0 < len(good) < len(scored) < len(rows)
    em = sum(squad.em(row["answer"], row["gold_answers"]) for row in good) / len(scored)
    f1 = sum(squad.f1(row["answer"], row["gold_answers"]) for row in good) / len(scored)
    assert 0.1 < em < f1 < 0.9
    assert figures["em"] == pytest.approx(em, abs=1e-12)
    assert figures["f1"] == pytest.approx(f1, abs=1e-12)
    for k in (1, 5, 20, KEPT):
        hits = sum(any(held(p["text"], row["gold_answers"]) for p in row["passages"][:k]) for row in good)
        assert figures["recall"][str(k)] == pytest.approx(hits / len(scored), abs=1e-12)
        assert figures["recall_curve"][k - 1] == figures["recall"][str(k)]
    assert figures["recall"]["100"] is None
    assert figures["rows"] == 500
    assert figures["scored"] == len(scored)
    assert figures["without_gold"] == 500 - len(scored)
    assert figures["errors"] == sum(row["error"] is not None for row in rows)
    assert figures["truncated"] == sum(row["truncated"] for row in rows)
    lengths = collections.Counter(len(row["answer"].split()) for row in rows if row["error"] is None)
    assert {n: count for n, count in enumerate(figures["answer_words"]["answers"]) if count} == lengths
    bins = collections.defaultdict(list)
    for row in good:
        bins[math.floor(10 * math.exp(row["score"]))].append(squad.em(row["answer"], row["gold_answers"]))
    for number, one in enumerate(figures["calibration"]["bins"]):
        assert one["rows"] == len(bins[number])
        assert one["em"] == (pytest.approx(sum(bins[number]) / len(bins[number])) if bins[number] else None)


def test_directories_are_scored_apart_and_together(tmp_path):
    first, second = random_rows(30, seed=2), random_rows(60, seed=3)
    urls = [write_answers(tmp_path / "a", first, 5, retrieve=KEPT), write_answers(tmp_path / "b", second, 5)]
    figures = evaluate([AnswerSet.open(url) for url in urls])
    a, b = figures["files"]
    assert [a["name"], b["name"]] == urls
    weighed = (a["em"] * a["scored"] + b["em"] * b["scored"]) / (a["scored"] + b["scored"])
    assert figures["all"]["em"] == pytest.approx(weighed)
    assert figures["all"]["passages"] == 5
    assert figures["all"]["recall"]["20"] is None
    assert a["recall"]["20"] is not None


GOLD_FORMS = {
    "kilt.jsonl": '{"id": "k", "input": "who", "output": [{"answer": "me"}, {"answer": "I"}, {"provenance": []}]}',
    "popqa.tsv": 'id\tquestion\tpossible_answers\nk\twho\t"[""me"", ""I""]"',
    "squad.json": '{"data": [{"paragraphs": [{"qas": [{"id": "k", "question": "who", "answers": [{"text": "me"}, '
    '{"text": "I"}]}]}]}]}',
    "trivia.json": '{"Data": [{"QuestionId": "k", "Question": "who", "Answer": '
    '{"Value": "me", "Aliases": ["me", "I"]}}]}',
}


@pytest.mark.parametrize("name", GOLD_FORMS)
def test_a_gold_file_may_be_any_question_set(tmp_path, name):
    (tmp_path / name).write_text(GOLD_FORMS[name] + "\n")
    gold = GoldFile([str(tmp_path / name)], QuestionOptions())
    assert gold.find("k", "who") == ["me", "I"]
    assert gold.unreadable == 0


def test_rows_of_a_gold_file_that_cannot_be_read_are_counted(tmp_path):
    lines = ['{"id": 1, "answer": "x"}', '{"id": 2, "question": "who", "answer": {"at": 3}}', '{"id": 3, "quest']
    (tmp_path / "gold.jsonl").write_text("\n".join(lines))
    gold = GoldFile([str(tmp_path / "gold.jsonl")], QuestionOptions())
    assert gold.find("1", "what") == ["x"]  # a gold file needs no questions
    assert gold.unreadable == 2
    assert gold.first_unreadable == "the gold answers are no texts (an object of at, gold.jsonl:2)"
    (tmp_path / "gold.jsonl").write_text(lines[1])
    with pytest.raises(InputError, match=r"no gold answers.*an object of at, gold.jsonl:1"):
        GoldFile([str(tmp_path / "gold.jsonl")], QuestionOptions())


def gold_file(path, rows: list[dict]) -> GoldFile:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return GoldFile([str(path)], QuestionOptions())


def test_gold_is_joined_by_id_then_by_text_and_the_others_keep_their_own(tmp_path):
    rows = [
        answer_row("1", "what is ice", "water", ["wrong"]),
        answer_row("2", "what is fire", "heat", None),
        answer_row("3", "what is air", "gas", ["gas"]),
        answer_row("4", "what was rain", "drops", None),
        answer_row("5", "what is snow", "", ["  "]),
    ]
    gold = gold_file(
        tmp_path / "gold.jsonl",
        [
            {"id": "1", "question": "what is ice", "answer": "water"},
            {"id": "3", "question": "what is fire", "answer": ["heat"]},  # another file's 3
            {"id": "4", "question": "what is rain?", "answer": ["drops"]},
        ],
    )
    figures = evaluate([AnswerSet.open(write_answers(tmp_path / "a", rows))], gold_file=gold)
    assert figures["gold"] == {"by_id": 1, "by_id_with_another_text": 2, "by_text": 1, "not_in_the_file": 1}
    assert figures["all"]["scored"] == 4
    assert figures["all"]["without_gold"] == 1
    assert figures["all"]["em"] == 0.75  # row 3's id is that of another question, whose answer counts


def test_gold_without_answers_or_without_matches_is_refused(tmp_path):
    with pytest.raises(InputError, match="gives no gold answers"):
        gold_file(tmp_path / "none.jsonl", [{"question": "what is ice"}])
    sets = [AnswerSet.open(write_answers(tmp_path / "a", [answer_row("1", "what is ice", "water", None)] * 2))]
    other = gold_file(tmp_path / "other.jsonl", [{"id": "9", "question": "who", "answer": "she"}])
    with pytest.raises(InputError, match="none of the answered questions"):
        evaluate(sets, gold_file=other)
    with pytest.raises(InputError, match="no row has a gold answer"):
        evaluate(sets)


def test_patterns_are_scored_without_f1(tmp_path):
    rows = [
        answer_row("1", "when", "1969", [r"19\d\d"], passages=[passage("in 1969")]),
        answer_row("2", "who", "x", ["Neil"]),
    ]
    figures = evaluate([AnswerSet.open(write_answers(tmp_path / "a", rows))], patterns=True)["all"]
    assert (figures["em"], figures["f1"], figures["recall"]["1"]) == (0.5, None, 0.5)


def passage(text: str) -> dict:
    return {"id": "p", "title": "", "section": "", "text": text, "score": 1.0, "posterior": 1.0}
