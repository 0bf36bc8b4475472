"""Wanted: articles to passages by shard, put together in one order whatever the splits, duplicates dropped whole."""

import itertools

import pyarrow as pa
import pytest

from rag_ops.articles import shuffle
from rag_ops.articles.article import UNKNOWN, Article, NoArticle, Split
from rag_ops.articles.dropped import Dropped
from rag_ops.articles.options import InputOptions
from rag_ops.articles.splitting import Cutting
from rag_ops.errors import InputError
from schemas import passages
from schemas.passages import Passage

ARTICLES = [Article(str(n), f"T{n}", " ".join(f"w{n}.{k}" for k in range(n * 7 % 31))) for n in range(1, 60)]


def write(tmp_path, groups, *, num_shards=3, words=5, overlap=0):
    return [
        shuffle.write_spill(
            str(tmp_path),
            f"p{n}.arrow",
            iter(g),
            Dropped(),
            ordinal=n,
            num_shards=num_shards,
            cutting=Cutting(words, overlap),
        )
        for n, g in enumerate(groups)
    ]


def shards(records, num_shards=3):
    return [shuffle.read_shard([record.url for record in records], n) for n in range(num_shards)]


def test_the_cut_into_splits_does_not_show(tmp_path):
    whole = shards(write(tmp_path / "a", [ARTICLES]))
    cut = shards(write(tmp_path / "b", [ARTICLES[:20], ARTICLES[20:21], ARTICLES[21:]]))
    assert [table.to_pylist() for table, _ in whole] == [table.to_pylist() for table, _ in cut]
    assert sum(table.num_rows for table, _ in whole) == sum(-(-len(a.text.split()) // 5) for a in ARTICLES)


def test_rounds_do_not_show_either(tmp_path, monkeypatch):
    whole = shards(write(tmp_path / "a", [ARTICLES]))
    monkeypatch.setattr(shuffle, "PIECE_BYTES", 3 * shuffle.ROW_BYTES)
    monkeypatch.setattr(shuffle, "ROUND_BYTES", 1000)
    records = write(tmp_path / "b", [ARTICLES])
    with pa.ipc.open_file(records[0].url) as reader:
        assert reader.num_record_batches > 3 * 3 + 1, "several batches for each shard"
    assert [table.to_pylist() for table, _ in whole] == [table.to_pylist() for table, _ in shards(records)]


def test_passages_are_in_order_of_article_and_position_with_ids_and_hashes(tmp_path):
    for table, _ in shards(write(tmp_path, [ARTICLES])):
        assert table.schema == passages.SCHEMA
        rows = table.to_pylist()
        keys = [(int(row["article_id"]), row["position"]) for row in rows]
        assert keys == sorted(keys)
        for row in rows:
            assert row["id"] == f"{row['article_id']}:{row['position']}"
            assert row["content_hash"] == passages.content_hash(row["title"], row["text"], row["section"])
            assert len(row["text"].split()) <= 5


@pytest.mark.parametrize("cut", [0, 1, 2, 3, 4])
def test_the_latest_revision_of_an_id_counts_whatever_the_order_and_the_splits(tmp_path, cut):
    versions = [
        Article("7", "long", "a b c d e f g h", 20020101000000, 50),
        Article("7", "older id", "x", 20240101000000, 8),
        Article("7", "newest", "x y z", 20240101000000, 9),
        Article("7", "of no date", "x", UNKNOWN, 99),
    ]
    for number, order in enumerate(itertools.permutations(versions)):
        groups = [[*order[:cut], Article("8", "t", "y")], order[cut:]]
        ((table, duplicates),) = shards(write(tmp_path / str(number), groups, num_shards=1), 1)
        assert duplicates == 3
        assert table.select(["article_id", "title", "text"]).to_pylist() == [
            {"article_id": "7", "title": "newest", "text": "x y z"},
            {"article_id": "8", "title": "t", "text": "y"},
        ]


def test_a_page_that_is_no_article_any_more_takes_its_older_revision_along(tmp_path):
    was, redirect = Article("7", "t", "a b", 20020101000000, 1), NoArticle("7", 20240101000000, 2)
    for number, groups in enumerate(([[was, redirect]], [[redirect], [was]], [[was], [redirect, ARTICLES[7]]])):
        records = write(tmp_path / str(number), groups, num_shards=1)
        ((table, duplicates),) = shards(records, 1)
        assert duplicates == 1
        assert "7" not in table["article_id"].to_pylist()
        assert sum(record.articles for record in records) == 1 + (number == 2)
        assert sum(record.passages for record in records) - 1 == table.num_rows
    earlier = NoArticle("7", 20010101000000, 0)
    ((table, duplicates),) = shards(write(tmp_path / "back", [[was], [earlier]], num_shards=1), 1)
    assert (table["text"].to_pylist(), duplicates) == (["a b"], 0)


def test_an_empty_latest_revision_is_the_latest(tmp_path):
    groups = [[Article("7", "t", "a b", 20020101000000, 1), Article("7", "t", " ", 20030101000000, 2)]]
    ((table, duplicates),) = shards(write(tmp_path, groups, num_shards=1), 1)
    assert (table.num_rows, duplicates) == (0, 1)


def test_an_article_that_comes_again_word_for_word_is_kept_once(tmp_path):
    long = Article("7", "t", "a b c d e f g h")
    ((table, duplicates),) = shards(write(tmp_path, [[long, Article("8", "t", "y"), long], [long]], num_shards=1), 1)
    assert (table["article_id"].to_pylist(), duplicates) == (["7", "7", "8"], 2)


@pytest.mark.parametrize(
    "other",
    [
        Article("7", "t", "a b c d e f g i"),
        Article("7", "other title", "a b c d e f g h"),
        Article("7", "t", "a b c d e"),
        Passage("7", "t", "a b c d e f g h"),
    ],
)
def test_articles_of_one_id_that_differ_are_refused_with_their_files(tmp_path, other):
    records = write(tmp_path, [[Article("6", "t", "x")], [Article("7", "t", "a b c d e f g h")], [other]], num_shards=1)
    given = [record.url for record in records]
    with pytest.raises(InputError, match=r"one id.*'7 in b\.jsonl and c\.jsonl'.*--prefix_ids"):
        shuffle.read_shard(given, 0, ["a.jsonl", "b.jsonl", "c.jsonl"])


def test_ready_passages_keep_their_ids(tmp_path):
    ((table, _),) = shards(
        write(tmp_path, [[Passage("21", "t", "one two three four five six seven")]], num_shards=1), 1
    )
    assert [(row["id"], row["text"]) for row in table.to_pylist()] == [("21", "one two three four five six seven")]


def test_an_article_without_a_word_is_counted(tmp_path):
    dropped = Dropped()
    articles = [Article("1", "t", " \n"), ARTICLES[3]]
    record = shuffle.write_spill(str(tmp_path), "p", articles, dropped, ordinal=0, num_shards=1, cutting=Cutting(5))
    assert record.dropped == {"empty": 1}
    assert record.articles == 1


def test_a_finished_part_is_found_with_its_counts_even_when_moved(tmp_path):
    (record,) = write(tmp_path / "a", [ARTICLES])
    assert shuffle.find_spill(str(tmp_path / "a"), "p0.arrow") == record
    (tmp_path / "a").rename(tmp_path / "b")
    assert shuffle.find_spill(str(tmp_path / "b"), "p0.arrow").url == str(tmp_path / "b" / "p0.arrow")
    assert shuffle.find_spill(str(tmp_path / "a"), "p0.arrow") is None


def test_an_empty_shard_has_the_schema():
    table, duplicates = shuffle.read_shard([], 0)
    assert table.schema == passages.SCHEMA
    assert (table.num_rows, duplicates) == (0, 0)


@pytest.mark.parametrize("kind", ["mediawiki", "jsonl"])
def test_only_a_dumps_markup_is_rendered(tmp_path, kind):
    if kind == "mediawiki":
        path = tmp_path / "d.xml"
        page = "<page><title>A</title><ns>0</ns><id>1</id><revision><text>'''B'''</text></revision></page>"
        path.write_text(f"<mediawiki>{page}</mediawiki>")
    else:
        path = tmp_path / "d.jsonl"
        path.write_text('{"id": 1, "title": "A", "text": "\'\'\'B\'\'\'"}\n')
    (article,) = shuffle.plain_articles(Split(0, kind, str(path)), InputOptions(), Dropped())
    assert article.text == ("B" if kind == "mediawiki" else "'''B'''")
