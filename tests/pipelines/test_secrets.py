"""Nothing that is written or shown holds the secrets of a job's URLs; a newly signed URL is the same input."""

import base64
import functools
import gzip
import http.server
import json
import os
import subprocess
import sys
import threading
import urllib.parse
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipelines.cli import COMMANDS, main
from pipelines.console.command import build_parser
from rag_ops.errors import InputError
from rag_ops.storage import store
from rag_ops.storage.manifests import read_manifest
from tests import warmed
from tests.pipelines.workspace import arguments_of, fails, ragbeam, write_articles, write_questions, write_wiki

USER, PASSWORD = "planted-user", "planted-pass"
SIGNATURES = ("planted-signature-1", "planted-signature-2")
CREDENTIAL = "PLANTEDAKIA/20300101/us-east-1/s3/aws4_request"
PLANTED = (USER, PASSWORD, "planted-signature", "PLANTEDAKIA", "planted-expired")


class Handler(http.server.SimpleHTTPRequestHandler):
    """Files of a directory by HTTP, with ranges: below /signed/ for those with a signature, else with a password."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        """Nothing."""

    def do_GET(self):
        """A file or a range of it; a directory's listing."""
        address = urllib.parse.urlsplit(self.path)
        path = Path(self.translate_path(self.path))
        if not self.is_allowed(address):
            self.answer(403, b"")
        elif path.is_dir():
            names = [name.name + "/" * name.is_dir() for name in path.iterdir()]
            self.answer(200, "".join(f'<a href="{name}">{name}</a>' for name in names).encode())
        elif not path.is_file():
            self.answer(404, b"")
        else:
            self.answer_file(path.read_bytes())

    do_HEAD = do_GET  # noqa: N815 (the name of http.server)

    def is_allowed(self, address):
        if address.path.startswith("/signed/"):
            return dict(urllib.parse.parse_qsl(address.query)).get("X-Amz-Signature") in SIGNATURES
        given = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        return self.headers.get("Authorization") == given

    def answer_file(self, data):
        if wanted := self.headers.get("Range"):
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            end = min(int(last or len(data)) + 1, len(data))
            self.answer(206, data[int(first) : end], {"Content-Range": f"bytes {first}-{end - 1}/{len(data)}"})
        else:
            self.answer(200, data)

    def answer(self, status, data, headers=None):
        self.send_response(status)
        for name, value in {"Content-Length": len(data), "Accept-Ranges": "bytes", **(headers or {})}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


@pytest.fixture(scope="module")
def served(tmp_path_factory, sentence_encoder, tiny_bart, tiny_rag, searchable):
    """The server's directory, and its host and port."""
    directory = tmp_path_factory.mktemp("served")
    (directory / "signed").mkdir()
    write_articles(directory / "articles.jsonl", count=12)
    packed = gzip.compress((directory / "articles.jsonl").read_bytes(), mtime=0)
    (directory / "signed" / "articles.jsonl.gz").write_bytes(packed)
    write_questions(directory / "signed" / "questions.jsonl")
    with (directory / "signed" / "questions.jsonl").open("a") as file:
        file.write("no JSON\n")
    links = {"encoder": sentence_encoder, "bart": tiny_bart, "rag": tiny_rag, "whole": searchable}
    for name, target in links.items():
        os.symlink(target, directory / name)
    write_wiki(directory / "wiki.parquet")
    handler = functools.partial(Handler, directory=str(directory))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield directory, f"127.0.0.1:{server.server_port}"
    server.shutdown()


def signed(host: str, name: str, signature: str) -> str:
    """A URL as S3 signs it, with slashes in the query, where a name seems to begin anew."""
    query = {"X-Amz-Algorithm": "AWS4-HMAC-SHA256", "X-Amz-Credential": CREDENTIAL, "X-Amz-Expires": "60"}
    query |= {"X-Amz-Date": f"2030010{len(signature)}", "X-Amz-Signature": signature, "x-id": "GetObject"}
    return f"http://{host}/signed/{name}?{urllib.parse.urlencode(query, safe='/')}"


def secured(host: str, name: str) -> str:
    """A URL with a password."""
    return f"http://{USER}:{PASSWORD}@{host}/{name}"


def texts(directory: Path) -> list[str]:
    """Names and content of all files below a directory; of Parquet files the values too, which are compressed."""
    found = []
    for path in directory.rglob("*"):
        found.append(str(path.relative_to(directory)))
        if path.is_file():
            found.append(path.read_bytes().decode("latin-1"))
        if path.suffix == ".parquet":
            found.append(str(pq.read_table(path).to_pylist()))
    return found


def secrets_in(*found: str) -> list[str]:
    """The planted secrets that are there."""
    return [secret for secret in PLANTED if any(secret in text for text in found)]


def command(tmp_path: Path, *arguments: object) -> subprocess.CompletedProcess:
    """Runs a command as a process, whose logs and tracebacks are its own."""
    return subprocess.run(
        [sys.executable, "-m", "pipelines.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=os.environ | {"RAGBEAM_CACHE": str(tmp_path / "cache"), "TMPDIR": str(tmp_path)},
        timeout=200,
    )


def forked(server: str, tmp_path: Path, *arguments: object) -> subprocess.CompletedProcess:
    """The same, as a process that begins after the imports."""
    shown = [tmp_path / name for name in ("stdout", "stderr")]
    for path in shown:
        path.unlink(missing_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAGBEAM_CACHE", str(tmp_path / "cache"))
        patch.setenv("TMPDIR", str(tmp_path))
        code = warmed.start(server, arguments, shown[0], errors=shown[1]).wait(200)
    return subprocess.CompletedProcess(arguments, code, *(path.read_text() for path in shown))


def test_a_whole_run_of_signed_and_secured_urls_writes_no_secret_and_is_reused_when_signed_anew(
    server, served, tmp_path, tiny_rag
):
    _, host = served

    def run(signature: str, *more: object) -> subprocess.CompletedProcess:
        inputs = ["--input", signed(host, "articles.jsonl.gz", signature)]
        inputs += ["--questions", signed(host, "questions.jsonl", signature), "--encoder", secured(host, "encoder")]
        job = ["run", "--workspace", tmp_path / "ws", *inputs, "--model", tiny_rag, "--num_shards", 2]
        return forked(server, tmp_path, *job, "--max_new_tokens", 3, "--n_docs", 2, *more)

    first = run(SIGNATURES[0], "--log_format", "json", "--debug")
    assert first.returncode == 0, first.stderr
    assert secrets_in(first.stdout, first.stderr, *texts(tmp_path)) == []
    assert json.loads(first.stderr.splitlines()[0])["event"] == "started"
    inputs = read_manifest(str(tmp_path / "ws" / "passages"), "chunk").inputs
    assert inputs == {"input_0": f"http://{host}/signed/articles.jsonl.gz"}
    again = run(SIGNATURES[1])
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("all reused, nothing to do") == 4
    assert secrets_in(again.stdout, again.stderr, *texts(tmp_path)) == []


def test_a_signature_that_is_refused_shows_in_no_line_and_no_traceback(served, tmp_path):
    _, host = served
    url = signed(host, "articles.jsonl.gz", "planted-expired")
    for more in ([], ["--debug"], ["--debug", "--log_format", "json"]):
        done = command(tmp_path, "chunk", "--input", url, "--output", tmp_path / "out", *more)
        assert done.returncode, done.stderr
        assert f"{host}/signed/articles.jsonl.gz" in done.stderr
        assert secrets_in(done.stdout, done.stderr, *texts(tmp_path)) == []


def test_what_a_manifest_cannot_reopen_is_given_anew(served, tmp_path, sentence_encoder, tiny_rag, capsys):
    directory, host = served
    questions = directory / "signed" / "questions.jsonl"
    job = ["chunk", "--input", directory / "articles.jsonl", "--num_shards", 2]
    ragbeam(*job, "--output", directory / "passages")
    passages = secured(host, "passages")
    ragbeam("embed", "--passages", passages, "--encoder", sentence_encoder, "--output", tmp_path / "embeddings")
    ragbeam("index", "--embeddings", tmp_path / "embeddings", "--output", tmp_path / "index")
    assert read_manifest(str(tmp_path / "index"), "index").inputs["passages"] == f"http://{host}/passages"
    answer = ["answer", "--questions", questions, "--index", tmp_path / "index", "--model", tiny_rag]
    answer += ["--max_new_tokens", 3, "--n_docs", 2, "--output", directory / "answers"]
    code, line = fails(capsys, *answer)
    assert code == 2
    assert "the passages that the index names cannot be read (" in line
    assert f"'http://{host}/passages'" in line
    assert "--passages URL" in line
    ragbeam(*answer, "--passages", passages)
    gold = ["--gold", signed(host, "questions.jsonl", SIGNATURES[0])]
    ragbeam("evaluate", "--answers", secured(host, "answers"), *gold, "--output", tmp_path / "figures.json")
    assert f"http://{host}/answers" in (tmp_path / "figures.html").read_text()
    assert secrets_in(capsys.readouterr().out, *texts(tmp_path), *texts(directory / "answers")) == []


@pytest.mark.parametrize("name", ["compose", "finetune", "import", "export", "verify", "plan", "workers"])
def test_other_commands_neither_write_nor_show_secrets(name, served, tmp_path, monkeypatch, capfd, caplog):
    monkeypatch.setenv("RAGBEAM_CACHE", str(tmp_path / "cache"))
    models = (secured(served[1], folder) for folder in ("encoder", "rag", "bart"))
    whole = {
        "import": ["import", "--format", "wiki_dpr", "--input", secured(served[1], "wiki.parquet")],
        "workers": ["workers", "--host", secured(served[1], "whole"), "--port", 0],
    }.get(name) or arguments_of(name, secured(served[1], "whole"), *models)
    output = [] if name in ("verify", "plan", "workers") else ["--output", tmp_path / "out"]
    broken = [str(part).replace(served[1], f"{served[1]}/nowhere") for part in whole]
    code = main([str(part) for part in [*whole, *output]])
    output = output and [output[0], tmp_path / "other"]
    assert code == (name == "workers"), caplog.text
    for more in ([], ["--log_format", "json", "--debug"]):
        assert main([str(part) for part in [*broken, *output, *more]]) in (1, 2)
    shown = capfd.readouterr()
    assert "127.0.0.1" in shown.out + shown.err
    assert secrets_in(*shown, caplog.text, *texts(tmp_path)) == []


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_no_refusal_of_a_flags_value_shows_a_secret(command):
    parser, flags = build_parser([command]), {*command.flags(), "--no_such_flag"} - {"--help", "-h"}
    for url in (secured("host", "a"), signed("host", "a", SIGNATURES[0])):
        for flag in flags:
            with pytest.raises(InputError) as refused:  # the last two at least are no flag's
                parser.parse_args([command.name, f"{flag}={url}", f"{flag}={url}c", url, url])
            assert secrets_in(str(refused.value)) == []


def test_a_copy_in_the_cache_has_the_files_own_name(served, tmp_path, monkeypatch):
    monkeypatch.setenv("RAGBEAM_CACHE", str(tmp_path))
    copy = store.local_copy(signed(served[1], "articles.jsonl.gz", SIGNATURES[0]), "0" * 32)
    assert Path(copy).name == "articles.jsonl.gz"
    assert Path(copy).read_bytes() == (served[0] / "signed" / "articles.jsonl.gz").read_bytes()
    assert secrets_in(*texts(tmp_path)) == []


def test_what_is_looked_for_would_be_found(tmp_path):
    (tmp_path / "a.json").write_text(secured("host", "a"))
    assert secrets_in(*texts(tmp_path)) == [USER, PASSWORD]
    (tmp_path / SIGNATURES[0]).write_text("")
    assert "planted-signature" in secrets_in(*texts(tmp_path))
