"""The file of a wiki's templates: every name is found, the latest revision counts, and runs may come in any number."""

import pytest

from rag_ops.articles import template_file
from rag_ops.articles.dump import Page
from rag_ops.articles.template_file import TemplateFile, TemplateRun, merge_runs
from rag_ops.markup.siteinfo import SiteInfo
from rag_ops.markup.template_source import Template

SITE = SiteInfo()


def page(name, text, date=1, revision=1, namespace=10, too_long=False):
    return Page("1", namespace, f"Template:{name}", False, text, too_long, date=date, revision=revision)


def merged(directory, *runs):
    """Merges runs, each a list of pages; the URL of the file."""
    for number, pages in enumerate(runs):
        run = TemplateRun(SITE)
        for one in pages:
            run.add(one)
        run.write(str(directory), f"run-{number}.arrow")
    count = merge_runs(str(directory), "all.arrow", [f"run-{number}.arrow" for number in range(len(runs))])
    with TemplateFile(str(directory / "all.arrow")) as file:
        assert len(file) == count
    return str(directory / "all.arrow")


@pytest.mark.parametrize("batch_bytes", [1, 2000, 1 << 18])
@pytest.mark.parametrize("runs", [1, 3])
def test_every_name_is_found_and_no_other(tmp_path, monkeypatch, batch_bytes, runs):
    monkeypatch.setattr(template_file, "BATCH_BYTES", batch_bytes)
    names = [f"{letter}{number}" for letter in ("A", "É", "日", "Z z") for number in range(30)]
    pages = [page(name, f"text of {name} {{{{{{1}}}}}}") for name in names]
    url = merged(tmp_path, *(pages[start::runs] for start in range(runs)))
    with TemplateFile(url) as file:
        assert len(file) == len(names)
        for name in [*names, *reversed(names)]:
            assert file.get(name) == Template(f"text of {name} {{{{{{1}}}}}}")
        assert [file.get(name) for name in ("", "A", "A00", "Zz", "\U0010ffff")] == [None] * 5


def test_the_file_is_the_same_however_the_pages_are_parted(tmp_path):
    pages = [page(f"T{number % 40}", f"text {number}", date=number) for number in range(100)]
    contents = []
    for number, runs in enumerate(([pages], [pages[::2], pages[1::2]], [pages[50:], [], pages[:50]])):
        (tmp_path / str(number)).mkdir()
        merged(tmp_path / str(number), *runs)
        contents.append((tmp_path / str(number) / "all.arrow").read_bytes())
    assert contents[0] == contents[1] == contents[2]


def test_the_latest_revision_counts_and_what_is_no_template_is_left_out(tmp_path):
    url = merged(
        tmp_path,
        [
            page("A", "old", date=1),
            page("A", "new", date=3),
            page("A", "middle", date=2),
            page("Talk", "x", namespace=11),
        ],
        [page("A", "later", date=3, revision=2), page("B", "long", too_long=True)],
    )
    with TemplateFile(url) as file:
        assert (file.get("A"), file.get("Talk"), file.get("B")) == (Template("later"), None, None)


def test_redirects_lua_and_disambiguation_are_marked(tmp_path):
    pages = [
        page("R", "#REDIRECT [[Template:a b]]"),
        page("L", "{{#invoke:A|b}}{{Disambiguation|x}}__DISAMBIG__"),
        page("M", "{{#if:{{{1|}}}|{{#invoke:A|b}}|text}}"),
    ]
    with TemplateFile(merged(tmp_path, pages)) as file:
        assert file.get("R") == Template(redirect="A b")
        assert file.get("L") == Template(needs_lua=True, disambiguates=True)
        assert file.get("M") == Template(pages[2].wikitext)


def test_a_reader_keeps_no_more_than_it_may(tmp_path, monkeypatch):
    monkeypatch.setattr(template_file, "KEPT_CHARS", 10_000)
    with TemplateFile(merged(tmp_path, [page(f"T{number}", "x" * 1000) for number in range(100)])) as file:
        for number in range(300):
            file.get(f"T{number}")
            assert sum(len(one.text) for one in file._kept.values() if one) <= 10_000


def test_a_wiki_without_templates_has_an_empty_file(tmp_path):
    with TemplateFile(merged(tmp_path, [], [])) as file:
        assert (len(file), file.get("A")) == (0, None)
