"""Our own package for remote workers, made from what is imported here: a checkout and an installation are alike."""

from __future__ import annotations

import base64
import hashlib
import importlib
import os
import zipfile
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

from rag_ops.errors import InputError

DISTRIBUTION = "ragbeam"
PACKAGES = ("pipelines", "rag_ops", "schemas")
LEFT_OUT = ("__pycache__", "data")  # the demo's questions and model are read by the launcher alone
FILE_SYSTEMS = ("gcsfs", "s3fs")  # of gs:// and s3://; optional here, needed there where the launcher has them
WHEEL = "Wheel-Version: 1.0\nGenerator: ragbeam\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
SCRIPTS = "[console_scripts]\nragbeam = pipelines.cli:main\n"
EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time a zip file knows: the same code gives the same wheel


def write_wheel(directory: str) -> str:
    """Writes the wheel of the code that runs here into `directory`; returns its path.

    Raises:
        InputError: ragbeam is not installed.
    """
    version = _installed().version
    info = f"{DISTRIBUTION}-{version}.dist-info"
    files = {name: path.read_bytes() for package in PACKAGES for name, path in _files(package)}
    text = _installed().read_text("METADATA") or _installed().read_text("PKG-INFO") or ""
    files |= {f"{info}/METADATA": text.encode(), f"{info}/WHEEL": WHEEL.encode()}
    files[f"{info}/entry_points.txt"] = SCRIPTS.encode()
    record = "".join(f"{name},sha256={_digest(data)},{len(data)}\n" for name, data in files.items())
    files[f"{info}/RECORD"] = (record + f"{info}/RECORD,,\n").encode()
    path = os.path.join(directory, f"{DISTRIBUTION}-{version}-py3-none-any.whl")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            entry = zipfile.ZipInfo(name, EPOCH)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, data, zipfile.ZIP_DEFLATED)
    return path


def write_requirements(directory: str) -> str:
    """Writes requirements.txt, the launcher's versions of what ragbeam needs, into `directory`; returns its path."""
    wanted = [Requirement(text) for text in _installed().requires or []]
    names = [need.name for need in wanted if need.marker is None or need.marker.evaluate({"extra": ""})]
    lines = []
    for name in sorted({*names, *FILE_SYSTEMS} - {"apache-beam"}):  # the workers' image has Beam, of this version
        try:
            lines.append(f"{name}=={Version(metadata.version(name)).public}\n")  # +cpu and the like are no index's
        except metadata.PackageNotFoundError:
            continue
    path = os.path.join(directory, "requirements.txt")
    Path(path).write_text("".join(lines))
    return path


def _installed() -> metadata.Distribution:
    try:
        return metadata.distribution(DISTRIBUTION)
    except metadata.PackageNotFoundError as error:
        raise InputError(
            "ragbeam is not installed here, so the workers cannot be given it",
            remedy="pip install it, or give a worker image: --sdk_container_image",
        ) from error


def _files(package: str) -> list[tuple[str, Path]]:
    root = Path(next(iter(importlib.import_module(package).__path__)))
    found = sorted(path for path in root.rglob("*") if path.is_file() and not set(path.parts) & set(LEFT_OUT))
    return [(f"{package}/{path.relative_to(root).as_posix()}", path) for path in found]


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
