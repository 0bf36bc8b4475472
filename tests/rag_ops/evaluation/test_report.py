"""Tests of rag_ops.evaluation.report: the page in a real browser, and what it shows of hostile and of many rows."""

import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import pytest
from PIL import Image

from rag_ops.evaluation import report
from rag_ops.evaluation.figures import AnswerSet, evaluate, score
from tests.pipelines.workspace import answer_row, write_answers

PLOTS = ("recall", "n-docs", "length", "calibration")
HOSTILE = "</summary><script>document.title='broken'</script><img src=x onerror=\"document.title='broken'\">'\"&\0"
QUIET = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
QUIET += " --disable-component-update --disable-sync --hide-scrollbars"


def rows(count: int) -> list[dict]:
    """Rows of which each third is right, wrong, or has an error."""
    made = []
    for n in range(count):
        passages = [
            {"id": f"{n}-{k}", "title": f"title {k}", "text": "the moon" if k == n % 5 else "the sun", "score": 5.0 - k}
            | {"section": "", "posterior": 0.5 if k == n % 2 else 0.25 if k < 3 else None}
            for k in range(5)
        ]
        shares = [[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4]]
        texts = (" moon", " or", " sun")
        tokens = [
            {"text": text, "log_probability": -0.1, "posterior": share}
            for text, share in zip(texts, shares, strict=True)
        ]
        answer = ("moon", "moon or sun", None)[n % 3]
        row = answer_row(f"q{n}", f"question {n}", answer, ["moon"], passages=passages, tokens=tokens, score=-0.1 * n)
        made.append(row | ({"error": "no such luck", "score": None, "tokens": None} if answer is None else {}))
    return made


def written(directory: Path, made: list[dict], limit: int = 1000) -> Path:
    """A report of these rows."""
    selection = report.Selection(limit)
    url = write_answers(directory / "answers", made, 3, retrieve=5)
    figures = evaluate([AnswerSet.open(url)], on_row=selection.add)
    figures["all"]["sweep"] = [{"n_docs": n, "em": n / 20, "f1": n / 15} for n in (1, 5, 10, 15)]
    figures["settings"] = {"gold": None, "regex_answers": False, "sweep": None}
    path = directory / "report.html"
    path.write_text(report.page(figures, selection), encoding="utf-8")
    return path


def chromium(directory: Path, page: Path, *flags: str) -> str:
    """What Chromium prints of a page."""
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("chromium is not installed (apt-get install chromium)")
    command = [browser, *QUIET.split(), f"--user-data-dir={directory / 'profile'}", *flags, page.as_uri()]
    return subprocess.run(command, capture_output=True, check=True, timeout=120).stdout.decode()


def test_every_plot_is_drawn_on_the_screen(tmp_path):
    page = written(tmp_path, rows(30))
    # Where each plot stands is told by the browser: the copy's own script writes it down, so it has no policy.
    probe = re.sub(r"<meta http-equiv[^>]*>", "", page.read_text())
    probe = probe.replace(
        "</body>",
        "<script>for (const figure of document.querySelectorAll('figure')) { const box ="
        " figure.querySelector('svg').getBoundingClientRect(); figure.dataset.box ="
        " [box.left, box.top, box.right, box.bottom].map(Math.round).join(); }</script></body>",
    )
    copy = tmp_path / "probe.html"
    copy.write_text(probe)
    size = "--window-size=1200,1600"
    dom = chromium(tmp_path, copy, "--dump-dom", size)
    chromium(tmp_path, page, f"--screenshot={tmp_path / 'page.png'}", size)
    image = Image.open(tmp_path / "page.png").convert("RGB")
    boxes = dict(re.findall(r'<figure id="plot-([a-z-]+)" data-box="([\d,]+)"', dom))
    assert set(boxes) == set(PLOTS)
    for name, box in boxes.items():
        left, top, right, bottom = map(int, box.split(","))
        assert right - left > 300, name
        assert bottom - top > 150, name
        legend = (bottom - top) // 10  # its squares have the series' colours too
        colours = image.crop((left, top + legend, right, bottom)).getcolors(1 << 24)
        blue = sum(count for count, colour in colours if colour == (0x0B, 0x6F, 0xB8))
        assert blue > 150, f"the first series of {name} is not drawn"


def test_hostile_text_stays_text(tmp_path):
    made = rows(6)
    made[0] |= {"question": HOSTILE, "answer": HOSTILE, "gold_answers": [HOSTILE], "question_id": HOSTILE}
    made[0]["passages"][0] |= {"title": HOSTILE, "text": HOSTILE}
    made[0]["tokens"][0]["text"] = HOSTILE
    made[2]["error"] = HOSTILE
    page = written(tmp_path, made)
    source = page.read_text()
    assert source.count("<script") == 1
    assert "<img" not in source
    dom = chromium(tmp_path, page, "--dump-dom")
    assert "<title>ragbeam evaluation</title>" in dom
    assert dom.count('<details class="row"') == 6


def test_the_page_needs_nothing_from_outside_and_its_script_runs(tmp_path):
    page = written(tmp_path, rows(60))
    source = page.read_text()
    assert not re.search(r"""(src|href)=|url\(|@import|https?://""", source)
    dom = chromium(tmp_path, page, "--dump-dom")
    assert "60 found, page 1 of 3" in dom
    shown = [tag for tag in re.findall(r'<details class="row"[^>]*>', dom) if "hidden" not in tag]
    assert len(shown) == 25


def test_tokens_have_the_colour_of_their_likeliest_passage():
    html = report.row_html(score(rows(2)[1], 0))
    spans = re.findall(r'<span class="t s(\d)" data-passage="(\d)"[^>]*>([^<]*)<', html)
    assert spans == [("0", "1", "moon"), ("1", "2", "or"), ("2", "3", "sun")]
    assert "holds a gold answer" in html
    assert "2 more passages are kept" in html


@pytest.mark.parametrize(
    ("answer", "texts"),
    [
        ("Neil Armstrong", ["[CLS]", "Neil", "Arm", "##strong", "[SEP]"]),
        ("Neil Armstrong", ["Neil", " Arm", "strong", "</s>"]),
        ("Neil Armstrong", ["Neil", "Arm", "strong", "</s>"]),  # sentence pieces, each decoded alone
        ("don't", ["don", "'", "t"]),
    ],
)
def test_tokens_of_any_tokenizer_read_as_the_answer(answer, texts):
    tokens = [{"text": text, "log_probability": -0.1, "posterior": [1.0]} for text in texts]
    html = report.row_html(score(answer_row("q", "who", answer, ["x"], tokens=tokens, score=-1.0), 0))
    shown = html[html.index("<dt>Answer") : html.index("<dt>Gold")]
    shown = re.sub(r'<span class="[^"]*special"[^>]*>[^<]*</span>', "", shown).split("<dd", 1)[1].split(">", 1)[1]
    assert unescape(re.sub(r"<[^>]*>", "", shown)).strip() == answer


def test_the_list_is_bounded_mixed_and_the_same_whatever_the_order():
    made = rows(300)
    made += [answer_row(f"n{n}", f"no gold {n}", "x", None) for n in range(4)]
    forth, back = report.Selection(40), report.Selection(40)
    for row in made:
        forth.add(score(dict(row), 0))
    for row in reversed(made):
        back.add(score(dict(row), 0))
    assert sorted(forth.rows()) == sorted(back.rows())
    outcomes = [re.search(r'data-outcome="([a-z ]+)"', text)[1] for text in forth.rows()]
    assert {outcome: outcomes.count(outcome) for outcome in report.OUTCOMES} == {
        "right": 12,
        "wrong": 12,
        "abstained": 0,
        "error": 12,
        "no gold": 4,
    }
    assert report.Selection(0).rows() == []


def test_a_row_of_huge_texts_is_cut():
    row = rows(1)[0]
    for passage in row["passages"]:
        passage["text"] = "moon " * 100_000
    row["question"] = "x" * 1_000_000
    assert len(report.row_html(score(row, 0))) < 30_000
