"""Every benchmark runs, at toy size; one that fails does not keep the others from running."""

import contextlib
import io
import json
import math
import resource
import sys
from types import SimpleNamespace

import pytest

from tests.benchmarks import common, running, table
from tests.benchmarks.__main__ import NAMES, main, module_of
from tests.benchmarks.results import NotHereError


@pytest.mark.parametrize("name", [name for name in NAMES if name != "flink"])  # which test_flink.py runs
def test_a_benchmark_runs_at_toy_size(name, tmp_path, monkeypatch, minilm, some_pages):
    monkeypatch.setenv("RAGBEAM_BENCH_DUMP", some_pages)
    module = pytest.importorskip(module_of(name))
    if name != "rows":  # which measures a process of its own: that takes 5 s to start
        for each in (common, module):
            monkeypatch.setattr(each, "peak_bytes_of", peak_here, raising=False)
    try:
        results = module.run(tmp_path, module.TOY)
    except NotHereError as reason:
        pytest.skip(str(reason))
    assert results
    for result in results:
        assert math.isfinite(result.ratio), result
        assert result.figures
        assert result.right, result
    assert len({result.name for result in results}) == len(results)


def peak_here(code: str, *arguments: object) -> int:
    """The peak memory of this process so far, after it ran code with arguments."""
    names = {"sys": SimpleNamespace(argv=["-c", *map(str, arguments)])}
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        exec(code, names)
    assert names["code"] == 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


MODULES = {
    "sound": "def run(directory):\n    (directory / 'file').touch()\n"
    "    return [Result('a / b', 2.0, '>= 1', True, 'x')]\n",
    "slow": "def run(directory):\n    return [Result('c / d', 0.5, '>= 1', False, 'y')]\n",
    "raises": "def run(directory):\n    return [Result('e', 1 / 0, '', True, '')]\n",
    "dies": "import os\ndef run(directory):\n    os.kill(os.getpid(), 9)\n",
    "absent": "from tests.benchmarks.results import NotHereError\n"
    "def run(directory):\n    raise NotHereError('no such thing')\n",
}


def test_one_that_raises_dies_or_is_absent_is_reported_and_the_others_go_on(tmp_path, monkeypatch, capsys):
    for name, text in MODULES.items():
        (tmp_path / f"toy_{name}.py").write_text(f"from tests.benchmarks.results import Result\n{text}")
    monkeypatch.syspath_prepend(tmp_path)
    kept = tmp_path / "kept.jsonl"
    order = ["raises", "dies", "absent", "slow", "sound"]
    with kept.open("w") as file:
        missed = running.run_all([(name, f"toy_{name}") for name in order], file)
    assert missed == 3
    first, *records = map(json.loads, kept.read_text().splitlines())
    assert first["cores"] > 0
    told = [record for record in records if "seconds" not in record]
    assert [record["benchmark"] for record in told] == order
    assert "ZeroDivisionError" in told[0]["error"]
    assert "died" in told[1]["error"]
    assert told[2]["skipped"] == "no such thing"
    assert [record["ok"] for record in told[3:]] == [False, True]
    assert told[4] == {
        **{"benchmark": "sound", "name": "a / b", "ratio": 2.0, "wanted": ">= 1"},
        **{"ok": True, "figures": "x", "right": True},
    }
    printed = capsys.readouterr().out
    assert [line[:4] for line in printed.splitlines() if line[:4] in ("FAIL", "skip", "MISS", "ok  ")] == [
        *("FAIL", "FAIL", "skip", "MISS", "ok  "),
    ]


@pytest.mark.parametrize(("missed", "code"), [(0, 0), (2, 1)])
def test_the_exit_code_says_whether_all_is_as_it_must_be(missed, code, monkeypatch, tmp_path):
    given = []
    command = sys.modules["tests.benchmarks.__main__"]
    monkeypatch.setattr(command, "run_all", lambda names, _: given.extend(names) or missed)
    assert main(["chunk", "--output", str(tmp_path / "out.jsonl")]) == code
    assert given == [("chunk", "tests.benchmarks.bench_chunk")]


def test_an_unknown_benchmark_is_bad_usage(capsys):
    assert main(["chunks"]) == 2
    assert "'chunks'" in capsys.readouterr().err


MACHINE = {"machine": "A processor", "cores": 2, "python": "3.11", "versions": {"torch": "2.13"}, "date": "2026-11-26"}
FOUND = {"benchmark": "chunk", "name": "chunk / a loop", "ratio": 1.625, "wanted": ">= 0.80", "figures": "138 | 85"}
OTHER = {**FOUND, "benchmark": "fuzz", "name": "not shown"}
SECONDS = {"benchmark": "chunk", "seconds": 12.5}
ROWS = """Measured on 2026-11-26, on 2 cores of A processor, with Python 3.11, torch 2.13:

| | ratio | wanted | figures |
|---|---|---|---|
| chunk / a loop | 1.62 | >= 0.80 | 138 \\| 85 |"""


def test_some_benchmarks_replace_their_own_results_only(tmp_path, monkeypatch, capsys):
    kept = tmp_path / "measured.jsonl"
    here = {**running.machine(), "date": "2026-11-01"}
    fuzz, chunk = {**OTHER, "ok": True}, {**FOUND, "ok": True}
    kept.write_text("".join(json.dumps(record) + "\n" for record in (here, chunk, SECONDS, fuzz)))
    monkeypatch.setattr(
        running,
        "run_apart",
        lambda module: [{"name": "new", "ratio": 3.0, "wanted": ">= 1", "ok": True, "figures": "y"}],
    )
    assert main(["chunk", "--update", str(kept)]) == 0
    first, new, seconds, other = running.read_records(kept)
    assert (first, other) == (here, fuzz)
    assert (new["benchmark"], new["name"], seconds["date"]) == ("chunk", "new", running.machine()["date"])
    assert f"Measured on 2026-11-01 (chunk: {seconds['date']}), on" in table.render([first, new, seconds, other])
    kept.write_text(json.dumps({**here, "cores": 99}) + "\n")
    assert main(["chunk", "--update", str(kept)]) == 2
    assert "cores was 99" in capsys.readouterr().err


def test_the_table_of_readme_comes_from_the_kept_results(tmp_path, monkeypatch):
    readme, kept = tmp_path / "README.md", tmp_path / "measured.jsonl"
    readme.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n")
    kept.write_text("".join(json.dumps(record) + "\n" for record in (MACHINE, FOUND, SECONDS, OTHER)))
    monkeypatch.setattr(table, "README", readme)
    monkeypatch.setattr(table, "MEASURED", kept)
    for _ in range(2):  # written again it is the same
        assert table.main() == 0
        assert readme.read_text() == f"before\n{table.BEGIN}\n{ROWS}\n{table.END}\nafter\n"


@pytest.mark.parametrize(
    ("records", "text", "message"),
    [
        ([FOUND], "{}{}", "does not name the machine"),
        ([MACHINE, SECONDS], "{}{}", "no result"),
        ([MACHINE, FOUND, {"benchmark": "decode", "error": "TypeError: x"}], "{}{}", "decode failed: TypeError: x"),
        ([MACHINE, FOUND], "{}", "once each"),
        ([MACHINE, FOUND], "{1}{0}", "once each"),
        (None, "{}{}", "is not there: make bench writes it"),
    ],
)
def test_without_a_whole_table_readme_stays(tmp_path, monkeypatch, capsys, records, text, message):
    readme, kept = tmp_path / "README.md", tmp_path / "measured.jsonl"
    readme.write_text(before := text.format(table.BEGIN, table.END))
    if records is not None:
        kept.write_text("".join(json.dumps(record) + "\n" for record in records))
    monkeypatch.setattr(table, "README", readme)
    monkeypatch.setattr(table, "MEASURED", kept)
    assert table.main() == 1
    assert message in capsys.readouterr().err
    assert readme.read_text() == before


def test_readme_shows_what_was_measured_last():
    text = table.README.read_text(encoding="utf-8")
    if not table.MEASURED.exists():
        assert table.replaced(text, "") != text  # its marks are there
        pytest.skip("no results are kept: make bench")
    assert table.replaced(text, table.render(table.read(table.MEASURED))) == text
