"""The evaluation as one page of HTML: no file beside it, no network; plots are SVG, made here.

Without JavaScript the page shows everything; a short script searches, filters and pages the list. A content security
policy lets no other script run. What the page says stands in `report.html` and `row.html`.
"""

from __future__ import annotations

import base64
import hashlib
import heapq
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from typing import Any

from rag_ops.evaluation import plots
from rag_ops.evaluation.figures import recall_at
from rag_ops.evaluation.scored import Scored
from rag_ops.evaluation.tally import MAX_WORDS
from rag_ops.evaluation.templates import interval, render

OUTCOMES = ("right", "wrong", "abstained", "error", "no gold")
SHOWN_PASSAGES = 10  # passages of a question, besides the first that holds an answer
SHOWN_TOKENS = 200
LEAST_WORDS = 6  # words on the axis of lengths
LOG_FROM = 20  # recall@k up to here is drawn over plain k


class Selection:
    """The rows that the list shows: an equal share of each outcome if there are so many, chosen by a hash of the row.

    The choice depends on the rows alone, not on their order or number of files. Memory is at most four times the list.

    Args:
        limit: rows of the list.

    Attributes:
        seen: number of rows that were looked at.
    """

    def __init__(self, limit: int):
        self._limit, self.seen = limit, 0
        self._kept: dict[str, list[tuple[int, int, str]]] = {outcome: [] for outcome in OUTCOMES}

    def add(self, scored: Scored) -> None:
        """Looks at one row."""
        self.seen += 1
        name = f"{scored.source}\0{scored.row['question_id']}\0{scored.row['question']}"
        rank = -int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")  # the highest ranks stay
        kept = self._kept[scored.outcome]
        if len(kept) < self._limit:
            heapq.heappush(kept, (rank, -self.seen, row_html(scored)))
        elif kept and rank > kept[0][0]:
            heapq.heapreplace(kept, (rank, -self.seen, row_html(scored)))

    def rows(self) -> list[str]:
        """The rows as HTML, in the order they came."""
        room, shares = self._limit, {}
        by_size = sorted(OUTCOMES, key=lambda outcome: len(self._kept[outcome]))
        for left, outcome in zip(range(len(by_size), 0, -1), by_size, strict=True):  # what one does not fill, others do
            shares[outcome] = min(len(self._kept[outcome]), room // left)
            room -= shares[outcome]
        chosen = [row for outcome, share in shares.items() for row in sorted(self._kept[outcome], reverse=True)[:share]]
        return [text for _, _, text in sorted(chosen, key=lambda row: -row[1])]


def page(figures: Mapping[str, Any], selection: Selection) -> str:
    """The whole page.

    Args:
        figures: result of `rag_ops.evaluation.figures.evaluate`.
        selection: the rows of the list.
    """
    script = resources.files("rag_ops.evaluation").joinpath("report.js").read_text(encoding="utf-8")
    return render(
        "report.html",
        **{"comparison": None, "qrels": None, **figures},
        ks=recall_at(figures),
        plots=_plots(figures),
        outcomes=OUTCOMES,
        rows=selection.rows(),
        seen=selection.seen,
        script=script,
        script_hash="sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def row_html(scored: Scored) -> str:
    """One row of the list."""
    row, passages, tokens = scored.row, scored.row["passages"] or (), scored.row["tokens"] or ()
    used = sum(passage["posterior"] is not None for passage in passages)
    shown = list(range(min(len(passages), used or SHOWN_PASSAGES, SHOWN_PASSAGES)))
    if scored.place is not None and scored.place - 1 not in shown:
        shown.append(scored.place - 1)
    held = {n: scored.gold is not None and scored.gold.held_in(passages[n]["text"]) for n in shown}
    why = row["error"] or row.get("abstained")
    answer = f"no answer: {why}" if why else row["answer"] or "(empty)"
    return render(
        "row.html",
        row=row,
        outcome=scored.outcome,
        f1=scored.f1 if scored.answered else None,
        ranking=scored.ranking,
        held="" if scored.gold is None else "no" if scored.place is None else "yes",
        find=" ".join([row["question"], answer, *row["gold_answers"]]),
        answer=answer,
        probability=scored.probability,
        tokens=[] if why else list(_tokens(row["answer"], tokens[:SHOWN_TOKENS])),
        more_tokens=not why and len(tokens) > SHOWN_TOKENS,
        passages=[(n, passages[n], held[n]) for n in shown],
        more_passages=len(passages) - len(shown),
    )


def _tokens(rest: str, tokens: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str, int, bool, bool]]:
    """Yields the text, hint and likeliest passage of each token, whether the answer has it, and whether behind a space.

    What the answer's text lacks, such as its end, is dim.
    """
    for number, token in enumerate(tokens):
        # Tokenizers mark spaces in ways of their own, or word pieces instead; the answer's text has them.
        piece, following = token["text"].removeprefix("##").strip(), rest.lstrip()
        written = bool(piece) and following.startswith(piece)
        spaced = number > 0 and (not written or len(following) < len(rest))
        if written:
            rest = following[len(piece) :]
        shares = [share or 0.0 for share in token["posterior"]]  # null for a passage that is not read
        best = max(range(len(shares)), key=shares.__getitem__)
        hint = f"passage {best + 1}: {shares[best]:.0%}; log-probability {token['log_probability']:.3f}"
        yield piece, hint, best, written, spaced


def _plots(figures: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """Name, title, note and SVG of each plot that there is something to draw for."""
    total, files = figures["all"], [one for one in figures["files"] if one["scored"]]
    return [
        *(_recall_plot(files) if files else ()),
        *(_n_docs_plot(total, files) if total["em"] is not None else ()),
        *(_length_plot(total) if total["answer_words"]["mean"] is not None or total["em"] is not None else ()),
        *(_calibration_plot(total) if total["em"] is not None else ()),
    ]


_Plots = Iterator[tuple[str, str, str, str]]


def _recall_plot(files: Sequence[Mapping[str, Any]]) -> _Plots:
    curves = [(one["name"], list(enumerate(one["recall_curve"], 1))) for one in files]
    deepest = max(one["passages"] for one in files)
    svg = plots.line_plot(
        curves, title="Recall at k", x_label="k passages", y_label="recall@k", log_x=deepest > LOG_FROM
    )
    yield "recall", "Recall@k", "Questions with a gold answer in the text of the first k passages.", svg


def _n_docs_plot(total: Mapping[str, Any], files: Sequence[Mapping[str, Any]]) -> _Plots:
    again = bool(total["sweep"])
    points = total["sweep"] or sorted(files, key=lambda one: one["n_docs"])
    lines = [
        (label, [(one["n_docs"], one[name]) for one in points])
        for label, name in (("EM", "em"), ("F1", "f1"))
        if total[name] is not None
    ]
    title, n_docs = "EM and F1 by number of passages", "passages a question (n_docs)"
    svg = plots.line_plot(lines, title=title, x_label=n_docs, y_label="share", joined=again)
    source = "Generated again from the first passages." if again else "As answered; --sweep generates at more numbers."
    yield "n-docs", "EM and F1 by n_docs", source, svg


def _length_plot(total: Mapping[str, Any]) -> _Plots:
    words = total["answer_words"]
    lengths = [("answers", words["answers"]), ("first gold answers", words["first_gold_answers"])]
    longest = max((n for _, counts in lengths for n, count in enumerate(counts) if count), default=0)
    names = [*map(str, range(MAX_WORDS)), f"{MAX_WORDS}+"][: max(longest + 1, LEAST_WORDS)]
    lengths = lengths if any(lengths[1][1]) else lengths[:1]
    svg = plots.bar_plot(names, lengths, title="Length of answers", x_label="words", y_label="questions")
    yield "length", "Answer length", "White-space words of an answer.", svg


def _calibration_plot(total: Mapping[str, Any]) -> _Plots:
    found = total["calibration"]
    bins = [(one["from"], one["to"], one["rows"], one["em"]) for one in found["bins"]]
    svg = plots.calibration_plot(bins, title="Score calibration", x_label="answer's probability", y_label="exact match")
    gap = ""
    if found["expected_error"] is not None:
        ends = interval(total["intervals"]["calibration"]["expected_error"]) if total["intervals"] else ""
        gap = f" Expected calibration error {found['expected_error']:.1%}{f' (95%: {ends})' if ends else ''}."
    ideal = f"Right answers by probability; the dashed line is the ideal.{gap}"
    yield "calibration", "Score calibration", ideal, svg
