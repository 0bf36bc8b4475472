"""Bytes and seconds as people write them."""

from __future__ import annotations

import re

from rag_ops.errors import InputError


def size(count: float) -> str:
    """Formats a number of bytes for people: binary units, three digits.

    >>> size(3 * 2**30), size(1536), size(1020 * 2**20)
    ('3 GiB', '1.5 KiB', '1,020 MiB')
    """
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(count) < 1024 or unit == "TiB":
            break
        count /= 1024
    return f"{count:,.0f} {unit}" if abs(count) >= 999.5 else f"{count:.3g} {unit}"


MAX_BYTES = 1 << 60


def parse_size(flag: str, text: str) -> int:
    """Parses a number of bytes as a person writes it.

    Raises:
        InputError: it is no size.

    >>> parse_size("--shard_memory", "2GiB"), parse_size("--shard_memory", "1.5 mb"), parse_size("--m", "4096")
    (2147483648, 1500000, 4096)
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?\s*", str(text).lower())
    if not match or (match[3] and not match[2]):
        raise InputError(f"{flag} is no size", value=text, expected="a number of bytes such as 2GiB, 500MB or 4096")
    base = 1024 if match[3] else 1000
    count = float(match[1]) * base ** " kmgt".index(match[2] or " ")
    if not 1 <= count <= MAX_BYTES:
        raise InputError(f"{flag} is out of range", value=text, expected=f"1 byte to {size(MAX_BYTES)}")
    return int(count)


def duration(seconds: float | None) -> str:
    """Formats seconds for people.

    >>> duration(59), duration(5400), duration(200_000), duration(None)
    ('59 s', '90.0 min', '2.3 days', '? (--rate)')
    """
    if seconds is None:
        return "? (--rate)"
    for limit, one, unit in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            value = seconds / one
            return f"{value:.0f} {unit}" if unit == "s" else f"{value:.1f} {unit}"
    return f"{seconds / 86_400:.1f} days"
