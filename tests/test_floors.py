"""The architecture as a test: imports go pipelines -> rag_ops -> schemas, and heavy libraries load late."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOORS = {
    "schemas": {"pipelines", "rag_ops", "apache_beam", "torch", "transformers", "faiss", "datasets", "fsspec"},
    "rag_ops": {"pipelines", "apache_beam"},
}
PACKAGES = ("schemas", "rag_ops", "pipelines")
LATE = {"faiss", "torch", "transformers"}
# Each room imports from the steps below it; rooms of one step do not import each other.
STEPS = [
    line.split()
    for line in """
        schemas
        rag_ops.redaction
        rag_ops.errors rag_ops.heap rag_ops.defaults
        rag_ops.settings rag_ops.sizes rag_ops.machine
        rag_ops.storage rag_ops.compute rag_ops.markup
        rag_ops.articles rag_ops.questions rag_ops.models
        rag_ops.retrieval rag_ops.generation
        rag_ops.evaluation rag_ops.interop rag_ops.planning
        rag_ops.training
        rag_ops
        pipelines.interrupts
        pipelines.console pipelines.runners
        pipelines.transforms
        pipelines.chunk pipelines.embed pipelines.index pipelines.answer pipelines.search
        pipelines.evaluate pipelines.finetune
        pipelines.run pipelines.plan pipelines.compose pipelines.transfer pipelines.verify pipelines.serve_workers \
            pipelines.diff
        pipelines.demo
        pipelines.cli
    """.strip().splitlines()
]
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
        allowed = {"pickle"} if path.name == "imports.py" else set()  # reads plain data by an unpickler of its own
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


def modules() -> dict[str, set[str]]:
    """Every module of ours, with the modules of ours that it imports, wherever in it."""
    paths = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): path for name in PACKAGES for path in sources(name)
    }
    graph: dict[str, set[str]] = {}
    for module, path in paths.items():
        names = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                inside = [f"{node.module}.{alias.name}" for alias in node.names]
                names |= {name if name in paths else str(node.module) for name in inside}
        graph[module] = names & set(paths) - {module}
    return graph


def room(module: str) -> str:
    parts = module.removesuffix(".__init__").split(".")
    return parts[0] if parts[0] == "schemas" else ".".join(parts[:2])


def test_imports_go_down_the_steps():
    step = {name: number for number, names in enumerate(STEPS) for name in names}
    for module, others in modules().items():
        for other in others:
            assert room(other) == room(module) or step[room(other)] < step[room(module)], f"{module} imports {other}"


def test_no_imports_go_in_a_circle():
    graphlib.TopologicalSorter(modules()).prepare()


SETTING_NOTHING = """
import codecs, csv, importlib, os, signal, sys, threading
import apache_beam, datasets, faiss, torch._dynamo, transformers.models.rag  # torch._dynamo, which some of transformers
# imports, sets TORCHINDUCTOR_CACHE_DIR

def state():
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    hooks = [sys.excepthook, threading.excepthook, sys.unraisablehook, *handlers]
    return csv.field_size_limit(), hooks, torch.get_num_threads(), dict(os.environ), sys.getrecursionlimit()

def has_codec():
    try:
        return bool(codecs.lookup_error("rag_ops.undecodable"))
    except LookupError:
        return False

before = state()
for module in sys.argv[1:]:
    importlib.import_module(module)
    if state() != before or has_codec():
        print(module)
        break
"""


def test_no_module_sets_anything_of_the_process_when_it_is_imported():
    """One after the other, from below: as no imports go in a circle, each could be the first as well."""
    order = graphlib.TopologicalSorter(modules()).static_order()
    names = [name.removesuffix(".__init__") for name in order if not name.endswith("__main__")]
    names = [name for name in names if name.split(".")[0] in ("rag_ops", "schemas")]
    assert len(names) > 60
    command = [sys.executable, "-c", SETTING_NOTHING, *names]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "", done.stdout + done.stderr
