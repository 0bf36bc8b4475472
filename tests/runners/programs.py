"""The programs that tests of runners need beside Python packages, got once: Flink, Prism, Google's storage.

They stay in a cache directory (RAGBEAM_TEST_CACHE, else ~/.cache/ragbeam-tests). `python -m tests.runners.programs`
gets all of them, so that no test waits for one; a test skips what cannot be had.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

FLINK = "apache-flink-libraries==1.19.3"
PRISM = ("prism", "github.com/apache/beam/sdks/v2/go/cmd/prism", "2.77.0")
GOOGLE_STORAGE = ("fake-gcs-server", "github.com/fsouza/fake-gcs-server", "1.52.2")
UNMERGED = re.compile(r"/$|^META-INF/(MANIFEST\.MF|.*\.(SF|RSA|DSA)|INDEX\.LIST)$")  # entries of a jar for itself


def main() -> None:
    """Gets all programs; says on stderr which cannot be had."""
    wanted: tuple[Callable[[], Path], ...] = (flink_jars, job_server, prism, google_storage)
    for get in wanted:
        try:
            get()
        except pytest.skip.Exception as reason:
            sys.stderr.write(f"{get.__name__}: {reason}\n")


def cache() -> Path:
    """Where downloads stay."""
    folder = Path(os.environ.get("RAGBEAM_TEST_CACHE", Path.home() / ".cache" / "ragbeam-tests"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def flink_jars() -> Path:
    """The folder of Flink's jars, from its Python package."""
    target = cache() / FLINK.replace("==", "-")
    jars = target / "pyflink" / "lib"
    if not jars.exists():
        environment = cache() / "flink-installer"
        steps = [
            [sys.executable, "-m", "venv", environment],
            [environment / "bin" / "python", "-m", "pip", "install", "-q", "wheel", "setuptools<81"],
            [*(environment / "bin" / "python", "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation")],
        ]
        steps[2] += ["--target", f"{target}.tmp", FLINK]
        _run(steps, "Flink's package")
        os.replace(f"{target}.tmp", target)
    return jars


def job_server() -> Path:
    """One jar of all that Maven copied: a job sends the server's jars to the cluster, and waits 80 ms for each."""
    pom = Path(__file__).with_name("pom.xml")
    target = cache() / f"flink-job-server-{hashlib.sha256(pom.read_bytes()).hexdigest()[:8]}"
    jar = target / "flink-job-server.jar"
    if not jar.exists():
        lib = target / "lib"
        _run(
            [["mvn", "-q", "-f", pom, "dependency:copy-dependencies", f"-DoutputDirectory={lib}"]], "Beam's job server"
        )
        with zipfile.ZipFile(f"{jar}.tmp", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            _merge(sorted(lib.glob("*.jar")), archive)
        os.replace(f"{jar}.tmp", jar)
        shutil.rmtree(lib)
    return jar


def _merge(jars: Sequence[Path], archive: zipfile.ZipFile) -> None:
    """Copies jars into one: of files of one name the first, of lists of services all lines, no signatures."""
    services: dict[str, list[bytes]] = {}
    written: set[str] = set()
    for jar in jars:
        with zipfile.ZipFile(jar) as part:
            for name in part.namelist():
                if name.startswith("META-INF/services/") and not name.endswith("/"):
                    services.setdefault(name, []).append(part.read(name))
                elif name not in written and not UNMERGED.search(name):
                    written.add(name)
                    archive.writestr(name, part.read(name))
    for name, lists in services.items():
        archive.writestr(name, b"\n".join(lists))


def prism() -> Path:
    """Beam's Prism runner."""
    return _go(*PRISM)


def google_storage() -> Path:
    """A server of Google's storage interface."""
    return _go(*GOOGLE_STORAGE)


def _go(name: str, module: str, version: str) -> Path:
    binary = cache() / f"{name}-{version}" / name
    if not binary.exists():
        _run([["go", "install", f"{module}@v{version}"]], name, GOBIN=str(binary.parent))
    return binary


def _run(commands: Sequence[Sequence[object]], what: str, **environment: str) -> None:
    for command in commands:
        words = [str(part) for part in command]
        if shutil.which(words[0]) is None:
            pytest.skip(f"no {words[0]} here: {what} needs it")
        done = subprocess.run(words, capture_output=True, text=True, env=os.environ | environment)
        if done.returncode:
            pytest.skip(f"{what} is not to be had here: {(done.stderr or done.stdout).strip()[-300:]}")


if __name__ == "__main__":
    main()
