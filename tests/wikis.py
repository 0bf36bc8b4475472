"""Small files of each format of a wiki, for tests: five articles, one of them a disambiguation page."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

ULM = """<p><b>Ulm</b> is a city.<sup class="reference">[1]</sup></p><table class="infobox">
<tr><th>Mayor</th><td>Ada</td></tr></table>
<h2>History</h2><p>Founded in 854.</p>
<table class="wikitable"><tr><th>Year</th><th>People</th></tr>
<tr><td>1900</td><td>42,982</td></tr></table><figure><figcaption>The minster</figcaption></figure>
<h2>References</h2><ol><li>A book</li></ol>"""
# What becomes of that article in every format: kind, section, text.
PASSAGES = [
    ("prose", "", "Ulm is a city. Founded in 854."),
    ("infobox", "", "Mayor: Ada"),
    ("table", "History", "Year: 1900; People: 42,982"),
]
CAPTION = ("caption", "History", "The minster")


def article(number: int, name: str, html: str, wikitext: str = "", **more: Any) -> dict[str, Any]:
    """An article of Wikimedia Enterprise's snapshots."""
    return {
        "name": name,
        "identifier": number,
        "date_modified": "2024-05-01T10:00:00Z",
        "version": {"identifier": 1000 + number},
        "namespace": {"identifier": 0},
        "in_language": {"identifier": "en"},
        "is_part_of": {"identifier": "enwiki"},
        "article_body": {"html": html, "wikitext": wikitext},
        **more,
    }


ARTICLES = [
    article(1, "Ulm", ULM, "'''Ulm''' is a city."),
    article(2, "Bonn", "<p>Bonn is a city too.</p>"),
    article(3, "Ulma", '<ol><li>REDIRECT <a href="./Ulm">Ulm</a></li></ol>', "#REDIRECT [[Ulm]]"),
    article(4, "Ulm (disambiguation)", "<p>Ulm may be</p>"),
    article(5, "Talk:Ulm", "<p>Why?</p>", namespace={"identifier": 1}),
]
MARKDOWN = """# Ulm

**Ulm** is a city.

## History

Founded in 854.

| Year | People |
|---|---|
| 1900 | 42,982 |

## References

- A book"""
FINEWIKI = [
    {
        "text": text,
        "id": f"enwiki/{number}",
        "wikiname": "enwiki",
        "page_id": number,
        "title": title,
        "url": "",
        "date_modified": "2024-05-01T10:00:00Z",
        "in_language": "en",
        "wikidata_id": "Q1",
        "bytes_html": 1,
        "wikitext": "'''Ulm'''",
        "version": 1000 + number,
        "infoboxes": json.dumps([{"title": "Ulm", "data": {"Mayor": "Ada"}}] if number == 1 else []),
        "has_math": False,
    }
    for number, title, text in [
        (1, "Ulm", MARKDOWN),
        (2, "Bonn", "# Bonn\n\nBonn is a city too."),
        (3, "Empty", ""),
        (4, "Ulm (disambiguation)", "Ulm may be"),
        (5, "Köln", "Köln is large."),
    ]
]
SECTIONS = [
    {"type": "section", "name": "Abstract", "has_parts": [{"type": "paragraph", "value": "Ulm is a city."}]},
    {
        "type": "section",
        "name": "History",
        "has_parts": [{"type": "list", "has_parts": [{"type": "list_item", "value": "Founded in 854."}]}],
        "table_references": [{"identifier": "people"}],
    },
    {"type": "section", "name": "References", "has_parts": [{"type": "paragraph", "value": "A book"}]},
]
FIELDS = [{"type": "section", "has_parts": [{"type": "field", "name": "Mayor", "value": "Ada"}]}]
TABLES = [
    {
        "identifier": "people",
        "headers": [[{"value": "Year"}, {"value": "People"}]],
        "rows": [[{"value": "1900"}, {"value": "42,982"}]],
    }
]
STRUCTURED = [
    {
        "name": name,
        "identifier": number,
        "abstract": "",
        "description": description,
        "infoboxes": [{"name": "Infobox", "type": "infobox", "has_parts": FIELDS}] if number == 1 else [],
        "sections": sections,
        "tables": TABLES if number == 1 else [],
        "in_language": {"identifier": "en"},
        "is_part_of": {"identifier": "enwiki"},
        "version": {"identifier": 1000 + number},
        "date_modified": "2024-05-01T10:00:00Z",
        "url": "",
    }
    for number, name, description, sections in [
        (1, "Ulm", "city", SECTIONS),
        (2, "Bonn", "city", [{"type": "paragraph", "value": "Bonn is a city too."}]),
        (3, "Empty", "", []),
        (4, "Neustadt", "Topics referred to by the same term", SECTIONS[:1]),
        (5, "Köln", "", [{"type": "paragraph", "value": "Köln is large."}]),
    ]
]


def write_json(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Writes one object a line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_archive(path: Path, files: Mapping[str, Sequence[Mapping[str, Any]]]) -> Path:
    """Writes a tar.gz of such files."""
    with tarfile.open(path, "w:gz") as archive:
        for name, rows in files.items():
            data = "".join(json.dumps(row) + "\n" for row in rows).encode()
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def write_parquet(path: Path, rows: Sequence[Mapping[str, Any]], *, packed: bool = False, group: int = 2) -> Path:
    """Writes Parquet; `packed` puts what is nested there as JSON."""
    if packed:
        rows = [{k: json.dumps(v) if isinstance(v, (list, dict)) else v for k, v in row.items()} for row in rows]
    pq.write_table(pa.Table.from_pylist(list(rows)), path, row_group_size=group)
    return path


def write_zim(path: Path, pages: Sequence[tuple[str, str, str]], language: str = "eng", **redirects: str) -> Path:
    """Writes a ZIM file of pages: path, title and HTML; and of an image, which is none."""
    from libzim.writer import Creator, Item, StringProvider

    class Page(Item):
        def __init__(self, path: str, title: str, content: str, mimetype: str = "text/html") -> None:
            super().__init__()
            self._said = path, title, mimetype, content

        def get_path(self) -> str:
            return self._said[0]

        def get_title(self) -> str:
            return self._said[1]

        def get_mimetype(self) -> str:
            return self._said[2]

        def get_contentprovider(self) -> Any:
            return StringProvider(self._said[3])

        def get_hints(self) -> dict[Any, int]:
            return {}

    with Creator(path) as creator:
        creator.set_mainpath(pages[0][0])
        for page in pages:
            creator.add_item(Page(*page))
        creator.add_item(Page("I/a.png", "", "no page", "image/png"))
        for name, target in redirects.items():
            creator.add_redirection(name, name, target, {})
        known = {"Language": language, "Name": "wikipedia_en_all", "Title": "W", "Creator": "W", "Publisher": "K"}
        for name, value in {**known, "Date": "2024-05-01", "Description": "W"}.items():
            creator.add_metadata(name, value)
    return path


ZIM_PAGES = [
    ("Ulm", "Ulm", f"<html><head><title>Ulm</title></head><body><h1>Ulm</h1>{ULM}</body></html>"),
    ("Bonn", "Bonn", "<p>Bonn is a city too.</p>"),
    ("Ulm_(disambiguation)", "Ulm (disambiguation)", "<p>Ulm may be</p>"),
    ("Köln", "Köln", "<p>Köln is large.</p>"),
]
