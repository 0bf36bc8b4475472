"""chunk on a large dump of Wikipedia's form, by all cores, beside a small one of the same pages.

The dump is multistream bz2 with its index. Its pages are the excerpt's, each copy with ids and titles of its own and
the sentences of every line in another order, so that no two streams are alike; a seed makes it the same every time.
It repeats the excerpt's words and markup: what is measured is how chunk behaves at that size, not more kinds of pages.

RAGBEAM_BENCH_PAGES is the number of pages (20,000 unless it is given; 200,000 are 6 GB of XML), and RAGBEAM_BENCH_PLACE
a directory for the dump, which is then kept, and for what chunk writes.
"""

from __future__ import annotations

import bz2
import dataclasses
import itertools
import json
import multiprocessing
import os
import random
import re
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from rag_ops.compute.cores import cores
from tests.benchmarks.common import Result, excerpt

STREAM_PAGES = 100  # as Wikimedia makes its dumps
SHARD_BYTES = 16 << 20  # of the dump, for a shard: what chunk takes by default
POLL_SECS = 0.2
GROWTH, SMALL_GROWTH = 1.10, 1.25  # of memory, at most: between a tenth and the whole, and from a dump of one shard
PAGE = re.compile(r"  <page>.*?</page>\n", re.DOTALL)
FIELDS = re.compile(r"<title>([^<]*)</title>(.*?<id>)(\d+)(</id>.*)", re.DOTALL)
SENTENCE = re.compile(r"(?<=[a-z]\.) (?=[A-Z])")
PAIRS = (("[", "]"), ("{", "}"), ("&lt;", "&gt;"), ("&lt;ref", "/ref&gt;"))


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Pages of the dump, and of the small one."""

    pages: int = int(os.environ.get("RAGBEAM_BENCH_PAGES", 20_000))
    small: int = 2_000
    few: int = 10  # of a third one, which shows what the start takes


TOY = Sizes(pages=24, small=12, few=4)


def run(directory: Path, sizes: Sizes = Sizes()) -> list[Result]:
    """Pages for a second of a core and the peak memory of a process, as ratios to those of a smaller dump."""
    place = Path(os.environ.get("RAGBEAM_BENCH_PLACE") or directory)
    place.mkdir(parents=True, exist_ok=True)
    one = ["--direct_num_workers", 1]
    few, small = (chunk(place, pages, *one, *shards(make_dump(place, pages))) for pages in (sizes.few, sizes.small))
    whole = chunk(place, sizes.pages, *shards(make_dump(place, sizes.pages)))
    rate = (sizes.small - sizes.few) / max(small.cpu_secs - few.cpu_secs, 1e-9)
    ratio = sizes.pages / max(whole.cpu_secs - few.cpu_secs, 1e-9) / rate
    busy = whole.cpu_secs / whole.secs / whole.processes
    figures = (
        f"{sizes.pages:,} pages in {whole.secs:.0f} s by {whole.processes} processes, {busy:.0%} of whose cores were "
        f"busy; {ratio * rate:.1f} pages for a second of a core, {rate:.1f} of the small; {whole.passages:,} passages, "
        f"{whole.dump_bytes / 1e9:.2f} GB as bz2"
    )
    right = all(done.pages == pages for done, pages in ((small, sizes.small), (whole, sizes.pages)))
    # One shard, as the small dump has, does not fill what a process holds; a tenth of a large dump does.
    tenth, least, most = sizes.pages // 10, small, SMALL_GROWTH
    if tenth > sizes.small:
        least, most = chunk(place, tenth, *shards(make_dump(place, tenth))), GROWTH
    memory, pages = max(whole.peaks) / max(least.peaks), max(tenth, sizes.small)
    name = f"{sizes.pages:,} pages / {sizes.small:,}"
    peaks = f"{' and '.join(f'{peak / 1e6:.0f}' for peak in whole.peaks)} MB, {max(least.peaks) / 1e6:.0f} MB before"
    growth = f"dump: peak memory of a process, {sizes.pages:,} pages / {pages:,}"
    return [
        Result(f"dump: pages for a second of a core, {name}", ratio, ">= 0.95", ratio >= 0.95, figures, right),
        Result(growth, memory, f"< {most:.2f}", memory < most, peaks, right),
    ]


@dataclasses.dataclass(frozen=True)
class Chunked:
    """What a run of chunk took; `peaks` are bytes of each process that lived longer than a moment, launcher first."""

    secs: float
    cpu_secs: float
    peaks: list[int]
    processes: int
    pages: int
    passages: int
    dump_bytes: int


def shards(dump: Path) -> list[object]:
    """The flag for shards of one size, however small the dump."""
    return ["--num_shards", max(1, round(dump.stat().st_size / SHARD_BYTES))]


def chunk(place: Path, pages: int, *more: object) -> Chunked:
    """Runs chunk on the dump of so many pages, in a process of its own.

    Raises:
        RuntimeError: it failed.
    """
    output = place / "passages"
    shutil.rmtree(output, ignore_errors=True)
    dump = dump_path(place, pages)
    command = [sys.executable, "-m", "pipelines.cli", "chunk", "--input", dump, "--output", output, *more]
    before, start = cpu_secs(), time.perf_counter()
    with subprocess.Popen(
        list(map(str, command)), cwd=Path(__file__).parents[2], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        found: dict[int, int] = {}
        watcher = threading.Thread(target=watch, args=(process, found))
        watcher.start()
        assert process.stderr is not None
        said = process.stderr.read().decode()
    secs = time.perf_counter() - start
    watcher.join()
    if process.returncode:
        raise RuntimeError(said)
    report = json.loads((output / "run.json").read_text())
    shutil.rmtree(output)
    info = report["info"]
    return Chunked(
        secs,
        cpu_secs() - before,
        list(found.values()),
        report["processes"],
        info["articles"] + sum(info["dropped"].values()),
        report["rows"],
        dump.stat().st_size,
    )


def cpu_secs() -> float:
    """Seconds of a core that processes started from here, and theirs, took in all."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def watch(process: subprocess.Popen, found: dict[int, int]) -> None:
    """Notes the peak memory, in bytes, of a process and of its workers while it runs."""
    while process.poll() is None:
        for pid in [process.pid, *children(process.pid)]:
            try:
                status = Path(f"/proc/{pid}/status").read_text()
            except OSError:
                continue
            for peak in re.findall(r"VmHWM:\s+(\d+) kB", status):
                found[pid] = max(found.get(pid, 0), int(peak) * 1024)
        time.sleep(POLL_SECS)


def children(pid: int) -> list[int]:
    """The processes that the threads of one have started."""
    try:
        lists = [path.read_text().split() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    except OSError:
        return []
    return sorted({int(child) for found in lists for child in found})


def dump_path(place: Path, pages: int) -> Path:
    """Where the dump of so many pages lies."""
    return place / f"bench-{pages}.xml.bz2"


def make_dump(place: Path, pages: int) -> Path:
    """Writes a dump of so many pages and its index, unless they are there; returns the dump's path."""
    path = dump_path(place, pages)
    if path.exists():
        return path
    text = bz2.BZ2File(excerpt()).read().decode()
    head, offset = bz2.compress(text[: text.index("  <page>")].encode()), 0
    written = path.with_suffix(".part")
    with (
        multiprocessing.get_context("fork").Pool(cores()) as pool,
        written.open("wb") as file,
        bz2.open(place / f"bench-{pages}-index.txt.bz2", "wt", encoding="utf-8") as index,
    ):
        offset += file.write(head)
        for titles, data in pool.imap(stream, stream_jobs(text, pages)):
            index.writelines(f"{offset}:{title}\n" for title in titles)
            offset += file.write(data)
        file.write(bz2.compress(b"</mediawiki>\n"))
    written.rename(path)
    return path


def stream_jobs(text: str, pages: int) -> Iterator[list[tuple[int, str]]]:
    """Yields the pages of each stream: number of the copy, and the page as the excerpt has it."""
    found = PAGE.findall(text)
    numbered = ((copy, page) for copy in itertools.count() for page in found)
    for start in range(0, pages, STREAM_PAGES):
        yield list(itertools.islice(numbered, min(STREAM_PAGES, pages - start)))


def stream(pages: list[tuple[int, str]]) -> tuple[list[str], bytes]:
    """The index entries of a stream, "id:title", and its bytes."""
    made = [copy_of(page, copy) for copy, page in pages]
    return [f"{number}:{title}" for number, title, _ in made], bz2.compress("".join(page for *_, page in made).encode())


def copy_of(page: str, copy: int) -> tuple[int, str, str]:
    """Id, title and XML of a copy of a page: other sentences come first, and nothing else of its markup changes."""
    fields = FIELDS.search(page)
    assert fields is not None
    number, title = copy * 100_000 + int(fields[3]), f"{fields[1]} {copy}" if copy else fields[1]
    chance = random.Random(number)
    body = "\n".join(shuffled(line, chance) for line in fields[4].split("\n"))
    return number, title, f"  <page>\n    <title>{title}</title>{fields[2]}{number}{body}"


def shuffled(line: str, chance: random.Random) -> str:
    """A line with its sentences in another order; what stands in brackets or tags stays together."""
    sentences = [""]
    for part in SENTENCE.split(line):
        if all(sentences[-1].count(left) == sentences[-1].count(right) for left, right in PAIRS):
            sentences.append(part)
        else:
            sentences[-1] += " " + part
    del sentences[0]
    fixed = 1 if "<" in line else 0  # an element's own tags, at the line's ends; those of markup are escaped
    middle = sentences[fixed : len(sentences) - fixed]
    chance.shuffle(middle)
    sentences[fixed : len(sentences) - fixed] = middle
    return " ".join(sentences)
