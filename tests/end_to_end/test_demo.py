"""The demo as a newcomer runs it: real text, the real encoder, the printed table."""

import re

from pipelines.cli import main
from rag_ops.stages import read_manifest


def test_the_demo_finds_the_passages_and_says_that_its_generator_is_untrained(tmp_path, excerpt, minilm, capsys):
    assert main(["demo", "--workspace", str(tmp_path), "--max_new_tokens", "4"]) == 0
    printed = capsys.readouterr().out
    found = int(re.search(r"the passages of (\d+) hold a right one", printed)[1])
    asked = 48
    assert read_manifest(str(tmp_path / "answers"), "answer").rows == asked
    assert found >= 0.8 * asked
    assert printed.count("\nQ  ") == asked
    assert "untrained" in printed
    right = int(re.search(r"(\d+) of 48 answers are right", printed)[1])
    assert printed.count(" [right] ") == right
    assert printed.count(" [right] ") + printed.count(" [wrong] ") == asked
    assert main(["demo", "--workspace", str(tmp_path), "--max_new_tokens", "4"]) == 0
    assert capsys.readouterr().out.count("all reused, nothing to do") == 4
