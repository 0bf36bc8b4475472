"""Flags are made from the options' own declarations, for every command."""

import dataclasses
import itertools
import os
import re

import pytest

from pipelines.cli import COMMANDS
from pipelines.console.command import build_parser
from pipelines.run import NOT_OF_RUN
from rag_ops import settings
from rag_ops.errors import InputError
from tests.pipelines.workspace import fails

REQUIRED = {
    "chunk": ["--input", "a.xml"],
    "embed": ["--passages", "p", "--encoder", "e"],
    "index": ["--embeddings", "e"],
    "answer": ["--questions", "q.csv", "--index", "i", "--model", "m"],
    "search": ["--questions", "q.csv", "--index", "i", "--question_encoder", "e"],
    "evaluate": ["--answers", "a"],
    "diff": ["a", "b"],
    "run": ["--input", "a.xml", "--encoder", "e", "--questions", "q.csv", "--model", "m"],
    "verify": ["directory"],
    "demo": [],
    "compose": ["--question_encoder", "q", "--generator", "g"],
    "finetune": ["--model", "m", "--index", "i", "--train", "t.csv"],
    "import": ["--index", "i", "--passages", "p"],
    "export": ["--index", "i"],
    "plan": ["--articles", "10"],
    "workers": [],
}
WITHOUT_OUTPUT = ("verify", "diff", "demo", "plan", "workers")


def parsed(name: str, *more: str):
    """The options of a command from its flags."""
    output = [] if name in WITHOUT_OUTPUT else ["--output", "o.json"]
    known = vars(build_parser(COMMANDS).parse_args([name, *REQUIRED[name], *output, *more]))
    return known.pop("command").make(known)


def leaves(options: object, path: tuple[str, ...] = ()):
    """Every setting of options, with the path to it."""
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if dataclasses.is_dataclass(value):
            yield from leaves(value, (*path, field.name))
        elif field.name == "stages":
            for name, stage in value.items():
                yield from leaves(stage, (*path, name))
        elif field.name in settings.declared(type(options)):
            yield type(options), field, value


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_what_is_not_given_has_the_default_of_its_declaration(command):
    given = {flag.removeprefix("--") for flag in REQUIRED[command.name] if flag.startswith("--")}
    given |= {"index"} if command.name == "run" else set()  # which answer may do without
    given |= {"output"} if command.name not in WITHOUT_OUTPUT else set()  # which evaluate may do without
    found = list(leaves(parsed(command.name)))
    assert found
    for _, field, value in found:
        if field.default is not dataclasses.MISSING and field.name not in given:
            assert value == field.default, field.name


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_every_setting_of_a_command_has_its_flag_and_help(command, capsys):
    with pytest.raises(SystemExit):
        build_parser(COMMANDS).parse_args([command.name, "--help"])
    shown = capsys.readouterr().out
    # Between the stages of one workspace nothing is named.
    between = {"passages", "embeddings", "index", "output", "preset", *NOT_OF_RUN} if command.name == "run" else set()
    for cls, field, _ in leaves(parsed(command.name)):
        one = settings.declared(cls)[field.name]
        if field.name not in between:
            assert one.positional or re.search(rf"--{one.flag or field.name}\b", shown), field.name
            assert " ".join(one.help.split())[:12] in " ".join(shown.split()), field.name


def test_a_preset_gives_what_no_flag_does():
    assert parsed("answer", "--preset", "paper").n_docs == 15
    both = parsed("run", "--preset", "hf", "--num_beams", "2").stages["answer"]
    assert (both.generation.num_beams, both.generation.max_new_tokens, both.n_docs) == (2, 49, 5)


@pytest.mark.parametrize("flag", ["--answerable_only", "--told_only"])
def test_finetune_leaves_out_unanswerable_questions_by_either_name(flag):
    assert not parsed("finetune").settings.told_only
    assert parsed("finetune", flag).settings.told_only


def test_an_unknown_preset_is_refused():
    with pytest.raises(InputError, match=r"--preset is unknown: 'x'; expected paper or hf"):
        parsed("answer", "--preset", "x")


def test_the_stages_of_a_run_meet_in_its_workspace():
    options = parsed("run", "--previous", "earlier", "--num_shards", "7", "--threads", "3")
    chunk, embed, index, answer = options.stages.values()
    assert embed.passages == chunk.output == "o.json/passages"
    assert index.embeddings == embed.output == "o.json/embeddings"
    assert answer.index == index.output == "o.json/index"
    assert answer.output == "o.json/answers"
    assert embed.previous == "earlier/embeddings"
    assert (chunk.num_shards, index.num_shards, answer.num_shards) == (7, None, None)
    assert embed.workers.threads == index.threads == answer.workers.threads == 3


@pytest.mark.parametrize(
    ("more", "what"), [([], "neither"), (["--generator", "g", "--warm_start"], "both")], ids=["neither", "both"]
)
def test_compose_makes_its_generator_in_one_way(more, what):
    known = build_parser(COMMANDS).parse_args(["compose", "--question_encoder", "q", "--output", "o", *more])
    with pytest.raises(InputError, match=f"either --generator or --warm_start: '{what}'"):
        known.command.make(vars(known))


PLACES = [
    (name, *action.option_strings[:1])
    for name, command in build_parser(COMMANDS)._subparsers._group_actions[0].choices.items()
    for action in command._actions
    if action.metavar in ("DIR", "URL", "FILE", "MODEL")
]


@pytest.mark.parametrize(("value", "says"), [("", "(is empty|another suffix): ''"), (os.fsdecode(b"\xe4"), "'.udce4")])
@pytest.mark.parametrize("place", PLACES, ids=" ".join)
def test_an_empty_name_and_one_that_is_not_utf_8_are_refused_wherever_a_place_is_named(
    place, value, says, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    command, *flag = place
    required = dict(zip(REQUIRED[command][::2], REQUIRED[command][1::2], strict=False)) if flag else {}
    if command not in WITHOUT_OUTPUT:
        required["--output" if command != "run" else "--workspace"] = "o.json"
    if command == "index" and flag[0] in ("--passages", "--previous"):
        required = {"--kind": "bm25", "--passages": "p", "--output": "o.json"}
    if flag[:1] not in ([], ["--measured"], ["--encoder"]) and command == "plan":
        del required["--articles"]  # another way to give the same
    given = [value] * len(REQUIRED[command])
    if flag:
        given = itertools.chain.from_iterable((required | {flag[0]: value}).items())
    code, line = fails(capsys, command, *given)
    assert code == 2
    assert re.search(says, line)
    assert list(tmp_path.iterdir()) == []


def read_by(command: str):
    """The settings of a command that name what it reads: flag and whether it is a whole directory."""
    for cls, field, _ in leaves(parsed(command)):
        one = settings.declared(cls)[field.name]
        if one.reads:
            yield one.flag or field.name, one.reads == "directory"


READING = [
    (command.name, flag, whole)
    for command in COMMANDS
    if command.name not in (*WITHOUT_OUTPUT, "run")
    for flag, whole in read_by(command.name)
]


@pytest.mark.parametrize(("command", "flag", "whole"), READING)
def test_an_output_that_overlaps_any_input_is_refused_before_anything_is_touched(
    command, flag, whole, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "place" / "passages").mkdir(parents=True)
    read = tmp_path / "place" / "passages" / "data.json"
    read.write_text("{}")
    (tmp_path / "link").symlink_to("place")
    output = {"evaluate": "link/passages/data.json", "import": "link"}.get(command, "link/passages/")
    more = {"evaluate model": ["--sweep", "1"], "import input": ["--format", "wiki_dpr"]}.get(f"{command} {flag}", [])
    required = dict(zip(REQUIRED[command][::2], REQUIRED[command][1::2], strict=True))
    required |= {f"--{flag}": "place/passages" if whole else str(read), "--output": output}
    given = [*itertools.chain.from_iterable(required.items()), *more]
    known = vars(build_parser(COMMANDS).parse_args([command, *given]))
    with pytest.raises(InputError, match=f"--output overlaps --{flag}"):
        known.pop("command").make(known)
    assert read.read_text() == "{}"


def test_every_setting_that_names_a_place_says_whether_it_is_read_or_written():
    without = {"workspace", "directory", "measured"}  # nothing is written beside them, or each stage checks its own
    for command in COMMANDS:
        for cls, field, _ in leaves(parsed(command.name)):
            one = settings.declared(cls)[field.name]
            if one.metavar in ("DIR", "URL", "FILE", "MODEL") or field.name in ("model", "encoder"):
                own = command.name in ("evaluate", "import") and field.name in ("output", "encoder")
                allowed = own or field.name in without or command.name in ("demo", "plan")
                assert one.reads or one.writes or allowed, f"{command.name} --{field.name}"


def test_every_number_has_bounds():
    checked = ("passage_words", "passage_overlap", "min_length", "score_scale", "warmup_steps", "label_smoothing")
    for command in COMMANDS:
        for cls, field, _ in leaves(parsed(command.name)):
            one, kind = settings.declared(cls)[field.name], settings.kind_of(cls, field.name)[0]
            where = f"{command.name} --{field.name}"
            if field.name in (*checked, "length_penalty"):  # by their dataclass
                continue
            if kind is int:
                assert one.at_least is not None, where
                assert one.at_least <= one.at_most < 2**32, where
            if kind is float:
                assert one.within, where


@pytest.mark.parametrize(
    ("command", "flag", "value"),
    [
        ("chunk", "num_shards", 10**9),
        ("chunk", "passage_words", 10**20),
        ("embed", "threads", 100_000),
        ("answer", "n_docs", 10**8),
        ("answer", "length_penalty", 1e30),
        ("answer", "length_penalty", "nan"),
        ("answer", "score_scale", "inf"),
        ("answer", "num_beams", 10**20),
        ("finetune", "warmup_steps", "nan"),
        ("finetune", "label_smoothing", "inf"),
        ("compose", "score_scale", "nan"),
        ("workers", "port", 70_000),
        ("workers", "port", -1),
    ],
)
def test_a_number_out_of_bounds_is_refused_by_its_flag(command, flag, value):
    with pytest.raises(InputError, match=f"--{flag}"):
        parsed(command, f"--{flag}", str(value))


@pytest.mark.parametrize("value", ["true", "false", "1", ""])
def test_a_switch_takes_no_value(value):
    with pytest.raises(InputError, match="--overwrite: ignored explicit argument"):
        parsed("chunk", f"--overwrite={value}")


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_a_flag_of_one_value_that_is_given_twice_is_refused_unless_it_is_the_same(command):
    parser, flags = build_parser([command]), command.flags()
    output = (
        [] if command.name in WITHOUT_OUTPUT else ["--workspace" if command.name == "run" else "--output", "o.json"]
    )
    given = [command.name, *REQUIRED[command.name], *output]
    for cls, field, _ in leaves(parsed(command.name)):
        kind, many = settings.kind_of(cls, field.name)
        flag = f"--{settings.declared(cls)[field.name].flag or field.name}"
        if kind is not bool and not many and flag in flags:
            first = given[given.index(flag) + 1] if flag in given else "o.json" if kind is str else "2"
            assert parser.parse_args([*given, flag, first, flag, first])
            with pytest.raises(InputError, match=rf"^{flag} is given twice: \[.*, .*\]; give it once$"):
                parser.parse_args([*given, flag, first, flag, "3"])


def test_two_values_of_a_flag_are_both_told():
    with pytest.raises(InputError, match=r"^--num_shards is given twice: \[2, 3\]; give it once$"):
        parsed("chunk", "--num_shards", "2", "--num_shards", "3")


def test_a_flag_of_several_values_that_is_given_twice_takes_all():
    assert list(parsed("chunk", "--input", "b.xml", "c.xml").input) == ["a.xml", "b.xml", "c.xml"]
    assert list(parsed("answer", "--questions", "r.csv").questions) == ["q.csv", "r.csv"]
