"""Rehearses a stage at true size: `python -m tests.rehearsal chunk --directory /large/disk`.

The stage's input is made from a seed if it is not there. Its command is killed once with SIGKILL when half of its work
is done, and run again; what both took goes to `measured.jsonl`. One with `--unbroken` is not killed, and says what rate
it shows: a hundredth of the rows, made first, is what the time of the whole is planned from. A rehearsal that is itself
cut short goes on where it stopped: its `directory` may be lost, and is then made anew.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rag_ops import planning
from rag_ops.articles.reading import USUAL_SPLITS
from rag_ops.storage.manifests import find_manifest, read_manifest
from schemas.layout import STAGES
from schemas.manifest import Manifest
from tests.benchmarks.running import processor
from tests.rehearsal import corpus
from tests.rehearsal.watch import Watched, file_sizes, now
from tests.runners import flink

ROWS = 21_015_324  # of psgs_w100
EMBEDDED = 4_000_000  # rows that embed computes; it finds the vectors of the others finished
SPEC = "IVF1024,SQ8"
SPLIT_BYTES = 16 << 20  # chunk's default
BLOCK_QUESTIONS = 256  # answer's
EMBED_TOKENS = 4096  # of a batch
MAX_NEW_TOKENS = 8  # of an answer
MEASURED = Path(__file__).with_name("measured.jsonl")


class Rehearsal:
    """One stage over so many rows, in a directory of its own.

    Args:
        flags: of the command line.
    """

    def __init__(self, flags: argparse.Namespace):
        self.stage, self.rows, self.flags = STAGES[flags.stage], flags.rows, flags
        self.place: Path = flags.directory / f"{flags.rows}-rows"
        self.place.mkdir(parents=True, exist_ok=True)

    def output(self, stage: str) -> Path:
        """The output directory of a stage; each spec has an index of its own, and embed's own work a directory."""
        folder = STAGES[stage].folder
        if stage in ("index", "answer"):
            return self.place / f"{folder}-{self.flags.spec.replace(',', '-')}"
        return self.place / (
            f"{folder}-{self.flags.embedded}" if (stage, self.stage.name) == ("embed", "embed") else folder
        )

    def prepare(self) -> tuple[list[object], str, int]:
        """Makes the stage's input; returns its command, the files that show how far it is, and half of their number."""
        return getattr(self, f"_prepare_{self.stage.name}")()

    def _prepare_chunk(self) -> tuple[list[object], str, int]:
        source = corpus.write_tsv(self.place / "psgs.tsv", self.rows)
        splits = min(USUAL_SPLITS, -(-source.stat().st_size // SPLIT_BYTES))
        return ["chunk", "--input", source], "_incomplete/parts-*/*.arrow", -(-splits // 2)

    def _prepare_embed(self) -> tuple[list[object], str, int]:
        models = self._corpus()
        left = corpus.write_vectors(self.output("embed"), self.output("chunk"), models.encoder, self.flags.embedded)
        shards = len(read_manifest(str(self.output("chunk")), "chunk").shards)
        return self._embed(models.encoder), "embeddings-*.parquet", shards - left // 2

    def _embed(self, encoder: str) -> list[object]:
        # In float32: the vectors of a random encoder are too near to each other for bfloat16. Large batches, as a GPU
        # has them: in a CPU's of three passages so small a model would be little else than the calls of its layers.
        return [
            *("embed", "--passages", self.output("chunk"), "--encoder", encoder),
            *("--compute_dtype", corpus.COMPUTE_DTYPE, "--batch_tokens", EMBED_TOKENS),
        ]

    def _prepare_index(self) -> tuple[list[object], str, int]:
        models, embeddings = self._corpus(), self.output("embed")
        corpus.write_vectors(embeddings, self.output("chunk"), models.encoder, 0)
        self._finish(self._embed(models.encoder), embeddings)
        shards = corpus.index_shards(self.rows)
        command = ["index", "--embeddings", embeddings, "--spec", self.flags.spec, "--num_shards", shards]
        return command, "index-*.faiss", -(-shards // 2)

    def _prepare_answer(self) -> tuple[list[object], str, int]:
        command, *_ = self._prepare_index()
        self._finish(command, self.output("index"))
        questions = corpus.write_questions(self.place / "questions.jsonl", self.flags.questions)
        command = [
            "answer",
            "--questions",
            questions,
            "--index",
            self.output("index"),
            "--max_new_tokens",
            MAX_NEW_TOKENS,
        ]
        command += ["--model", self._corpus().model]
        return command, "_incomplete/work-*/result-*.parquet", -(-self.flags.questions // BLOCK_QUESTIONS // 2)

    def _corpus(self) -> corpus.Models:
        corpus.write_passages(self.output("chunk"), self.rows)
        return corpus.Models.in_directory(self.flags.directory / "models")

    def _finish(self, command: Sequence[object], output: Path) -> None:
        if find_manifest(str(output)) is None:
            Watched().run([*command, "--output", output], [self.place / "tmp"])

    def run(self) -> dict[str, Any]:
        """Kills the stage's command once, unless it is to be unbroken, runs it to its end, and returns the record."""
        if self.flags.unbroken and self.output(self.stage.name).exists():
            raise RuntimeError(f"{self.output(self.stage.name)} is there already: give --again")
        command, pattern, half = self.prepare()
        output, watched = self.output(self.stage.name), Watched()
        command, places = [*command, "--output", output], [output, self.place / "tmp"]

        def is_half_done() -> bool:
            return sum(1 for _ in output.glob(pattern)) >= half

        was_killed = False
        if not self.flags.unbroken:
            with self._runner(watched) as flags:
                was_killed = watched.run([*command, *flags], places, is_half_done)
        if was_killed or self.flags.unbroken:
            with self._runner(watched) as flags:
                watched.run([*command, *flags], places)
        manifest, report = read_manifest(str(output), self.stage.name), json.loads((output / "run.json").read_text())
        return {
            "stage": self.stage.name,
            "spec": self.flags.spec if self.stage.name in ("index", "answer") else None,
            "rows": self.rows,
            "made_rows": self._made_rows(manifest),
            "killed_after": f"{half} of {pattern}" if was_killed else None,
            **watched.as_dict(),
            "disk_bytes": sum(file_sizes(output)),
            "files": len(file_sizes(output)),
            "manifest_bytes": (output / "manifest.json").stat().st_size,
            "run_bytes": (output / "run.json").stat().st_size,
            "shards": report["shards"],
            "rate": self._rate(report, watched.seconds[-1]) if self.flags.unbroken else None,
            "workers": self.flags.workers,
            "runner": "Flink" if self.flags.flink else None,
            "machine": processor(),
            "cores": os.cpu_count(),
            "date": now(),
        }

    @contextlib.contextmanager
    def _runner(self, watched: Watched) -> Iterator[list[str]]:
        """The flags of a runner: the local one, or a Flink cluster that lives as long as this and is watched."""
        count = self.flags.workers
        if not self.flags.flink:
            processes = ["--direct_running_mode=multi_processing"] if count else []
            yield [f"--direct_num_workers={count or 1}", *processes]
            return

        def start(arguments: Sequence[str], log: Path) -> subprocess.Popen:
            process = flink.start_cold(arguments, log)
            watched.sessions = {process.pid}
            return process

        with (
            tempfile.TemporaryDirectory(dir=self.place, ignore_cleanup_errors=True) as place,
            flink.cluster(Path(place) / "cluster", count) as cluster,
            cluster.job_server() as endpoint,
            flink.worker_pool(Path(place), start) as port,
        ):
            flags = cluster.flags(endpoint, count, port)
            yield [*flags, "--threads", "1"] if self.stage.name in ("embed", "answer") else flags

    def _rate(self, report: Mapping[str, Any], secs: float) -> dict[str, float]:
        """What an unbroken run shows of the stage's rate; its start includes that of the process."""
        rate = planning.rate_of(report, corpus.searched(self.flags.spec, self.rows))
        return dataclasses.asdict(dataclasses.replace(rate, start_secs=rate.start_secs + secs - report["seconds"]))

    def _made_rows(self, manifest: Manifest) -> int:
        """The rows that the command worked on, if its output is whole.

        Raises:
            RuntimeError: rows are lost.
        """
        wanted = self.flags.questions if self.stage.name == "answer" else self.rows
        if manifest.rows != wanted:
            raise RuntimeError(f"{self.stage.name} wrote {manifest.rows:,} rows of {wanted:,}")
        if self.stage.name != "embed":
            return wanted
        starts = zip(manifest.shards, manifest.row_starts(), strict=False)  # which have the end too
        return sum(shard.rows for shard, start in starts if start < self.flags.embedded)


def main(arguments: Sequence[str]) -> int:
    """Rehearses one stage, prints its record, and adds it to `measured.jsonl`."""
    parser = argparse.ArgumentParser(prog="python -m tests.rehearsal", description=__doc__.splitlines()[0])
    parser.add_argument("stage", choices=list(STAGES))
    parser.add_argument("--directory", type=Path, required=True, help="for all files: some 60 GB at full size")
    parser.add_argument("--rows", type=int, default=ROWS, help="passages; by default those of psgs_w100")
    parser.add_argument("--embedded", type=int, default=EMBEDDED, help="passages that embed computes")
    parser.add_argument("--questions", type=int, default=corpus.QUESTIONS, help="questions that answer is asked")
    parser.add_argument("--spec", default=SPEC, help="spec of the index")
    parser.add_argument("--workers", type=int, default=1, help="worker processes; 0: none besides the launcher")
    parser.add_argument(
        "--flink", action="store_true", help="on a Flink cluster of that many workers, which is killed too"
    )
    parser.add_argument("--unbroken", action="store_true", help="do not kill it; record its rate")
    parser.add_argument("--again", action="store_true", help="remove the stage's earlier output first")
    parser.add_argument("--measured", type=Path, default=MEASURED, help="file that gets the record")
    flags = parser.parse_args(arguments)
    rehearsal = Rehearsal(flags)
    if flags.again:
        shutil.rmtree(rehearsal.output(flags.stage), ignore_errors=True)
    record = json.dumps(rehearsal.run())
    print(record)
    with flags.measured.open("a") as file:
        file.write(record + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
