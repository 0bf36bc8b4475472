"""Finds the layout of a table of questions: its delimiter, and whether its first line is a header or a row."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from rag_ops.errors import InputError
from rag_ops.questions.columns import QuestionOptions, choose
from rag_ops.questions.gold_answers import is_list
from rag_ops.questions.text_lines import records

DELIMITERS = {"csv": ",", "tsv": "\t"}
DELIMITER_NAMES = {",": "commas", "\t": "tabs", ";": "semicolons"}


@dataclasses.dataclass(frozen=True)
class Layout:
    """The layout of a table: what stands between cells, its columns' names, and whether its first line is these."""

    delimiter: str
    names: Sequence[str]
    has_header: bool


def layout_of(url: str, lines: Sequence[str], delimiter: str, options: QuestionOptions) -> Layout | None:
    """The layout of a table by its first lines, as `decoded_lines` gives them; None for an empty file.

    The file's name may belie its delimiter, which is only tried first: DPR's `.qa.csv` has tabs, and spreadsheets write
    semicolons. If the options name columns, there must be a header.

    Raises:
        InputError: no delimiter shows a question column.
    """
    refusal = None
    for tried in dict.fromkeys([delimiter, *DELIMITER_NAMES]):
        rows = [[cell.strip() for cell in cells] for _, cells in records(lines, tried, url, quiet=True) if cells]
        if not rows:
            return None
        layout = _without_header(rows, tried) if not options.names_a_column else None
        try:
            if layout is None:
                choose(url, rows[0], options)
                layout = Layout(tried, rows[0], True)
        except InputError as error:
            refusal = refusal or error
            continue
        if tried != delimiter and options.format != "auto":
            raise InputError(
                f"the cells of a question file seem to be separated by {DELIMITER_NAMES[tried]}",
                value=f"{url} begins with {lines[0][:60].strip()}",
                expected=f"--questions_format {options.format}, as given",
                remedy="leave --questions_format out",
            )
        return layout
    assert refusal is not None
    raise refusal


def _without_header(rows: Sequence[Sequence[str]], delimiter: str) -> Layout | None:
    """The layout of a table without a header, if its first rows are of one of the two kinds that are well known.

    DPR's have a question and a list of answers; MS MARCO's and TREC's have a number and a question.
    """
    if {len(row) for row in rows} != {2}:
        return None
    if delimiter == "\t" and is_list(rows[0][1]):
        return Layout(delimiter, ("question", "answers"), False)
    sentences = sum(" " in row[1] for row in rows)  # some questions are a word or a number
    if all(row[0].isdecimal() for row in rows) and 2 * sentences >= len(rows):
        return Layout(delimiter, ("id", "question"), False)
    return None
