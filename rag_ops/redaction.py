"""URLs without their secrets: user names and passwords, signatures, tokens. What is written or shown passes here.

A newly signed URL is the same input, so fingerprints are made from URLs without secrets too.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote

# Schemes whose part before "@" says where a file is: a container, a repository.
PLACES = ("abfs", "abfss", "adl", "az", "wasb", "wasbs", "git", "github", "hf")
# Parameters of a query, in lower case with underscores: of AWS, Google, Azure, OSS, COS, CloudFront and usual names.
SECRET = re.compile(
    r"(x_amz|x_goog|x_oss|x_cos|x_ms|q)_\w+|.*(token|secret|passw|signature|credential|api_?key|access_?key|private_?key)"
    r".*|.*access_?id|key_pair_id|sig|sign|key|auth|authorization|jwt|hmac|pwd|pass|policy|session|session_?id|sid|ticket"
    r"|delegation|rlkey|hdnea|hdnts|user|username|user[._]name|login|doas"
)
# What stands beside a signature and changes with it.
SIGNED = re.compile(
    r"expire\w*|expiry|exp|timestamp|ts|nonce|response_\w+|x_id|"
    r"s[evtprs]|srt|spr|sip|si|sdd|ses|sk\w+|saoid|suoid|scid"
)
_CHAINED = re.compile(r"::(?=[A-Za-z][\w+.-]*::?)")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s\"<>]+")
_QUERY = re.compile(r"[^\s\"<>]*\?[^\s\"<>]+=[^\s\"<>]*")
_CLOSING = ")]}'`,.;:"


def public_url(url: str) -> str:
    """`url` without user name, password and what else is secret; a path stays as it is.

    >>> public_url("https://me:word@host/a.jsonl?version=3&X-Amz-Signature=ab&X-Amz-Expires=60")
    'https://host/a.jsonl?version=3'
    >>> public_url("zip://a.csv::sftp://me@host/a.zip"), public_url("abfs://container@account/a")
    ('zip://a.csv::sftp://host/a.zip', 'abfs://container@account/a')
    """
    return "::".join(map(_public_part, _CHAINED.split(url))) if "://" in url else url


def public_text(text: str) -> str:
    """A text in which every URL, and every path with a query, is without its secrets."""
    if "://" in text:
        text = _URL.sub(lambda found: _but_for_closing(public_url, found[0]), text)
    return _QUERY.sub(lambda found: _but_for_closing(_public_tail, found[0]), text) if "?" in text else text


def public(value: Any) -> Any:
    """A JSON value whose texts are all without secrets in URLs."""
    if isinstance(value, str):
        return public_text(public_url(value) if re.match(r"[\w+.-]+:", value) else value)
    if isinstance(value, dict):
        return {public(name): public(one) for name, one in value.items()}
    return [public(one) for one in value] if isinstance(value, (list, tuple)) else value


def _public_part(part: str) -> str:
    scheme, marked, rest = part.partition("://")
    if not marked or scheme in ("file", "local", "memory"):
        return part
    split = re.match(r"[^/?#]*", rest)
    host, tail = rest[: split.end()], rest[split.end() :]  # type: ignore[union-attr]
    user, at, address = host.rpartition("@")
    if at:
        host = f"{user}@{address}" if scheme.lower() in PLACES else address
    elif re.search(r":(?!\d*$)[^\]]*$", host) and "@" in tail:  # a password with a slash that is not escaped
        host, tail = "", tail[tail.index("@") + 1 :]
    return f"{scheme}://{host}{_public_tail(tail)}"


def _public_tail(tail: str) -> str:
    """A path with its query and fragment, which may hold parameters too."""
    path, *queries = re.split(r"(?=[?#])", tail)
    return path + "".join(map(_public_query, queries))


def _public_query(query: str) -> str:
    parameters = [(_name(one), one) for one in query[1:].split("&")]
    if not any(SECRET.fullmatch(name) for name, _ in parameters):
        return query
    kept = [one for name, one in parameters if not SECRET.fullmatch(name) and not SIGNED.fullmatch(name)]
    return query[0] + "&".join(kept) if kept else ""


def _name(parameter: str) -> str:
    name, equals, _ = parameter.partition("=")
    return unquote(name).lower().replace("-", "_") if equals else ""


def _but_for_closing(make: Any, text: str) -> str:
    """`make` of a text without the punctuation that ends it, which is put back."""
    inner = text.rstrip(_CLOSING)
    return make(inner) + text[len(inner) :]
