"""Handlers of templates about languages: a text behind the name of its language, and pronunciations."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence

from rag_ops.markup import tables
from rag_ops.markup.arguments import Handler, at, filled, is_yes

_FORM = "*"
_TAG = re.compile(r"(?P<code>[a-z]{2,3})(?:-[A-Za-z0-9-]+)?$", re.IGNORECASE)


@functools.cache
def _names(wiki_language: str) -> Mapping[str, str]:
    return {code: name for wiki, code, name in tables.rows("language_names.tsv", 3) if wiki == wiki_language}


def name_of(code: str, wiki_language: str) -> str:
    """The name of a language on the wikis of another; empty if the tables have none.

    >>> name_of("grc", "en"), name_of("pt-BR", "en"), name_of("de-AT", "ru"), name_of("xx", "en")
    ('Ancient Greek', 'Brazilian Portuguese', 'нем.', '')
    """
    names, code = _names(wiki_language), code.strip().lower()
    match = _TAG.match(code)
    return names.get(code) or (names.get(match["code"], "") if match else "")


def in_language(code: str, wiki_language: str) -> Handler:
    """The handler of {{lang-de|Wien}}: German: Wien; in a language without names of languages it is the text alone."""

    def handle(positional: Sequence[str], named: Mapping[str, str]) -> str:
        text = at(positional, 0) or named.get("text", named.get("1", ""))
        label = named.get("label", "") or name_of(code, wiki_language)
        if label in ("none", "no") or not label or is_yes(named.get("nolabel")):
            label = ""
        form = _names(wiki_language).get(_FORM, "{1}")
        parts = [form.format(label, text) if label else text]
        if wiki_language == "en":
            if latin := named.get("translit") or at(positional, 1):
                parts.append(f"romanized: {latin}" if label else latin)
            if meaning := named.get("lit") or named.get("translation") or at(positional, 2):
                parts.append(f"lit. '{meaning}'" if label else f"'{meaning}'")
        return ", ".join(filled(parts))

    return handle


def language_of_argument(wiki_language: str) -> Handler:
    """The handler of {{langx|de|Wien}}, whose first argument is the language."""
    return lambda positional, named: in_language(at(positional, 0), wiki_language)(positional[1:], named)


def labelled(detail: str) -> Handler:
    """A handler of arguments with a label each: {{zh|s=...|p=...}}; `detail` is "s=simplified Chinese;p=pinyin"."""
    labels = dict(pair.split("=", 1) for pair in detail.split(";"))

    def handle(positional: Sequence[str], named: Mapping[str, str]) -> str:
        is_shown = named.get("labels", "yes") != "no"
        found = [(label, named[key]) for key, label in labels.items() if named.get(key)]
        return "; ".join(f"{label}: {text}" if label and is_shown else text for label, text in found)

    return handle


def pronunciation(positional: Sequence[str], named: Mapping[str, str]) -> str:
    """{{IPA|fr|paʁi}} and {{IPA|/pɑɹɪs/}}: the sounds in brackets."""
    sounds = (filled(positional) or [""])[-1]
    if len(positional) > 2 and not sounds.startswith(("/", "[")):
        sounds = at(positional, 1)  # behind it an audio file or a note
    return sounds if sounds.startswith(("/", "[")) or not sounds else f"[{sounds}]"


def english_pronunciation(positional: Sequence[str], named: Mapping[str, str]) -> str:
    """{{IPAc-en|ˈ|p|ær|ɪ|s}}: /ˈpærɪs/."""
    sounds = "".join(" " if part in ("_", " ") else part for part in filled(positional) if part not in ("lang", "pron"))
    return f"/{sounds}/" if sounds else ""
