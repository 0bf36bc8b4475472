"""What is installed: the files beside the code that it reads."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LISTING = """
import setuptools  # brings distutils where Python has none
from distutils.core import run_setup
build = run_setup("setup.py", stop_after="init").get_command_obj("build_py")
build.ensure_finalized()
print(*(f"{folder}/{name}" for _, folder, _, names in build.data_files for name in names), sep="\\n")
"""


def test_every_file_that_the_code_reads_is_in_the_wheel():
    pytest.importorskip("setuptools")
    done = subprocess.run([sys.executable, "-c", LISTING], cwd=ROOT, capture_output=True, text=True, check=True)
    installed = {os.path.relpath(line, "") for line in done.stdout.splitlines()}
    there = {
        str(path.relative_to(ROOT))
        for package in ("pipelines", "rag_ops", "schemas")
        for path in (ROOT / package).rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc") and path.name not in ("README.md", "SCALE.md")
    }
    assert {"rag_ops/markup/units.tsv", "rag_ops/evaluation/report.html"} <= there
    assert installed == there
