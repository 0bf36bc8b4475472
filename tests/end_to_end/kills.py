"""Kill -9 at random moments of a whole run: `python -m tests.end_to_end.kills --kills 30 --seed 1`.

Each time `ragbeam run` is started in a process group of its own, as a fork of a process that has imported everything
(`warmed`), and killed with all its workers at a random moment
between the first file that it writes and its end; then the same command must finish, and what it leaves must be, file
by file and byte by byte, what an undisturbed run leaves (but for run.json, which tells times). Every other time the
work is done by two worker processes.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests import warmed
from tests.conftest import bert_config, make_bart, make_sentence_encoder, make_tokenizer
from tests.pipelines.workspace import write_articles, write_questions

STAGES = ("passages", "embeddings", "index", "answers")
WORKERS = ([], ["--direct_running_mode=multi_processing", "--direct_num_workers=2"])
POLL_SECS = 0.005


@dataclasses.dataclass(frozen=True)
class Kill:
    """One kill: the seconds after the first file, the stage that was at work, and what differed in the end."""

    after_secs: float
    stage: str
    workers: int
    differences: tuple[str, ...]


def prepare(directory: Path) -> list[str]:
    """Writes models and inputs into `directory`; returns the command without its workspace."""
    from transformers import AutoTokenizer

    from rag_ops.models.compose import compose

    write_articles(directory / "articles.jsonl", count=90)
    write_questions(directory / "questions.jsonl")
    for name in ("tokenizer", "encoder", "bart"):
        (directory / name).mkdir()
    tokenizer = AutoTokenizer.from_pretrained(make_tokenizer(directory / "tokenizer"))
    encoder = make_sentence_encoder(directory / "encoder", tokenizer, bert_config(len(tokenizer)), seed=1)
    bart = make_bart(directory / "bart", tokenizer, seed=3, layers=2, width=16, init_std=0.5)
    compose(encoder, bart, str(directory / "rag"))
    return [
        *("run", "--input", str(directory / "articles.jsonl"), "--questions", str(directory / "questions.jsonl")),
        *("--encoder", encoder, "--model", str(directory / "rag"), "--passage_words", "20", "--num_shards", "4"),
        *("--spec", "IVF2,Flat", "--max_new_tokens", "6", "--n_docs", "3", "--block_questions", "2", "--threads", "1"),
    ]


@dataclasses.dataclass(frozen=True)
class Job:
    """The command without its workspace, the address of the process to fork, and the file for what forks print."""

    command: list[str]
    address: str
    log: Path

    def start(self, workspace: Path, more: list[str]) -> warmed.Forked:
        """Starts the command in a process group of its own."""
        return warmed.start(self.address, [*self.command, "--workspace", str(workspace), *more], self.log)


def finish_cold(command: list[str], workspace: Path) -> None:
    """Runs the command to its end as a user does, in a process that imports everything anew."""
    whole = [sys.executable, "-m", "pipelines.cli", *command, "--workspace", str(workspace)]
    done = subprocess.run(whole, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"the command failed: {done.stderr[-2000:]}")


def finish(job: Job, workspace: Path, more: list[str]) -> float:
    """Runs the command to its end; gives the seconds from its first file on."""
    process = job.start(workspace, more)
    begun = wait_for_work(process, workspace)
    if process.wait() != 0:
        raise RuntimeError(f"the command failed: {job.log.read_text()[-2000:]}")
    return time.monotonic() - begun


def wait_for_work(process: warmed.Forked, workspace: Path) -> float:
    """Waits until there is a workspace, or the process is at its end; gives the time."""
    while not workspace.exists() and process.poll() is None:
        time.sleep(POLL_SECS)
    return time.monotonic()


def kill(job: Job, workspace: Path, more: list[str], after_secs: float) -> str:
    """Starts the command and kills its process group; gives the stage that was at work, or "too late"."""
    process = job.start(workspace, more)
    until = wait_for_work(process, workspace) + after_secs
    while time.monotonic() < until and process.poll() is None:
        time.sleep(POLL_SECS)
    late = process.poll() is not None
    os.killpg(process.pid, signal.SIGKILL) if not late else None
    process.wait()
    if late:
        return "too late"
    return next((stage for stage in STAGES if not (workspace / stage / "manifest.json").exists()), "after all")


def contents(workspace: Path) -> dict[str, str]:
    """The SHA-256 of every file, by its path; run.json, which holds times, is only named."""
    files = [path for path in workspace.rglob("*") if path.is_file()]
    return {
        str(path.relative_to(workspace)): ""
        if path.name == "run.json"
        else hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def run(directory: Path, address: str, kills: int, seed: int) -> list[Kill]:
    """Kills so many runs, forks of the server at `address`, and compares what each leaves after it is finished."""
    command = prepare(directory)
    finish_cold(command, directory / "cold")
    expected = contents(directory / "cold")
    return run_forked(directory, Job(command, address, directory / "printed"), expected, kills, seed)


def run_forked(directory: Path, job: Job, expected: dict[str, str], kills: int, seed: int) -> list[Kill]:
    """The same, given what an undisturbed run leaves."""
    seconds = [finish(job, directory / f"undisturbed-{n}", more) for n, more in enumerate(WORKERS)]
    for number in range(len(WORKERS)):
        assert contents(directory / f"undisturbed-{number}") == expected
    draw = random.Random(seed)
    done: list[Kill] = []
    while len(done) < kills:
        kind = len(done) % len(WORKERS)
        # Evenly over the run, at random within each part, so that few kills meet every stage too.
        part = (len(done) // len(WORKERS) * len(WORKERS) + draw.random() * len(WORKERS)) / max(kills, len(WORKERS))
        after = min(part, 1) * seconds[kind]
        workspace = directory / "killed" / "workspace"
        stage = kill(job, workspace, WORKERS[kind], after)
        if stage != "too late":
            finish(job, workspace, WORKERS[kind])
            found = contents(workspace)
            names = sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
            done.append(Kill(after, stage, kind + 1, tuple(names)))
            sys.stdout.write(f"{len(done)}: {done[-1]}\n")
            sys.stdout.flush()
        else:  # this run was faster than the one that was measured
            seconds[kind] *= 0.95
        shutil.rmtree(workspace.parent)
    return done


def main() -> int:
    """Prints each kill and, at last, how many there were in each stage."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory, warmed.server() as address:
        done = run(Path(directory), address, flags.kills, flags.seed)
    bad = sum(bool(kill.differences) for kill in done)
    stages = ", ".join(f"{stage} {count}" for stage, count in Counter(kill.stage for kill in done).items())
    sys.stdout.write(f"{len(done)} kills ({stages}); {bad} of them left something else\n")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
