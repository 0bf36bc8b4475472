"""The architecture as a test: imports go pipelines -> rag_ops -> schemas, and heavy libraries load late."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOORS = {
    "schemas": {"pipelines", "rag_ops", "apache_beam", "torch", "transformers", "faiss", "datasets", "fsspec"},
    "rag_ops": {"pipelines", "apache_beam"},
}
LATE = {"faiss", "torch", "transformers"}
FORBIDDEN_EVERYWHERE = {"pickle", "dill", "cloudpickle"}


def imported(path: Path, *, top_level_only: bool) -> set[str]:
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level_only else ast.walk(tree)
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add((node.module or "").split(".")[0])
    return names


def sources(package: str) -> list[Path]:
    found = sorted((ROOT / package).rglob("*.py"))
    assert len(found) >= 5
    return found


@pytest.mark.parametrize("package", FLOORS)
def test_no_floor_imports_from_above(package):
    for path in sources(package):
        assert not imported(path, top_level_only=False) & FLOORS[package], path


def test_pipelines_load_model_libraries_late():
    for path in sources("pipelines"):
        assert not imported(path, top_level_only=True) & LATE, path


@pytest.mark.parametrize("package", ["schemas", "rag_ops", "pipelines"])
def test_nothing_is_pickled(package):
    for path in sources(package):
        allowed = {"pickle"} if path.name == "legacy.py" else set()  # reads plain data by an unpickler of its own
        assert not (imported(path, top_level_only=False) & FORBIDDEN_EVERYWHERE) - allowed, path


def loaded_by(code: str) -> set[str]:
    """The modules that are loaded after running `code` in a fresh interpreter."""
    command = [sys.executable, "-c", f"import sys; {code}; print(*sys.modules)"]
    return set(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split())


def test_help_does_not_load_a_model_library():
    assert not {*LATE, "apache_beam"} & loaded_by(
        "from pipelines.cli import COMMANDS; from pipelines.console.command import build_parser; build_parser(COMMANDS)"
    )


def test_building_a_pipeline_loads_neither_faiss_nor_transformers():
    loaded = loaded_by("import pipelines.answer.job, pipelines.chunk.job, pipelines.embed.job, pipelines.index.job")
    assert "apache_beam" in loaded
    assert not {"faiss", "transformers"} & loaded
