"""What a process and its children listen on, read from Linux's own tables."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import random
import re
import socket
import subprocess
import time
from pathlib import Path

import pytest

PROC = Path("/proc")
LISTEN = "0A"
POLL_SECS = 0.25
JOB_SECS = 300
FREE_FROM = 10_000


def free_port() -> int:
    """A port of this machine that nothing listens on, below those that the system gives to connections.

    One of theirs could be taken by a connection before the server that it is meant for listens, even by the connection
    that looks whether it does.
    """
    lowest = int((PROC / "sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = random.randrange(FREE_FROM, lowest)
        with contextlib.suppress(OSError), socket.socket() as found:
            found.bind(("localhost", port))
            return port


def listeners(root: int) -> set[tuple[str, str, int]]:
    """Program, address and port of every TCP socket that `root` or a process below it listens on."""
    found = set()
    for process in _tree(root):
        with contextlib.suppress(OSError):
            program = (process / "comm").read_text().strip()
            ours = {inode for path in (process / "fd").iterdir() if (inode := _inode(path))}
            for table in ("tcp", "tcp6"):
                found |= {(program, *place) for inode, place in _table(process / "net" / table) if inode in ours}
    return found


def _inode(path: Path) -> str | None:
    """The number of the socket that a file descriptor is; None if it is none, or closed meanwhile."""
    with contextlib.suppress(OSError):
        match = re.fullmatch(r"socket:\[(\d+)\]", os.readlink(path))
        return match[1] if match else None
    return None


def _tree(root: int) -> list[Path]:
    parents = {}
    for process in PROC.glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parents[int(process.name)] = int((process / "stat").read_text().rpartition(") ")[2].split()[1])
    found = [root]
    for parent in found:
        found += [child for child, of in parents.items() if of == parent]
    return [PROC / str(process) for process in found]


def _table(path: Path) -> list[tuple[str, tuple[str, int]]]:
    rows = [line.split() for line in path.read_text().splitlines()[1:]]
    return [(row[9], _place(row[1])) for row in rows if row[3] == LISTEN]


def _place(text: str) -> tuple[str, int]:
    """Address and port; the kernel writes an address as words in this machine's order of bytes."""
    address, port = text.split(":")
    words = [bytes.fromhex(address[n : n + 8])[::-1] for n in range(0, len(address), 8)]
    made = ipaddress.ip_address(b"".join(words))
    return str(getattr(made, "ipv4_mapped", None) or made), int(port, 16)


def is_open(address: str) -> bool:
    """Whether an address is reached from other machines."""
    return not ipaddress.ip_address(address).is_loopback


def open_to_others(found: set[tuple[str, str, int]]) -> list[tuple[str, str, int]]:
    """Those that are reached from other machines; Beam's Java, which has no setting for it, is left out."""
    return [place for place in found if place[0].startswith("python") and is_open(place[1])]


def watched(command: list[object], log: Path, also: int | None = None) -> set[tuple[str, str, int]]:
    """Runs a command to its good end; returns all that it, or the process `also`, listened on meanwhile."""
    if not PROC.exists():
        pytest.skip("no /proc here: what listens is read from it")
    found = set()
    with log.open("wb") as file:
        running = subprocess.Popen([str(part) for part in command], stdout=file, stderr=file)
    try:
        end = time.monotonic() + JOB_SECS
        while running.poll() is None:
            assert time.monotonic() < end, log.read_text()
            found |= listeners(running.pid) | (listeners(also) if also else set())
            time.sleep(POLL_SECS)
    finally:
        running.kill()
        running.wait()
    assert running.returncode == 0, log.read_text()
    return found
