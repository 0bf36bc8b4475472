"""README, CONTRIBUTING and the floors' pages hold: commands parse, flags exist, links and files are there."""

import ast
import itertools
import re
import shlex
from pathlib import Path

import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from pipelines.cli import COMMANDS
from pipelines.console.command import build_parser, normalise
from rag_ops.errors import InputError
from schemas import answers, embeddings, hits, layout, manifest, passages, questions
from tests.test_floors import STEPS

ROOT = Path(__file__).parent.parent
FLOORS = ("schemas", "rag_ops", "pipelines")
NAMES = ("README.md", "CONTRIBUTING.md", *(f"{floor}/README.md" for floor in FLOORS))
PAGES = {name: (ROOT / name).read_text(encoding="utf-8") for name in NAMES}
ELSEWHERE = (
    "--service_port",
    "--max_bundle_size",
    "--max_bundle_time_mills",
)  # of Beam's worker pool and Flink job server
WRITTEN_LATER = ("tests/benchmarks/measured.jsonl",)  # by make bench
SUFFIXES = ("py", "json", "jsonl", "md", "txt", "html", "xml", "faiss", "csv", "tsv", "parquet", "bz2", "dpr")


def code_lines(page: str) -> list[str]:
    """The lines of a page's indented and fenced code, continued lines in one, `NAME="..."` put in for $NAME."""
    lines, fenced = [], False
    for line in PAGES[page].splitlines():
        if line.startswith("```"):
            fenced = not fenced
        elif fenced or line.startswith("    "):
            lines.append(line)
    joined = [line.strip() for line in "\n".join(lines).replace("\\\n", " ").splitlines()]
    variables = dict(re.findall(r'^([A-Z]+)="(.*)"$', "\n".join(joined), re.MULTILINE))
    return [re.sub(r"\$([A-Z]+)\b", lambda found: variables.get(found[1], found[0]), line) for line in joined]


def code_spans(page: str) -> list[str]:
    """What stands between backticks in a page's text, also where a span goes on in the next line."""
    lines = [line for line in PAGES[page].splitlines() if not line.startswith("    ")]
    return re.findall(r"`([^`]*)`", " ".join(lines))


def command_lines() -> list[tuple[str, str]]:
    lines = [(page, line) for page in PAGES for line in code_lines(page)]
    return [(page, line) for page, line in lines if re.match(r"(\.venv/bin/)?ragbeam ", line)]


def parsers() -> dict:
    [action] = [action for action in build_parser(COMMANDS)._actions if action.choices]
    return action.choices


def beam_flags() -> set[str]:
    return set(PipelineOptions([]).get_all_options(drop_default=False))


def filled(words: list[str]) -> list[str]:
    """A command whose `...` stands for whatever flags it must have and the line leaves out."""
    if "..." not in words:
        return words
    words = [word for word in words if word != "..."]
    needed = [action for action in parsers()[words[0]]._actions if action.required]
    missing = [action.option_strings[0] for action in needed if not {*action.option_strings} & {*words}]
    if words[0] == "index":  # by its kind
        missing += ["--passages" if "bm25" in words else "--embeddings"]
    return [*words, *itertools.chain.from_iterable((flag, "some" + flag.strip("-")) for flag in missing)]


def parse(line: str) -> list[str]:
    """Makes the options of a command line; returns the flags that are left for Beam."""
    words = [normalise(word) for word in shlex.split(line, comments=True)[1:]]
    known, rest = build_parser(COMMANDS).parse_known_args(filled(words))
    given = vars(known)
    command = given.pop("command")
    command.make(given)
    left = [word.partition("=")[0].removeprefix("--") for word in rest if word.startswith("--")]
    assert not left or command.takes_beam_flags
    return left


@pytest.mark.parametrize(("page", "line"), command_lines())
def test_a_command_of_a_page_can_be_given(page, line):
    assert {*parse(line)} <= beam_flags()


def test_most_commands_stand_on_a_page():
    assert len(command_lines()) >= 20
    shown = {shlex.split(line, comments=True)[1] for _, line in command_lines()}
    assert {command.name for command in COMMANDS} - shown == set()


@pytest.mark.parametrize("line", ["ragbeam chunk --input a.xml", "ragbeam embed ... --dtype float15"])
def test_a_command_that_cannot_be_given_is_seen(line):
    with pytest.raises(InputError):
        parse(line)


def test_a_flag_that_is_nobodys_is_seen():
    assert parse("ragbeam embed ... --runner flink --no_such_flag 1") == ["runner", "no_such_flag"]
    assert not {"no_such_flag"} & beam_flags()


@pytest.mark.parametrize("page", PAGES)
def test_every_flag_that_a_page_names_exists(page):
    ours = {flag for parser in parsers().values() for flag in parser._option_string_actions}
    known = {*ours, *("--" + name for name in beam_flags()), *ELSEWHERE}
    assert {*re.findall(r"(?<!\S)--[a-z]\w*", " ".join(code_spans(page)))} <= known


@pytest.mark.parametrize("page", PAGES)
def test_links_go_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", PAGES[page]):
        name, _, heading = target.partition("#")
        path = (ROOT / page).parent / name if name else ROOT / page
        assert path.exists(), target
        if heading:
            titles = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}
            assert heading in slugs, target


@pytest.mark.parametrize("page", PAGES)
def test_files_that_a_page_names_are_there(page):
    for name in re.findall(r"(?<![\w/.:-])((?:schemas|rag_ops|pipelines|tests|\.ci)/[\w./-]*\w/?)", PAGES[page]):
        assert name in WRITTEN_LATER or (ROOT / name).exists(), name


@pytest.mark.parametrize("page", PAGES)
def test_modules_and_targets_that_a_page_runs_exist(page):
    text = "\n".join(code_lines(page))
    for module in re.findall(r"python -m ((?:tests|pipelines)[\w.]*)", text):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module
    targets = re.findall(r"^(\w[\w-]*):(?!=)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {*re.findall(r"^make ([\w-]+)", text, re.MULTILINE)} <= {*targets}


def test_definitions_that_contributing_names_exist():
    modules: dict[str, list[Path]] = {}
    for path in itertools.chain.from_iterable((ROOT / floor).rglob("*.py") for floor in FLOORS):
        modules.setdefault(path.stem, []).append(path)
    spans = [re.fullmatch(r"(\w+)\.(\w+)", span) for span in code_spans("CONTRIBUTING.md")]
    named = [found.groups() for found in spans if found]
    ours = [(module, name) for module, name in named if module in modules and name not in SUFFIXES]
    assert len(ours) >= 5
    for module, name in ours:
        bodies = [ast.parse(path.read_text()).body for path in modules[module]]
        found = {getattr(node, "name", None) for node in itertools.chain.from_iterable(bodies)}
        found |= {node.targets[0].id for body in bodies for node in body if _names(node)}
        assert name in found, f"{module}.{name}"


def _names(node: ast.AST) -> bool:
    return isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)


def test_contributing_draws_the_steps_that_are_enforced():
    picture = PAGES["CONTRIBUTING.md"]
    drawn = ["  ".join(name.removeprefix("rag_ops.").removeprefix("pipelines.") for name in step) for step in STEPS]
    places = [re.search(rf"^(?:    |    \w+ +|  +){line}(?:$|/__init__)", picture, re.MULTILINE) for line in drawn]
    assert None not in places, drawn[places.index(None)]
    starts = [place.start() for place in places if place]
    assert starts == sorted(starts, reverse=True)


def test_readme_is_short():
    assert len(PAGES["README.md"].splitlines()) <= 150


def test_every_room_stands_on_its_floors_page():
    rooms = {path.parent.name + "/" for path in (ROOT / "rag_ops").glob("*/__init__.py")}
    assert rooms <= {*code_spans("rag_ops/README.md")}


def test_the_page_of_what_is_on_disk_names_every_column_and_key():
    tables = [
        passages.SCHEMA,
        embeddings.schema(2, "float16"),
        answers.SCHEMA,
        questions.OCCURRENCES,
        questions.BLOCK,
        hits.SCHEMA,
    ]
    names = {name for table in tables for name in table.names}
    names |= {field.name for struct in (answers.PASSAGE, answers.TOKEN, answers.ALTERNATIVE) for field in struct}
    names |= {key for stage in layout.OUTPUTS.values() for key in stage.info.__annotations__}
    names |= {*manifest.Manifest.__dataclass_fields__, *manifest.ShardRecord.__dataclass_fields__}
    assert names - {*code_spans("schemas/README.md")} == set()
