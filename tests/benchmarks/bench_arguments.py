"""Random argument lists, most of them wrong, for every command: an exit code, one line, and nothing else touched.

The lists are drawn from what the commands' own parsers declare. Each is run in a child that is forked from a process
which has imported all that the commands do, so that a case takes the time of the command alone. What a list reads is so
small that a sound one takes a second or two, the demo's included. `RAGBEAM_ARGUMENT_CASES` and `RAGBEAM_ARGUMENT_SEED`
give other numbers; the lists that fail are printed.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import dataclasses
import gc
import importlib
import itertools
import json
import multiprocessing
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import weakref
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipelines.cli import COMMANDS
from pipelines.console.command import build_parser, main
from pipelines.demo import command as demo
from tests.benchmarks.common import Result
from tests.conftest import bert_config, make_bart, make_sentence_encoder, make_tokenizer
from tests.pipelines.workspace import ragbeam, write_articles, write_questions, write_wiki

LIMIT_SECS = 20.0  # of a case
LISTENS = b"workers: listening on"  # said by a worker pool, which is interrupted then
CODES = (0, 1, 2, 130)
OF_BEAM = "submission_environment_dependencies.txt"  # left in the temporary directory by a job that cannot be sent
PART = 20  # lists that a process is given at a time
MISSING = "no/such/place"
VALUES: dict[Any, list[str]] = {
    int: ["1", "2", "0", "-1", "100000", "99999999999999999999", "1.5", "NaN", "", "x", "1e3", " 2"],
    float: ["0.5", "1", "0", "-1", "nan", "inf", "-inf", "1e308", "1e-320", "", "x", "0,5"],
    str: [
        "",
        " ",
        "x",
        "\u0663",
        "a::b",
        "*",
        "[",
        "-",
        "--",
        "~",
        "auto",
        "1GiB",
        "1e400GiB",
        "Flat",
        "HNSW0",
        "IVF0",
        MISSING,
    ],
}
SMALL = "--max_new_tokens 2 --n_docs 1 --threads 1"
WHOLE = {  # arguments that a command runs with; OUT and the names of the workspace stand for paths
    "chunk": "--input articles.jsonl --output OUT --num_shards 1",
    "embed": "--passages passages --encoder encoder --output OUT --threads 1",
    "index": "--embeddings embeddings --output OUT --threads 1",
    "answer": f"--questions questions.jsonl --index index --model rag --output OUT {SMALL}",
    "search": "--questions questions.jsonl --index index --model rag --output OUT --n_docs 2 --threads 1",
    "evaluate": "--answers answers --output OUT/report.json",
    "diff": "answers answers",
    "run": f"--workspace OUT --input articles.jsonl --encoder encoder --questions questions.jsonl --model rag {SMALL}",
    "verify": "index",
    "demo": f"--workspace OUT --encoder encoder --questions questions.jsonl {SMALL}",
    "compose": "--question_encoder encoder --generator bart --output OUT",
    "finetune": "--model rag --index index --train questions.jsonl --output OUT --max_steps 1 --n_docs 1 --threads 1"
    " --max_answer_tokens 2",
    "import": "--format wiki_dpr --input wiki.parquet --output OUT",
    "export": "--index index --output OUT",
    "plan": "--articles 100",
    "workers": "--port 0",
}
OUTPUTS = {  # what of the workspace a command makes; import and others make theirs beside it, for their imports alone
    **{"compose": "rag", "chunk": "passages", "embed": "embeddings", "index": "index", "answer": "answers"},
    **{name: f"{name}.out" for name in ("import", "export", "evaluate", "verify", "plan", "finetune", "demo")},
}
PLACES = (*("passages", "embeddings", "index", "answers", "encoder", "rag"), "articles.jsonl", "questions.jsonl")
ALONE = [  # what may stand at the end of a list
    *(
        "b.jsonl",
        "-n_docs 3",
        "num_shards 4",
        "--num_shard 4",
        "--runner FlinkRunner",
        "--runner Nobody",
        "--job_name=x",
    ),
    *(
        "--direct_num_workers -1",
        "--direct_num_workers x",
        "--streaming",
        "--help",
        "--debug",
        "--log_format yaml",
        "-",
    ),
]


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Cases of all commands together, and the seed that they are drawn from."""

    cases: int = int(os.environ.get("RAGBEAM_ARGUMENT_CASES", "2000"))
    seed: int = int(os.environ.get("RAGBEAM_ARGUMENT_SEED", "1"))


TOY = Sizes(cases=2 * len(WHOLE))


def run(directory: Path, sizes: Sizes = Sizes()) -> list[Result]:
    """Cases that did not end as they should, and how the others ended; in a fresh process, which has no threads yet."""
    command = [sys.executable, "-m", "tests.benchmarks.bench_arguments", str(directory)]
    command += map(str, dataclasses.astuple(sizes))
    done = subprocess.run(command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True, check=True)
    return [Result(**json.loads(done.stdout.splitlines()[-1]))]


def run_here(directory: Path, sizes: Sizes) -> Result:
    """See `run`."""
    workspace = directory / "workspace"
    sys.path.insert(0, str(directory))  # the demo's inputs are files of packages
    demo.EXCERPT, demo.ENCODER, demo.TRAINED = ("workspace", "articles.jsonl"), ("workspace", "encoder"), ()
    demo.QUESTIONS = str(workspace / "questions.jsonl")
    if not (child := os.fork()):  # the threads of its models would be missed in children of this process
        make_workspace(workspace)
        (directory / "modules").write_text("\n".join(sys.modules))
        os._exit(0)
    os.waitpid(child, 0)
    for name in (directory / "modules").read_text().splitlines():
        with contextlib.suppress(Exception):  # some are made by others
            importlib.import_module(name)
    gc.freeze()  # what all children share is not copied for being looked at
    parts = [
        (command.name, lists[start : start + PART], workspace, directory / f"{command.name}-{start}")
        for command in COMMANDS
        for lists in [lists_of(command.name, sizes.cases // len(COMMANDS), sizes.seed)]
        for start in range(0, len(lists), PART)
    ]
    with multiprocessing.get_context("fork").Pool(os.cpu_count()) as pool:  # of processes that start no threads
        done = pool.starmap(run_lists, parts, chunksize=1)
    ended = sum((one.ended for one in done), Counter[str]())
    wrong = [line for one in done for line in one.wrong]
    sys.stderr.writelines(f"{line}\n" for line in wrong)
    slowest = max(one.slowest for one in done)
    codes = ", ".join(f"{count:,} with {code}" for code, count in sorted(ended.items()))
    figures = f"{ended.total():,} lists, seed {sizes.seed}; exit codes: {codes}; "
    figures += f"slowest {slowest[0]:.1f} s ({slowest[1][:80]})"
    return Result("argument lists that end otherwise than in a line", len(wrong), "0", not wrong, figures, not wrong)


@dataclasses.dataclass
class Ended:
    """How the cases of a command ended: how many with each code, what was wrong, and the slowest with its seconds."""

    ended: Counter[str] = dataclasses.field(default_factory=Counter)
    wrong: list[str] = dataclasses.field(default_factory=list)
    slowest: tuple[float, str] = (0.0, "")


def run_lists(command: str, lists: Sequence[Sequence[str]], workspace: Path, directory: Path) -> Ended:
    """Runs argument lists of one command, over a copy of the workspace."""
    found, own = Ended(), directory / "workspace"
    shutil.copytree(workspace, own)
    for arguments in lists:
        case = Case(own, directory, command, arguments)
        case.run()
        found.ended[str(case.code)] += 1
        found.slowest = max(found.slowest, (case.seconds, case.line))
        if problem := case.problem():
            found.wrong.append(f"{problem}: {case.line}")
        case.clean()
    return found


def make_workspace(directory: Path) -> None:
    """Articles, questions, models and the outputs of all stages, small."""
    from transformers import AutoTokenizer

    directory.mkdir()
    words = make_tokenizer(directory / "words")
    tokenizer = AutoTokenizer.from_pretrained(words)
    (directory / "encoder").mkdir()
    make_sentence_encoder(directory / "encoder", tokenizer, bert_config(len(tokenizer)), seed=1)
    make_bart(directory / "bart", tokenizer, seed=3, layers=2, width=16, init_std=0.5)
    write_articles(directory / "articles.jsonl")
    write_questions(directory / "questions.jsonl")
    write_wiki(directory / "wiki.parquet")
    for command, name in OUTPUTS.items():
        output = directory / name if "." not in name else directory.parent / name
        ragbeam(command, *filled(WHOLE[command].split(), directory, output))


def filled(arguments: Sequence[str], workspace: Path, output: Path) -> list[str]:
    """Arguments with the paths that names stand for."""
    names = {*PLACES, "bart", "wiki.parquet", "no_questions.jsonl"}
    paths = [str(workspace / one) if one in names else one for one in arguments]
    return [str(output) + one[3:] if one == "OUT" or one.startswith("OUT/") else one for one in paths]


def lists_of(command: str, count: int, seed: int) -> list[list[str]]:
    """Random argument lists of a command, the same for a seed: whole ones with one to three changes."""
    draw, actions = random.Random(f"{seed} {command}"), actions_of(command)
    return [changed(WHOLE[command].split(), actions, draw) for _ in range(count)]


def actions_of(command: str) -> list[argparse.Action]:
    """The flags that a command's parser declares."""
    parser = build_parser([one for one in COMMANDS if one.name == command])
    (subparsers,) = (one for one in parser._actions if isinstance(one, argparse._SubParsersAction))
    return [one for one in subparsers.choices[command]._actions if one.option_strings]


def changed(arguments: list[str], actions: Sequence[argparse.Action], draw: random.Random) -> list[str]:
    """Arguments with one to three random changes."""
    for _ in range(draw.randint(1, 3)):
        change = draw.choice(["flag", "flag", "flag", "value", "drop", "misspell", "twice", "alone", "place"])
        flags = [place for place, one in enumerate(arguments) if one.startswith("--")]
        values = [place for place, one in enumerate(arguments) if not one.startswith("-")]
        if change == "flag":
            action = draw.choice(actions)
            flag = draw.choice(action.option_strings)
            if flag in arguments and draw.random() < 0.8:  # else it is given twice
                place = arguments.index(flag)
                arguments = arguments[:place] + arguments[place + 2 :]
            arguments = [*arguments, flag]
            if action.nargs != 0:
                arguments.append(draw.choice([*VALUES.get(action.type, VALUES[str]), *PLACES]))
        elif change == "alone":
            arguments = [*arguments, *draw.choice(ALONE).split()]
        elif change in ("value", "place") and values:
            place = draw.choice(values)
            value = draw.choice(PLACES if change == "place" else VALUES[str])
            arguments = [*arguments[:place], value, *arguments[place + 1 :]]
        elif change in ("drop", "misspell", "twice") and flags:
            place = draw.choice(flags)
            pair = {
                "drop": [],
                "misspell": [arguments[place][:-1], *arguments[place + 1 : place + 2]],
                "twice": arguments[place : place + 2] * 2,
            }[change]
            arguments = [*arguments[:place], *pair, *arguments[place + 2 :]]
    return arguments


FOLDERS = ("out", "here", "home", "temporary")  # of a case


class Case:
    """One argument list, run in a child of this process.

    Args:
        workspace: what the command reads, which must stay as it is.
        directory: where the case may make a folder of its own.
        command: the command's name.
        arguments: its arguments, with names for paths.
    """

    def __init__(self, workspace: Path, directory: Path, command: str, arguments: Sequence[str]):
        self._workspace, self._folder, self._command = workspace, directory / "case", command
        self.line = shlex.join([command, *arguments])
        self._arguments = [command, *filled(arguments, workspace, self._folder / "out" / "put")]
        self.code: int | None = None
        self.seconds = 0.0
        self._before = state_of(workspace)

    def run(self) -> None:
        """Runs it, at most LIMIT_SECS, or longer if processes outnumber cores; the code is None if it was killed."""
        for name in FOLDERS:
            (self._folder / name).mkdir(parents=True)
        (self._folder / "stderr").touch()
        started = time.monotonic()
        child = os.fork()
        if not child:
            self._be()
        served = False
        limit = LIMIT_SECS * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
        while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0):
            self.seconds = time.monotonic() - started
            if self._command == "workers" and not served and LISTENS in (self._folder / "stderr").read_bytes():
                os.kill(child, signal.SIGINT)
                served = True
            if self.seconds > limit:
                os.killpg(child, signal.SIGKILL)
                os.waitpid(child, 0)
                return
            time.sleep(0.01)
        self.seconds = time.monotonic() - started
        self.code = os.waitstatus_to_exitcode(ended[1])

    def _be(self) -> None:
        code = 99
        try:
            os.setsid()
            weakref.finalize._registry.clear()  # what the parent removes at its end
            signal.signal(signal.SIGINT, signal.default_int_handler)
            os.chdir(self._folder / "here")
            os.environ |= {"HOME": str(self._folder / "home"), "TMPDIR": str(self._folder / "temporary")}
            tempfile.tempdir = None
            for descriptor, name in ((1, "stdout"), (2, "stderr")):
                os.dup2(os.open(self._folder / name, os.O_WRONLY | os.O_CREAT), descriptor)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
            code = main(COMMANDS, self._arguments, whole_process=True)
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 98
        except BaseException:
            import traceback

            traceback.print_exc()
            code = 1 if "--debug" in self._arguments else code  # as Python exits after a traceback
        finally:
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def problem(self) -> str | None:
        """What is wrong with how it ended, if anything."""
        text = (self._folder / "stderr").read_text(errors="replace")
        last = text.strip().splitlines()[-1][:200] if text.strip() else ""
        marks = "ragbeam: error:", '"event": "error"'
        errors = [line for line in text.splitlines() if line.startswith(marks[0]) or marks[1] in line]
        debug = "--debug" in self._arguments
        told = debug or (self._command == "verify" and self.code == 1)  # in lines of its own
        if self.code is None:
            return f"it took over {LIMIT_SECS:.0f} s"
        if "Traceback" in text and not debug:
            return f"a traceback ({last})"
        if self.code not in CODES:
            return f"exit code {self.code} ({last})"
        if self.code in (1, 2) and len(errors) != 1 and not told:
            return f"{len(errors)} error lines with exit code {self.code} ({last})"
        if changed := self._changed():
            return f"the workspace was changed: {changed[0]}"
        refused = self.code == 2 and self._command not in ("run", "demo")  # whose first stages may be done
        for name in FOLDERS if refused else ("temporary",):
            found = (path for path in (self._folder / name).rglob("*") if refused or path.is_file())
            if left := [path for path in found if path.name != OF_BEAM]:
                return f"left behind in {name}: {left[0].name}"
        return None

    def _changed(self) -> list[str]:
        """Files of the workspace that are gone, others or new, unless they are new where the case has its output."""
        pairs, after = itertools.pairwise(self._arguments), state_of(self._workspace)
        outputs = tuple(f"{value}/" for flag, value in pairs if flag in ("--output", "--workspace"))
        made = {path for path in after.keys() - self._before.keys() if path.startswith(outputs)}
        return [path for path, _ in after.items() ^ self._before.items() if path not in made]

    def clean(self) -> None:
        """Removes what the case made."""
        shutil.rmtree(self._folder)
        for path in state_of(self._workspace).keys() - self._before.keys():
            Path(path).unlink()


def state_of(directory: Path) -> dict[str, tuple[int, int, int]]:
    """Size, time and inode of every file below a directory."""
    found = {}
    for path in directory.rglob("*"):
        if path.is_file():
            state = path.stat()
            found[str(path)] = (state.st_size, state.st_mtime_ns, state.st_ino)
    return found


if __name__ == "__main__":
    print(json.dumps(dataclasses.asdict(run_here(Path(sys.argv[1]), Sizes(*map(int, sys.argv[2:]))))))
