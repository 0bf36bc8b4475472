"""A small fake, on localhost, of Google's storage (its JSON API) and of Dataflow: keeps what it gets, runs nothing."""

from __future__ import annotations

import base64
import email
import http.server
import json
import sys
import threading
import urllib.parse
from pathlib import Path
from typing import Any


class Server(http.server.ThreadingHTTPServer):
    """Does not mind a client that hangs up in the middle of a reply, as gcsfs does with what it needs no more."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Tells of every other error."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class Google:
    """Objects by "bucket/name", jobs as they came, and the state that they are reported in."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.jobs: list[dict[str, Any]] = []
        self.requests: list[str] = []
        self.state = "JOB_STATE_DONE"
        self.messages: list[dict[str, Any]] = []
        self.uploads: list[tuple[str, bytearray]] = []
        self.server = Server(("localhost", 0), _handler(self))
        self.url = f"http://localhost:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def put(self, directory: Path, url: str) -> None:
        """Copies a local file or directory to `url`, gs://bucket/name."""
        files = [directory] if directory.is_file() else [path for path in directory.rglob("*") if path.is_file()]
        for path in files:
            name = f"/{path.relative_to(directory).as_posix()}" if path != directory else ""
            self.objects[url.removeprefix("gs://") + name] = path.read_bytes()

    def describe(self, key: str) -> dict[str, Any]:
        """An object's resource."""
        bucket, _, name = key.partition("/")
        size = len(self.objects[key])
        import google_crc32c

        digest = google_crc32c.Checksum(self.objects[key]).digest()
        checksum, generation = base64.b64encode(digest).decode(), str(1 + int.from_bytes(digest, "big"))
        names = {"kind": "storage#object", "bucket": bucket, "name": name, "generation": generation}
        return names | {"size": str(size), "crc32c": checksum}

    def listing(self, bucket: str, query: dict[str, str]) -> dict[str, Any]:
        """What a bucket holds below a prefix."""
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter")
        items, folders = [], set()
        for key in sorted(self.objects):
            owner, _, name = key.partition("/")
            if owner == bucket and name.startswith(prefix):
                head, cut, _ = name[len(prefix) :].partition(delimiter) if delimiter else (name, "", "")
                if cut:
                    folders.add(prefix + head + cut)
                else:
                    items.append(self.describe(key))
        return {"kind": "storage#objects", "items": items, "prefixes": sorted(folders)}


def _handler(google: Google) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def reply(self, content: Any, status: int = 200, **headers: str) -> None:
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            for name, value in (
                {"Content-Length": str(len(data)), "Content-Type": "application/json"} | headers
            ).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def answer(self) -> None:
            google.requests.append(f"{self.command} {self.path}")
            size = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(size) if size else b""
            if self.headers.get("Transfer-Encoding") == "chunked":
                while length := int(self.rfile.readline(), 16):
                    body += self.rfile.read(length)
                    self.rfile.readline()
                self.rfile.readline()
            address = urllib.parse.urlsplit(self.path)
            query = dict(urllib.parse.parse_qsl(address.query))
            parts = [urllib.parse.unquote(part) for part in address.path.strip("/").split("/")]
            if parts[0] == "v1b3":
                self.dataflow(parts[5:], body)
            else:
                self.storage(parts, query, body)

        do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = answer  # noqa: N815 (the names of http.server)

        def dataflow(self, rest: list[str], body: bytes) -> None:
            if self.command == "POST":
                google.jobs.append(json.loads(body))
                self.reply(google.jobs[-1] | {"id": f"job-{len(google.jobs)}", "currentState": "JOB_STATE_RUNNING"})
            elif rest[-1] == "messages":
                self.reply({"jobMessages": google.messages})
            elif rest[-1] == "metrics":
                self.reply({"metrics": []})
            else:
                if self.command == "PUT":
                    google.state = json.loads(body)["requestedState"]
                self.reply({"id": rest[-1], "currentState": google.state})

        def storage(self, parts: list[str], query: dict[str, str], body: bytes) -> None:
            upload = parts[0] == "upload"
            parts = parts[parts.index("b") + 1 :]
            bucket, name = parts[0], "/".join(parts[2:])
            if upload:
                self.upload(bucket, query, body)
            elif (self.command == "POST" and "/rewriteTo/b/" in name) or "/copyTo/b/" in name:
                source, _, target = name.replace("/copyTo/b/", "/rewriteTo/b/").partition("/rewriteTo/b/")
                target = target.replace("/o/", "/", 1)
                google.objects[target] = google.objects[f"{bucket}/{source}"]
                done = {"kind": "storage#rewriteResponse", "done": True, "resource": google.describe(target)}
                self.reply(done)
            elif self.command == "POST" and "/moveTo/o/" in name:
                source, _, target = name.partition("/moveTo/o/")
                google.objects[f"{bucket}/{target}"] = google.objects.pop(f"{bucket}/{source}")
                self.reply(google.describe(f"{bucket}/{target}"))
            elif len(parts) == 1:
                self.reply({"kind": "storage#bucket", "name": bucket, "id": bucket})
            elif not name:
                self.reply(google.listing(bucket, query))
            elif f"{bucket}/{name}" not in google.objects:
                self.reply({"error": {"code": 404, "message": "no such object"}}, 404)
            elif self.command == "DELETE":
                del google.objects[f"{bucket}/{name}"]
                self.reply(b"", 204)
            elif query.get("alt") == "media":
                self.download(google.objects[f"{bucket}/{name}"])
            else:
                self.reply(google.describe(f"{bucket}/{name}"))

        def download(self, data: bytes) -> None:
            if wanted := self.headers.get("Range"):
                first, _, last = wanted.removeprefix("bytes=").partition("-")
                end = int(last) + 1 if last else len(data)
                self.reply(data[int(first) : end], 206)
            else:
                self.reply(data)

        def upload(self, bucket: str, query: dict[str, str], body: bytes) -> None:
            if "upload_id" in query:
                key, content = google.uploads[int(query["upload_id"])]
                content += body
                end = self.headers.get("Content-Range", "*").rpartition("/")[2]
                if end == "*":
                    self.reply(b"", 308, Range=f"bytes=0-{len(content) - 1}")
                    return
                google.objects[key] = bytes(content)
            elif query.get("uploadType") == "resumable":
                name = query.get("name") or json.loads(body)["name"]
                google.uploads.append((f"{bucket}/{name}", bytearray()))
                number = len(google.uploads) - 1
                place = f"{google.url}/upload/storage/v1/b/{bucket}/o?uploadType=resumable&upload_id={number}"
                self.reply({}, Location=place)
                return
            else:
                head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
                first, second = email.message_from_bytes(head + body).get_payload()
                name = query.get("name") or json.loads(first.get_payload(decode=True))["name"]
                key = f"{bucket}/{name}"
                google.objects[key] = body.split(b"\r\n\r\n", 2)[-1].rpartition(b"\r\n--")[0] if second else b""
                if b"\r\n\r\n" not in body:
                    google.objects[key] = body.split(b"\n\n", 2)[-1].rpartition(b"\n--")[0]
            self.reply(google.describe(key))

    return Handler
