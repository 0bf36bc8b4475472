"""Bad input: one clear line, exit code 2, nothing half-written."""

import base64
import bz2
import gzip
import json
import os
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.cli import main
from rag_ops.models import compose
from tests.conftest import make_sentence_encoder
from tests.pipelines.workspace import digests, fails, ragbeam, write_articles, write_questions

PAGE = "<page><title>T{n}</title><ns>0</ns><id>{n}</id><revision><text>Some text of page {n}.</text></revision></page>"
DUMP = "<mediawiki><siteinfo/>" + "".join(PAGE.format(n=n) for n in range(1, 300)) + "</mediawiki>"


@pytest.fixture
def articles(tmp_path):
    write_articles(tmp_path / "articles.jsonl")
    return tmp_path / "articles.jsonl"


@pytest.fixture
def stages(searchable):
    """Passages, embeddings and index of a small corpus, which tests read or copy."""
    return searchable


def chunk_fails(capsys, tmp_path, *arguments: object) -> str:
    code, line = fails(capsys, "chunk", "--output", tmp_path / "out", *arguments)
    assert code == 2, line
    assert not (tmp_path / "out").exists(), "something half-written is left"
    return line


def test_a_missing_file_is_named(capsys, tmp_path):
    assert "none.xml" in chunk_fails(capsys, tmp_path, "--input", tmp_path / "none.xml")


def test_a_glob_without_files_is_named(capsys, tmp_path):
    assert "*.xml" in chunk_fails(capsys, tmp_path, "--input", tmp_path / "*.xml")


@pytest.mark.parametrize("suffix", [".xml", ".xml.gz", ".xml.bz2"])
@pytest.mark.parametrize("part", [0.3, 0.9])
def test_a_dump_cut_in_the_middle(capsys, tmp_path, suffix, part):
    data = {".xml": DUMP.encode(), ".xml.gz": gzip.compress(DUMP.encode()), ".xml.bz2": bz2.compress(DUMP.encode())}[
        suffix
    ]
    path = tmp_path / f"dump{suffix}"
    path.write_bytes(data[: int(part * len(data))])
    assert "cut" in chunk_fails(capsys, tmp_path, "--input", path, "--split_bytes", 4096)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"this is no XML at all", "not well-formed"),
        (b"<html><body/></html>", "not a MediaWiki export"),
        (b"<mediawiki><page><title>A</title><ns>0</ns></page></mediawiki>", "lacks a field"),
        (b"<mediawiki><page><title>A</ttitle></page></mediawiki>", "not well-formed"),
        (b'<!DOCTYPE x [<!ENTITY a "b">]><mediawiki/>', "document type"),
    ],
)
def test_what_is_no_dump_is_refused(capsys, tmp_path, content, message):
    path = tmp_path / "dump.xml"
    path.write_bytes(content)
    assert message in chunk_fails(capsys, tmp_path, "--input", path)


def test_a_broken_line_is_told_by_its_number(capsys, tmp_path, articles):
    lines = articles.read_text().splitlines()
    articles.write_text("\n".join([*lines[:20], '{"id": 1, "title": "x", "text": ', *lines[20:]]) + "\n")
    for split_bytes in (1000, 1 << 20):
        line = chunk_fails(capsys, tmp_path, "--input", articles, "--split_bytes", split_bytes)
        assert "line 21" in line


@pytest.mark.parametrize("row", ['{"id": 7, "title": "x"}', '{"id": 1.5, "title": "x", "text": "y"}', "[1]"])
def test_an_article_without_a_text_or_with_an_odd_id_is_told_by_its_line(capsys, tmp_path, articles, row):
    articles.write_text(articles.read_text() + row + "\n")
    assert "line 31" in chunk_fails(capsys, tmp_path, "--input", articles)


def test_parquet_without_the_column_names_those_it_has(capsys, tmp_path):
    pq.write_table(pa.table({"id": [1], "title": ["a"], "prose": ["b"]}), tmp_path / "a.parquet")
    line = chunk_fails(capsys, tmp_path, "--input", tmp_path / "a.parquet")
    assert "id, title, prose" in line
    assert "--text_column" in line
    ragbeam("chunk", "--input", tmp_path / "a.parquet", "--output", tmp_path / "out", "--text_column", "prose")


def test_parquet_that_is_none(capsys, tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 but no more")
    assert "not a whole Parquet file" in chunk_fails(capsys, tmp_path, "--input", tmp_path / "a.parquet")


@pytest.mark.parametrize("arguments", [["--format", "docx"], []])
def test_an_unknown_format_lists_the_known_ones(capsys, tmp_path, arguments):
    (tmp_path / "a.docx").write_text("x")
    assert "mediawiki" in chunk_fails(capsys, tmp_path, "--input", tmp_path / "a.docx", *arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--passage_words", 0],
        ["--passage_overlap", 100],
        ["--num_shards", 0],
        ["--num_shards", "two"],
        ["--no_such_flag", 1],
        ["--direct_num_workers", -1],
        ["--direct_num_workers", "two"],
        ["--direct_num_workers", 100_000_000],
    ],
)
def test_bad_flags_are_refused(capsys, tmp_path, articles, arguments):
    assert str(arguments[0]) in chunk_fails(capsys, tmp_path, "--input", articles, *arguments)


@pytest.mark.parametrize("flag", ["--text_column", "--job_endpoint", "--no_such_flag"])
def test_an_argument_that_is_not_utf8_is_refused(capsys, tmp_path, articles, flag):
    assert "not UTF-8: 'caf\\udce9'" in chunk_fails(capsys, tmp_path, "--input", articles, flag, "caf\udce9")


def test_a_flag_that_is_nearly_beams_is_guessed(capsys, tmp_path, articles):
    line = chunk_fails(capsys, tmp_path, "--input", articles, "--direct_num_worker", 2)
    assert "did you mean --direct_num_workers" in line


def test_an_output_of_another_configuration_is_refused_and_stays(capsys, tmp_path, articles):
    ragbeam("chunk", "--input", articles, "--output", tmp_path / "out")
    before = digests(tmp_path / "out", "chunk")
    code, line = fails(capsys, "chunk", "--input", articles, "--output", tmp_path / "out", "--passage_words", 50)
    assert code == 2
    assert "passage_words 100" in line
    assert "--overwrite" in line
    assert digests(tmp_path / "out", "chunk") == before
    ragbeam("chunk", "--input", articles, "--output", tmp_path / "out", "--passage_words", 50, "--overwrite")
    assert digests(tmp_path / "out", "chunk") != before


def test_a_stage_that_is_not_there_is_named(capsys, tmp_path, sentence_encoder):
    code, line = fails(
        capsys, "embed", "--passages", tmp_path / "no", "--encoder", sentence_encoder, "--output", tmp_path / "o"
    )
    assert code == 2
    assert "ragbeam chunk" in line


def test_an_encoder_that_is_not_there(capsys, stages, tmp_path):
    code, line = fails(
        capsys, "embed", "--passages", stages / "passages", "--encoder", "/no/encoder", "--output", tmp_path / "o"
    )
    assert code == 2
    assert "/no/encoder" in line


def test_a_device_that_is_absent_is_a_failed_job(capsys, stages, tmp_path, sentence_encoder):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    command = ["embed", "--passages", stages / "passages", "--encoder", sentence_encoder, "--output", tmp_path / "o"]
    code, line = fails(capsys, *command, "--device", "cuda")
    assert code == 1
    assert "no CUDA device" in line
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("spec", ["Falt", "PQ7", "IVF100000,Flat"])
def test_a_spec_that_does_not_fit(capsys, stages, tmp_path, spec):
    code, line = fails(
        capsys, "index", "--embeddings", stages / "embeddings", "--output", tmp_path / "o", "--spec", spec
    )
    assert code == 2
    assert spec in line
    assert not (tmp_path / "o").exists()


def answer_fails(capsys, tmp_path, index, model, questions) -> str:
    command = ["answer", "--questions", questions, "--index", index, "--model", model, "--output", tmp_path / "answers"]
    code, line = fails(capsys, *command)
    assert code == 2, line
    assert not (tmp_path / "answers").exists()
    return line


def test_an_encoder_of_another_dimension_is_refused(capsys, stages, tmp_path, tokenizer, tiny_bert_config, tiny_bart):
    other = make_sentence_encoder(tmp_path / "enc", tokenizer, tiny_bert_config | {"hidden_size": 8}, seed=1)
    compose.compose(other, tiny_bart, str(tmp_path / "model"))
    write_questions(tmp_path / "q.jsonl")
    line = answer_fails(capsys, tmp_path, stages / "index", tmp_path / "model", tmp_path / "q.jsonl")
    assert "dimension" in line
    assert "expected 16" in line


@pytest.mark.parametrize(
    ("change", "message"),
    [({"normalize": False}, "normalisation"), ({"mode": "cls_token"}, "pooling"), ({"seed": 9}, "digest")],
)
def test_an_encoder_that_does_not_match_is_refused(
    capsys, stages, tmp_path, tokenizer, tiny_bert_config, tiny_bart, change, message
):
    other = make_sentence_encoder(tmp_path / "enc", tokenizer, tiny_bert_config, **{"seed": 1, **change})
    compose.compose(other, tiny_bart, str(tmp_path / "model"))
    write_questions(tmp_path / "q.jsonl")
    assert message in answer_fails(capsys, tmp_path, stages / "index", tmp_path / "model", tmp_path / "q.jsonl")


def test_a_model_that_is_no_rag_model(capsys, stages, tmp_path, tiny_bart):
    write_questions(tmp_path / "q.jsonl")
    line = answer_fails(capsys, tmp_path, stages / "index", tiny_bart, tmp_path / "q.jsonl")
    assert "ragbeam compose" in line


def test_an_index_of_other_passages_is_refused(capsys, stages, tmp_path, tiny_rag):
    shutil.copytree(stages, tmp_path / "ws")
    write_articles(tmp_path / "ws" / "articles.jsonl", count=31)
    again = ["chunk", "--input", tmp_path / "ws" / "articles.jsonl", "--output", tmp_path / "ws" / "passages"]
    ragbeam(*again, "--passage_words", 20, "--num_shards", 2)
    write_questions(tmp_path / "q.jsonl")
    line = answer_fails(capsys, tmp_path, tmp_path / "ws" / "index", tiny_rag, tmp_path / "q.jsonl")
    assert "other passages" in line


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("q.jsonl", '{"question": \n{"question": \n', "line 1"),
        ("q.json", '[{"question": "a"}, {"question"', "broken or cut"),
        ("q.tsv", "7\tmoon\n8\tsun\n", "without a header"),
        ("q.csv", "text,answer\nwhat,ice\n", "--question_column"),
        ("q.docx", "what", "--questions_format"),
    ],
)
def test_bad_question_files(capsys, stages, tmp_path, tiny_rag, name, content, message):
    (tmp_path / name).write_text(content)
    assert message in answer_fails(capsys, tmp_path, stages / "index", tiny_rag, tmp_path / name)


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "q.tsv"), ("7\tmoon\n8\tsun\n", "without a header"), ("query\tinput\na\tb\n", "two columns")],
)
def test_a_question_file_that_is_missing_or_another_stops_a_run_before_its_first_stage(
    capsys, tmp_path, articles, sentence_encoder, tiny_rag, content, message
):
    if content is not None:
        (tmp_path / "q.tsv").write_text(content)
    command = ["run", "--workspace", tmp_path / "ws", "--input", articles, "--questions", tmp_path / "q.tsv"]
    code, line = fails(capsys, *command, "--encoder", sentence_encoder, "--model", tiny_rag)
    assert code == 2
    assert message in line
    assert not (tmp_path / "ws").exists()


def test_an_empty_question_is_a_row_with_an_error_and_no_failure(stages, tmp_path, tiny_rag):
    (tmp_path / "q.jsonl").write_text(json.dumps({"id": "e", "question": ""}) + "\n")
    command = ["answer", "--questions", tmp_path / "q.jsonl", "--index", stages / "index", "--model", tiny_rag]
    ragbeam(*command, "--output", tmp_path / "answers")
    rows = pq.read_table(tmp_path / "answers" / "answers-00000-of-00001.parquet").to_pylist()
    assert [(row["question_id"], row["answer"]) for row in rows] == [("e", None)]
    assert "empty" in rows[0]["error"]


def test_no_command_prints_the_help(capsys):
    from pipelines.cli import main

    assert main([]) == 2
    assert "chunk" in capsys.readouterr().out


def test_the_cause_of_an_unexpected_failure_is_one_line_with_a_hint(capsys, tmp_path, articles, monkeypatch):
    from rag_ops.articles import shuffle

    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("no such luck")

    monkeypatch.setattr(shuffle, "write_spill", fail)
    code, line = fails(capsys, "chunk", "--input", articles, "--output", tmp_path / "out")
    assert code == 1
    assert "ZeroDivisionError: no such luck" in line
    assert "--debug" in line


@pytest.fixture
def encrypted(tmp_path):
    """A Parquet file with all that articles and questions need, its columns encrypted, its footer not; and whole."""
    encryption = pytest.importorskip("pyarrow.parquet.encryption")

    class Keys(encryption.KmsClient):
        def __init__(self, _):
            super().__init__()

        def wrap_key(self, key, _):
            return base64.b64encode(key)

        def unwrap_key(self, key, _):
            return base64.b64decode(key)

    factory, table = encryption.CryptoFactory(Keys), pa.table({name: ["a", "b"] for name in ("id", "title", "text")})
    table = table.append_column("question", table["text"])
    for plain in (True, False):
        settings = encryption.EncryptionConfiguration(
            footer_key="footer", column_keys={"key": table.column_names}, plaintext_footer=plain
        )
        properties = factory.file_encryption_properties(encryption.KmsConnectionConfig(), settings)
        path = tmp_path / f"{'columns' if plain else 'whole'}.parquet"
        with pq.ParquetWriter(path, table.schema, encryption_properties=properties) as writer:
            writer.write_table(table)
    return tmp_path / "columns.parquet", tmp_path / "whole.parquet"


def test_encrypted_parquet_is_refused(capsys, tmp_path, encrypted, stages, tiny_rag):
    answer = ["answer", "--index", stages / "index", "--model", tiny_rag, "--output", tmp_path / "answers"]
    for path in encrypted:
        assert "crypt" in chunk_fails(capsys, tmp_path, "--input", path)
        code, line = fails(capsys, *answer, "--questions", path)
        assert code == 2
        assert "crypt" in line
        assert not (tmp_path / "answers").exists()


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_a_pipe_or_a_directory_in_place_of_a_file_is_refused(capsys, tmp_path, articles, stages, tiny_rag, make):
    make(tmp_path / "odd.jsonl")
    assert "odd.jsonl" in chunk_fails(capsys, tmp_path, "--input", tmp_path / "odd.jsonl")
    answer = ["answer", "--index", stages / "index", "--model", tiny_rag, "--output", tmp_path / "answers"]
    code, line = fails(capsys, *answer, "--questions", tmp_path / "odd.jsonl")
    assert code == 2
    assert "odd.jsonl" in line
    make(tmp_path / "odd.npy")
    index = ["index", "--embeddings", stages / "embeddings", "--output", tmp_path / "index", "--spec", "SQ8"]
    code, line = fails(capsys, *index, "--queries", tmp_path / "odd.npy")
    assert code == 2
    assert "odd.npy" in line
    shutil.copytree(stages / "passages", tmp_path / "passages")
    (tmp_path / "passages" / "manifest.json").unlink()
    make(tmp_path / "passages" / "manifest.json")
    for command in (
        ["embed", "--passages", tmp_path / "passages", "--encoder", "none", "--output", tmp_path / "o"],
        ["chunk", "--input", articles, "--output", tmp_path / "passages"],
    ):
        code, line = fails(capsys, *command)
        assert code == 2, line
        assert "manifest" in line or "none" in line
    assert main(["verify", str(tmp_path / "passages")]) == 1
    assert not (tmp_path / "o").exists()


def test_splits_are_bounded(capsys, tmp_path, articles):
    for name, content in (("large.jsonl", articles.read_text()), ("large.xml", DUMP)):
        with (tmp_path / name).open("w") as file:
            file.write(content)
            file.truncate(1 << 30)  # nothing of it is read
        line = chunk_fails(capsys, tmp_path, "--input", tmp_path / name, "--split_bytes", 1)
        assert "--split_bytes 1" in line


@pytest.mark.parametrize("spec", ["HNSW8", "HNSW8,SQ8", "IVF1,Flat", "Flat", "SQ8", "PQ4", "IVF2,Flat", "auto"])
@pytest.mark.parametrize("texts", [["one passage"], [""]])
def test_one_passage_or_none_works_or_is_refused(capsys, tmp_path, sentence_encoder, tiny_rag, spec, texts):
    rows = [{"id": n, "title": "t", "text": text} for n, text in enumerate(texts)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_questions(tmp_path / "q.jsonl")
    command = [
        "run",
        "--workspace",
        tmp_path / "w",
        "--input",
        tmp_path / "a.jsonl",
        "--questions",
        tmp_path / "q.jsonl",
    ]
    command += ["--encoder", sentence_encoder, "--model", tiny_rag, "--spec", spec, "--max_new_tokens", 2]
    capsys.readouterr()
    code = main([str(argument) for argument in command])
    errors = [line for line in capsys.readouterr().err.splitlines() if "error:" in line or "Traceback" in line]
    assert (code, len(errors)) == ((2, 1) if not texts[0] or spec in ("PQ4", "IVF2,Flat") else (0, 0)), errors
    if code == 2:
        assert not (tmp_path / "w" / "index").exists()
