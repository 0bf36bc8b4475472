"""The evaluation as one page of HTML: no file beside it, no network; plots are SVG, made here.

The page shows all without JavaScript; a little of it searches, filters and pages the list. A content security policy
lets no other script run, and every text is escaped.
"""

from __future__ import annotations

import base64
import hashlib
import heapq
import html
import math
import string
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from rag_ops.evaluation import plots
from rag_ops.evaluation.figures import MAX_WORDS, Scored

OUTCOMES = ("right", "wrong", "error", "no gold")
SHOWN_PASSAGES = 10  # passages of a question, besides the first that holds an answer
SHOWN_CHARS = 1500  # characters of any one text: a report's size is bounded whatever the rows hold
SHOWN_TOKENS = 200
LEAST_WORDS = 6  # words on the axis of lengths
LOG_FROM = 20  # recall@k up to here is drawn over plain k


class Selection:
    """Which rows the list shows: of each outcome an equal share where there are so many, chosen by a hash of the row.

    The choice depends on the rows alone, not on their order or number of files. Memory is at most four times the list.

    Args:
        limit: rows of the list.
    """

    def __init__(self, limit: int):
        self._limit, self._seen = limit, 0
        self._kept: dict[str, list[tuple[int, int, str]]] = {outcome: [] for outcome in OUTCOMES}

    def add(self, scored: Scored) -> None:
        """Looks at one row."""
        self._seen += 1
        name = f"{scored.source}\0{scored.row['question_id']}\0{scored.row['question']}"
        rank = -int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")  # the highest ranks stay
        kept = self._kept[scored.outcome]
        if len(kept) < self._limit:
            heapq.heappush(kept, (rank, -self._seen, row_html(scored)))
        elif kept and rank > kept[0][0]:
            heapq.heapreplace(kept, (rank, -self._seen, row_html(scored)))

    def rows(self) -> list[str]:
        """The rows as HTML, in the order they came."""
        room, shares = self._limit, {}
        by_size = sorted(OUTCOMES, key=lambda outcome: len(self._kept[outcome]))
        for left, outcome in zip(range(len(by_size), 0, -1), by_size, strict=True):  # what one does not fill, others do
            shares[outcome] = min(len(self._kept[outcome]), room // left)
            room -= shares[outcome]
        chosen = [row for outcome, share in shares.items() for row in sorted(self._kept[outcome], reverse=True)[:share]]
        return [text for _, _, text in sorted(chosen, key=lambda row: -row[1])]

    @property
    def seen(self) -> int:
        """How many rows were looked at."""
        return self._seen


def page(figures: Mapping[str, Any], selection: Selection) -> str:
    """The whole page.

    Args:
        figures: result of `rag_ops.evaluation.figures.evaluate`.
        selection: the rows of the list.
    """
    rows = selection.rows()
    left_out = selection.seen - len(rows)
    shown = f"{len(rows):,} of {selection.seen:,} rows are listed."
    if left_out:
        shown += f" {left_out:,} were left out, evenly by outcome; --report_rows lists more."
    script = _package_text("report.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return string.Template(_package_text("report.html")).substitute(
        head=_head(figures),
        tiles=_tiles(figures["all"]),
        table=_table(figures),
        plots="".join(_plots(figures)),
        shown=shown,
        options="".join(f'<option value="{outcome}">{outcome}</option>' for outcome in OUTCOMES),
        rows="".join(rows),
        script=script,
        script_hash=f"sha256-{digest}",
    )


def row_html(scored: Scored) -> str:
    """One row of the list."""
    row = scored.row
    outcome, gold = scored.outcome, row["gold_answers"]
    answer = f"no answer: {row['error']}" if row["error"] else row["answer"] or "(empty)"
    find = " ".join([row["question"], answer, *gold])
    held = "" if scored.gold is None else "no" if scored.place is None else "yes"
    facts = [("Answer", _tokens(row) if row["tokens"] else _text(answer))]
    facts.append(("Gold", _text(" | ".join(gold) or "none")))
    if row["score"] is not None:
        facts.append(("Probability", f"{math.exp(row['score']):.2%} (log {row['score']:.3f})"))
    if scored.f1 is not None and not row["error"]:
        facts.append(("F1", f"{scored.f1:.1%}"))
    facts.append(("Id", _text(row["question_id"])))
    listed = "".join(f"<dt>{name}</dt><dd dir=auto>{value}</dd>" for name, value in facts)
    return (
        f'<details class="row" data-outcome="{outcome}" data-held="{held}" data-find="{_text(find)}">'
        f'<summary><span class="badge {outcome.replace(" ", "")}">{outcome}</span>'
        f"<span dir=auto>{_text(row['question'] or '(empty)')}</span>"
        f'<span class="answer dim" dir=auto>{_text(answer)}</span></summary>'
        f'<div class="body"><dl>{listed}</dl><ol>{_passages(scored)}</ol></div></details>\n'
    )


def _tokens(row: Mapping[str, Any]) -> str:
    """The answer's tokens, each in its passage's colour; what the answer's text lacks, such as its end, is dim."""
    parts: list[str] = []
    rest = row["answer"]
    for token in row["tokens"][:SHOWN_TOKENS]:
        # Tokenizers mark spaces in ways of their own, or word pieces instead; the answer's text has them.
        piece, following = token["text"].removeprefix("##").strip(), rest.lstrip()
        written = bool(piece) and following.startswith(piece)
        space = " " if parts and (not written or len(following) < len(rest)) else ""
        if written:
            rest = following[len(piece) :]
        shares = token["posterior"]
        best = max(range(len(shares)), key=shares.__getitem__)
        hint = f"passage {best + 1}: {shares[best]:.0%}; log-probability {token['log_probability']:.3f}"
        parts.append(
            f'{space}<span class="t s{best % plots.COLOURS}{"" if written else " special"}" data-passage="{best + 1}" '
            f'title="{_text(hint)}">{_text(piece)}</span>'
        )
    return "".join(parts) + ("…" if len(row["tokens"]) > SHOWN_TOKENS else "")


def _passages(scored: Scored) -> str:
    passages = scored.row["passages"] or []
    used = sum(passage["posterior"] is not None for passage in passages)
    shown = list(range(min(len(passages), used or SHOWN_PASSAGES, SHOWN_PASSAGES)))
    if scored.place is not None and scored.place - 1 not in shown:
        shown.append(scored.place - 1)
    parts = []
    for place in shown:
        passage = passages[place]
        held = scored.gold is not None and scored.gold.held_in(passage["text"])
        share = passage["posterior"]
        facts = f"score {passage['score']:.3f}"
        if share is not None:
            facts = f'posterior<span class="meter"><i style="width:{share:.1%}"></i></span>{share:.1%} · {facts}'
        else:
            facts += " · kept, not used for the answer"
        colour = f"s{place % plots.COLOURS}" if share is not None else "none"
        parts.append(
            f'<li class="{colour}"><span class="n {colour}">{place + 1}</span><div><b dir=auto>'
            f'{_text(passage["title"])}</b> <span class="facts">{facts}'
            f"{' · <span class=held>holds a gold answer</span>' if held else ''}</span>"
            f'<div class="text" dir=auto>{_text(passage["text"])}</div></div></li>'
        )
    if rest := len(passages) - len(shown):
        parts.append(f'<li class="none"><span></span><span class="facts">{rest} more passages are kept</span></li>')
    return "".join(parts)


def _head(figures: Mapping[str, Any]) -> str:
    names = ", ".join(_text(one["name"]) for one in figures["files"])
    settings = figures["settings"]
    gold = _text(" ".join(settings["gold"])) if settings["gold"] else "the answers' own"
    kind = "regular expressions" if settings["regex_answers"] else "texts"
    return f"<p>{names}</p><p class=dim>Gold answers: {gold}, {kind}.</p>"


def _tiles(figures: Mapping[str, Any]) -> str:
    recall = {k: value for k, value in figures["recall"].items() if value is not None}
    tiles = [
        (_percent(figures["em"]), "exact match"),
        (_percent(figures["f1"]), "F1"),
        *((_percent(value), f"recall@{k}") for k, value in recall.items()),
        (f"{figures['scored']:,}", f"of {figures['rows']:,} rows scored"),
        (f"{figures['errors']:,}", "rows with an error"),
        (f"{figures['truncated']:,}", "truncated"),
    ]
    return "".join(f'<div class="tile"><b>{value}</b><span>{name}</span></div>' for value, name in tiles)


def _table(figures: Mapping[str, Any]) -> str:
    every = [figures["all"], *figures["files"]]
    ks = sorted({k for one in every for k, value in one["recall"].items() if value is not None}, key=int)
    names = ["", "rows", "scored", "errors", "EM", "F1", *(f"recall@{k}" for k in ks), "mean words"]
    lines = [f"<thead><tr>{''.join(f'<th>{name}</th>' for name in names)}</tr></thead><tbody>"]
    for one in figures["files"]:
        lines.append(_table_row("", one, ks))
        lines += [_table_row("part", part, ks) for part in one["question_files"]]
    return "".join([*lines, _table_row("all", figures["all"], ks), "</tbody>"])


def _table_row(kind: str, one: Mapping[str, Any], ks: Sequence[str]) -> str:
    mean = one["answer_words"]["mean"]
    cells = [_text(one["name"]), *(f"{one[name]:,}" for name in ("rows", "scored", "errors"))]
    cells += [_percent(one["em"]), _percent(one["f1"]), *(_percent(one["recall"].get(k)) for k in ks)]
    cells.append("–" if mean is None else f"{mean:.1f}")
    return f'<tr class="{kind}">' + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _plots(figures: Mapping[str, Any]) -> list[str]:
    total, files = figures["all"], [one for one in figures["files"] if one["scored"]]
    curves = [(one["name"], _from_one(one["recall_curve"])) for one in files]
    deepest = max(one["passages"] for one in files)
    recall = plots.line_plot("Recall at k", curves, "k passages", "recall@k", log_x=deepest > LOG_FROM)
    again = bool(total["sweep"])
    points = total["sweep"] or sorted(files, key=lambda one: one["n_docs"])
    lines = [("EM", [(one["n_docs"], one["em"]) for one in points])]
    if total["f1"] is not None:
        lines.append(("F1", [(one["n_docs"], one["f1"]) for one in points]))
    by_n = plots.line_plot(
        "EM and F1 by number of passages", lines, "passages a question (n_docs)", "share", joined=again
    )
    words = total["answer_words"]
    lengths = [("answers", words["answers"]), ("first gold answers", words["first_gold_answers"])]
    longest = max((n for _, counts in lengths for n, count in enumerate(counts) if count), default=0)
    labels = [*map(str, range(MAX_WORDS)), f"{MAX_WORDS}+"][: max(longest + 1, LEAST_WORDS)]
    length = plots.bar_plot("Length of answers", labels, lengths if any(lengths[1][1]) else lengths[:1], "words")
    found = total["calibration"]
    bins = [(one["from"], one["to"], one["rows"], one["em"]) for one in found["bins"]]
    gap = "" if found["expected_error"] is None else f" Expected calibration error {found['expected_error']:.1%}."
    source = "Generated again from the first passages." if again else "As answered; --sweep generates at more numbers."
    return [
        _figure("recall", "Recall@k", "Questions with a gold answer in the text of the first k passages.", recall),
        _figure("n-docs", "EM and F1 by n_docs", source, by_n),
        _figure("length", "Answer length", "White-space words of an answer.", length),
        _figure(
            "calibration",
            "Score calibration",
            f"Right answers by probability; the dashed line is the ideal.{gap}",
            plots.calibration_plot("Score calibration", bins),
        ),
    ]


def _from_one(values: Sequence[float]) -> list[plots.Point]:
    return [(float(k), value) for k, value in enumerate(values, 1)]


def _figure(name: str, title: str, note: str, svg: str) -> str:
    return f'<figure id="plot-{name}"><figcaption>{title}<small>{note}</small></figcaption>{svg}</figure>'


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def _text(text: str) -> str:
    """Text as HTML, also within an attribute; too long ones are cut."""
    shown = text if len(text) <= SHOWN_CHARS else text[:SHOWN_CHARS] + "…"
    return html.escape(shown, quote=True).replace("\0", "\ufffd")


def _package_text(name: str) -> str:
    return resources.files("rag_ops.evaluation").joinpath(name).read_text(encoding="utf-8")
