"""Stand-in."""

import re

import mwparserfromhell


def to_text(wikitext):
    return mwparserfromhell.parse(wikitext).strip_code()


def is_redirect(wikitext):
    return wikitext.lstrip()[:9].lower() == "#redirect"


def is_disambiguation(title, wikitext):
    return bool(re.search(r"\{\{\s*(disambig|dab|hndis|geodis)", wikitext, re.I)) or title.endswith("(disambiguation)")
