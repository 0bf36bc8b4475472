"""What chunk does before it renders a dump: collects the wiki's templates, and writes the articles down on the way.

The templates of a page stand anywhere in the dump, so all of it is read first. Each split gives a file of its articles,
as wikitext, and a run of its templates; the runs of a wiki become one file, which the workers look templates up in.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import apache_beam as beam

from pipelines.runners.counters import StepCounters
from pipelines.transforms.stage_job import distribute
from rag_ops.articles import page_files, shuffle
from rag_ops.articles.article import Source, Split
from rag_ops.articles.dropped import Dropped
from rag_ops.articles.formats import MediaWiki
from rag_ops.articles.options import InputOptions
from rag_ops.articles.template_file import TemplateFile, TemplateRun, merge_runs
from rag_ops.storage import store
from schemas.manifest import digest_of


@dataclasses.dataclass(frozen=True)
class Wiki:
    """A wiki whose dump is read: the name of its file of templates, and its splits."""

    name: str
    splits: tuple[Split, ...]


def wikis_of(splits: Sequence[Split], reading: InputOptions) -> list[Wiki]:
    """The wikis of a job's dumps, in input order; none if templates aren't wanted."""
    dumps = [split for split in splits if split.format == MediaWiki.name and reading.templates == "dump"]
    urls = dict.fromkeys(split.url for split in dumps)
    names = {url: reading.site_of(url).wiki if len(urls) > 1 else "" for url in urls}
    wikis: dict[str, list[Split]] = {}
    for split in dumps:
        wikis.setdefault(names[split.url], []).append(split)
    return [
        Wiki(f"templates-{number:05d}-{digest_of([file_name('run', split) for split in of])[:8]}.arrow", tuple(of))
        for number, of in enumerate(wikis.values())
    ]


def names_of(wikis: Iterable[Wiki]) -> dict[str, str]:
    """The name of the file of templates of each dump."""
    return {split.url: wiki.name for wiki in wikis for split in wiki.splits}


def file_name(kind: str, split: Split) -> str:
    """The name of a split's file of a kind, with a digest of the split: another --split_bytes cuts other splits."""
    named = dataclasses.replace(split, url=store.name_of(split.url))  # the URL may be signed anew
    return f"{kind}-{split.ordinal:05d}-{digest_of(dataclasses.asdict(named))[:8]}.arrow"


def collect(pipeline: beam.Pipeline, wikis: Sequence[Wiki], reading: InputOptions, directory: str) -> Any:
    """Reads the dumps of wikis; returns a collection that is there when their templates are.

    A dump of one split has its templates to itself: who renders it collects them (`collect_alone`), without a shuffle.
    """
    wikis = [wiki for wiki in wikis if len(wiki.splits) > 1]
    splits = [split for wiki in wikis for split in wiki.splits]
    read = (
        pipeline | distribute("Dumps", splits) | "ReadDumps" >> beam.Map(read_dump, reading, directory, names_of(wikis))
    )
    return (
        pipeline
        | distribute("Wikis", wikis)
        | "WaitForDumps" >> beam.WaitOn(read)
        | "MergeTemplates" >> beam.Map(merge_templates, directory)
    )


def collect_alone(split: Split, reading: InputOptions, directory: str, names: Mapping[str, str]) -> None:
    """Reads a split that is a whole dump, unless it is rendered, or its wiki's templates were collected before."""
    if split.url in names and not _is_rendered(split, directory) and not _has(directory, names[split.url]):
        read_dump(split, reading, directory, names)
        merge_templates(Wiki(names[split.url], (split,)), directory)


def read_dump(split: Split, reading: InputOptions, directory: str, names: Mapping[str, str]) -> None:
    """Reads a split of a dump and writes its articles and its templates, unless what they are for is there."""
    counters = StepCounters("ReadDumps")
    pages, run = file_name("pages", split), file_name("run", split)
    is_read = page_files.have_pages(directory, pages) or _is_rendered(split, directory)
    if is_read and (_has(directory, run) or _has(directory, names[split.url])):
        return
    with counters.timed():
        dropped, templates = Dropped(), TemplateRun(reading.site_of(split.url))
        page_files.write_pages(directory, pages, MediaWiki().articles(split, reading, dropped, templates.add), dropped)
        templates.write(directory, run)
    counters.add(rows_out=len(templates))


def merge_templates(wiki: Wiki, directory: str) -> None:
    """Merges the templates of a wiki's splits into its file, unless an earlier run has."""
    counters = StepCounters("MergeTemplates")
    if _has(directory, wiki.name):
        return
    with counters.timed():
        runs = [file_name("run", split) for split in wiki.splits]
        counters.add(rows_out=merge_runs(directory, wiki.name, runs))
        for run in runs:
            store.remove(store.join(directory, run))


@contextlib.contextmanager
def articles(
    split: Split, reading: InputOptions, dropped: Dropped, directory: str, names: Mapping[str, str]
) -> Iterator[Iterator[Source]]:
    """The articles of a split in plain text; those of a dump by the templates of its wiki, if they were collected."""
    if split.url not in names:
        yield shuffle.plain_articles(split, reading, dropped)
        return
    pages = page_files.read_pages(directory, file_name("pages", split), dropped)
    with TemplateFile(store.join(directory, names[split.url])) as templates:
        yield shuffle.plain_articles(split, reading, dropped, templates, pages)


def forget(split: Split, directory: str, names: Mapping[str, str]) -> None:
    """Removes the file of a split's articles, which takes as much room as the dump, once they are rendered."""
    if split.url in names:
        page_files.remove_pages(directory, file_name("pages", split))


def _has(directory: str, name: str) -> bool:
    return store.exists(store.join(directory, name))


def _is_rendered(split: Split, directory: str) -> bool:
    return shuffle.find_spill(directory, file_name("spill", split)) is not None
