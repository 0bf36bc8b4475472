"""MediaWiki's parser functions and variables, as far as a page's own text, title and wiki decide them.

https://www.mediawiki.org/wiki/Help:Magic_words and https://www.mediawiki.org/wiki/Help:Extension:ParserFunctions say
what there is. What needs the clock, the database, Wikidata or Lua raises `UnknownValueError`: no text is made up.
"""

from __future__ import annotations

import html
import re
import urllib.parse
from collections.abc import Callable, Sequence

from rag_ops.markup import dates, expressions, plurals
from rag_ops.markup.preprocessor import END_MARK, MARK, Nodes, Part
from rag_ops.markup.siteinfo import SiteInfo, normal_name
from rag_ops.markup.template_source import upper_first

MAX_PAD_CHARS = 500  # as MediaWiki has it
MAX_STRING_CHARS = 1000  # that the functions on strings take; likewise
MAX_TITLE_PARTS = 25
ERROR = '<strong class="error">{}</strong>'
_MARKS = re.compile(f"{MARK}\\d*{END_MARK}")
_ERROR = re.compile(r"<(?:strong|span|p|div)\s[^<>]*\bclass=[\"']?[^\"'<>]*\berror\b", re.IGNORECASE)
_NUMBER = re.compile(r"\s*[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?\s*")
_INTEGER = re.compile(r"\s*([+-]?\d{1,9})")
_LINK = re.compile(r"\[\[(?:[^\[\]|]*\|)?([^\[\]|]*)\]\]")


class UnknownValueError(Exception):
    """A call whose text depends on more than the dump's own wikitext."""


class Arguments:
    """The arguments of a parser function; each is expanded when it is asked for.

    Attributes:
        title: of the page that is being read.
        site: the wiki that it is from.
        parts: the arguments after the first, as written.
    """

    def __init__(self, first: str, parts: Sequence[Part], expand: Callable[[Nodes], str], title: str, site: SiteInfo):
        self._first, self.parts, self.expand = first, parts, expand
        self.title, self.site = title, site

    def __len__(self) -> int:
        return 1 + len(self.parts)

    def __getitem__(self, place: int) -> str:
        """An argument without the spaces around it; empty if there are fewer."""
        return self.untrimmed(place).strip()

    def untrimmed(self, place: int) -> str:
        """An argument as it is."""
        if not place:
            return self._first
        return self.expand(self.parts[place - 1].nodes()) if place <= len(self.parts) else ""

    def number(self, place: int, default: int = 0) -> int:
        """An argument as a whole number, as far as it begins with one."""
        match = _INTEGER.match(self[place])
        return int(match[1]) if match else default


Function = Callable[[Arguments], str]


def without_marks(text: str) -> str:
    """A text without the literal parts that stand elsewhere, as MediaWiki's functions on strings see it."""
    return _MARKS.sub("", text) if MARK in text else text


def is_equal(left: str, right: str) -> bool:
    """Whether two values are the same: as numbers, if both are numbers.

    >>> is_equal("1.0", "01"), is_equal("a", "A")
    (True, False)
    """
    if left == right:
        return True
    return bool(_NUMBER.fullmatch(left) and _NUMBER.fullmatch(right)) and float(left) == float(right)


def _decoded(text: str) -> str:
    return html.unescape(text).strip() if "&" in text else text.strip()


def _if(arguments: Arguments) -> str:
    return arguments[1 if arguments[0] else 2]


def _if_equal(arguments: Arguments) -> str:
    return arguments[2 if is_equal(_decoded(arguments[0]), _decoded(arguments[1])) else 3]


def _value_of(arguments: Arguments) -> str:
    try:
        return expressions.evaluate(without_marks(html.unescape(arguments[0])))
    except expressions.ExpressionError as error:
        return ERROR.format(f"Expression error: {error}")


def _if_expression(arguments: Arguments) -> str:
    value = _value_of(arguments)
    if _ERROR.search(value):
        return value
    return arguments[1 if value not in ("", "0", "-0") else 2]


def _if_error(arguments: Arguments) -> str:
    value = arguments[0]
    if _ERROR.search(value):
        return arguments[1]
    return arguments[2] if len(arguments) > 2 else value


def _switch(arguments: Arguments) -> str:
    """{{#switch:}}: a case without a value has that of the next one that has one; the last of all is the default."""
    wanted = _decoded(arguments[0])
    found = default_is_next = False
    default: Nodes | None = None
    last: str | None = None
    for part in arguments.parts:
        if part.name is None:
            last = _decoded(arguments.expand(part.value))
            found = found or is_equal(last, wanted)
            default_is_next = default_is_next or last == "#default"
            continue
        last = None
        name = "" if found else _decoded(arguments.expand(part.name))
        if found or is_equal(name, wanted):
            return arguments.expand(part.value).strip()
        if default_is_next or name == "#default":
            default, default_is_next = part.value, False
    if last is not None and not default_is_next:
        return last
    return "" if default is None else arguments.expand(default).strip()


def _time(arguments: Arguments) -> str:
    try:
        text = dates.formatted(arguments[0], arguments[1], english=arguments.site.code == "en")
    except dates.NoDateError:
        return ERROR.format("Error: Invalid time.")
    if text is None:
        raise UnknownValueError("the time")
    return text


def _case(change: Callable[[str], str]) -> Function:
    return lambda arguments: change(arguments[0])


def _lower_first(text: str) -> str:
    first = text[:1].lower()
    return first + text[1:] if len(first) == 1 else text


def _pad(arguments: Arguments, *, left: bool) -> str:
    text = arguments[0]
    filling = without_marks(arguments[2]) if len(arguments) > 2 else "0"
    missing = min(arguments.number(1), MAX_PAD_CHARS) - len(text)
    if missing <= 0 or not filling:
        return text
    padding = (filling * (missing // len(filling) + 1))[:missing]
    return padding + text if left else text + padding


def _format_number(arguments: Arguments) -> str:
    text = arguments[0]
    format_number = arguments.site.language.format_number
    how = {arguments[place] for place in range(1, len(arguments))}
    if "R" in how:
        return _plain_number(text, arguments.site)
    if MARK in text or "NOSEP" in how:
        return text
    if re.fullmatch(r"-?\d{16,300}", text) and (rounded := f"{float(text):.0f}") != text:
        return text if "LOSSLESS" in how else format_number(rounded)  # PHP computes with no more digits
    return format_number(text)


def _plain_number(text: str, site: SiteInfo) -> str:
    """A number as a language's wikis write it, as one that can be computed with.

    >>> _plain_number("−1.234,5", SiteInfo(code="de"))
    '-1234.5'
    """
    language = site.language
    return text.replace(language.separator, "").replace(language.decimal, ".").replace("−", "-")


def _url_encode(arguments: Arguments) -> str:
    text, how = without_marks(arguments[0]), arguments[1].lower()
    if how == "wiki":
        return urllib.parse.quote(text.replace(" ", "_"), safe=";@$!*(),/~:")
    return urllib.parse.quote(text, safe="~") if how == "path" else urllib.parse.quote_plus(text)


def _url_decode(arguments: Arguments) -> str:
    return urllib.parse.unquote_plus(without_marks(arguments[0]))


def _anchor_encode(arguments: Arguments) -> str:
    text = _LINK.sub(r"\1", without_marks(arguments[0]))
    return re.sub(r"''+|<[^<>]*>", "", text).replace(" ", "_")


def _namespace(arguments: Arguments) -> str:
    """{{ns:}}: the name of a namespace by its number or another of its names."""
    wanted, names = normal_name(arguments[0]), arguments.site.namespaces
    try:
        number = int(wanted)
    except ValueError:
        if wanted not in names:
            return f"[[:Template:Ns:{arguments[0]}]]" if wanted else ""
        number = names[wanted]
    return next((upper_first(name) for name, of in names.items() if of == number), "")


def _plural(arguments: Arguments) -> str:
    number = _plain_number(without_marks(arguments[0]), arguments.site)
    forms: list[str] = []
    for part in arguments.parts:
        if part.name is not None and re.fullmatch(r"\s*\d+\s*", given := arguments.expand(part.name)):
            if is_equal(given.strip(), number):
                return arguments.expand(part.value).strip()
        else:
            forms.append(arguments.expand(part.nodes()).strip())
    return forms[min(plurals.form_of(number, arguments.site.code), len(forms) - 1)] if forms else ""


def _message(arguments: Arguments) -> str:
    """{{int:}}: a message of the interface; empty but for the few that are signs."""
    name = upper_first(arguments[0])
    if name == "Parentheses":
        return f"({arguments[1]})"
    return _MESSAGES.get(name, "")


_MESSAGES = {"Word-separator": " ", "Comma-separator": ", ", "Dot-separator": " · ", "Colon-separator": ": "}


def _title_parts(arguments: Arguments) -> str:
    title = " ".join(arguments[0].replace("_", " ").split())
    parts = upper_first(title).split("/", MAX_TITLE_PARTS - 1)
    count, first = arguments.number(1), arguments.number(2)
    parts = parts[first - 1 if first > 0 else first :] if first else parts
    return "/".join(parts[:count] if count else parts)


def _length(arguments: Arguments) -> str:
    return str(len(without_marks(arguments[0])))


def _position(arguments: Arguments) -> str:
    text, wanted = without_marks(arguments[0]), without_marks(arguments.untrimmed(1)) or " "
    place = text.find(wanted[:MAX_STRING_CHARS], max(0, arguments.number(2)))
    return str(place) if place >= 0 else ""


def _last_position(arguments: Arguments) -> str:
    return str(without_marks(arguments[0]).rfind((without_marks(arguments.untrimmed(1)) or " ")[:MAX_STRING_CHARS]))


def _sub(arguments: Arguments) -> str:
    text, start, length = without_marks(arguments[0]), arguments.number(1), arguments.number(2)
    text = text[start:] if start >= 0 or -start <= len(text) else text
    return text[:length] if length else text


def _count(arguments: Arguments) -> str:
    return str(without_marks(arguments[0]).count((without_marks(arguments.untrimmed(1)) or " ")[:MAX_STRING_CHARS]))


def _replace(arguments: Arguments) -> str:
    text, old = without_marks(arguments[0])[:MAX_STRING_CHARS], without_marks(arguments.untrimmed(1)) or " "
    return text.replace(old, without_marks(arguments.untrimmed(2))[:MAX_STRING_CHARS])


def _explode(arguments: Arguments) -> str:
    text, sign = without_marks(arguments[0])[:MAX_STRING_CHARS], without_marks(arguments.untrimmed(1)) or " "
    limit = arguments.number(3)
    parts = text.split(sign, limit - 1) if limit > 0 else text.split(sign)
    place = arguments.number(2)
    return parts[place] if -len(parts) <= place < len(parts) else ""


def _nothing(arguments: Arguments) -> str:
    return ""


def _first(arguments: Arguments) -> str:
    return arguments[0]


def _word(arguments: Arguments) -> str:
    """{{grammar:}}: the word as it is given; the rules of cases are MediaWiki's own for each language."""
    return arguments[1]


def _gender(arguments: Arguments) -> str:
    return arguments[3] or arguments[1]


def _unknown(arguments: Arguments) -> str:
    raise UnknownValueError("what the dump does not hold")


# Names with "#" and without, in lower case. {{#tag:}} is not among them: what it makes is no argument any more.
FUNCTIONS: dict[str, Function] = {
    "#if": _if,
    "#ifeq": _if_equal,
    "#ifexpr": _if_expression,
    "#iferror": _if_error,
    "#ifexist": lambda arguments: arguments[2],
    "#switch": _switch,
    "#expr": _value_of,
    "#time": _time,
    "#timel": _time,
    "#timef": _unknown,
    "#language": _unknown,
    "#titleparts": _title_parts,
    "#len": _length,
    "#pos": _position,
    "#rpos": _last_position,
    "#sub": _sub,
    "#count": _count,
    "#replace": _replace,
    "#explode": _explode,
    "#urlencode": _url_encode,
    "#urldecode": _url_decode,
    "#formatdate": _first,
    "#dateformat": _first,
    **dict.fromkeys(("#invoke", "#property", "#statements", "#babel", "#lst", "#section"), _unknown),
    **dict.fromkeys(("#coordinates", "#related", "#seo", "#assessment", "#categorytree", "#lsth", "#lstx"), _nothing),
    "lc": _case(str.lower),
    "uc": _case(str.upper),
    "lcfirst": _case(_lower_first),
    "ucfirst": _case(upper_first),
    "padleft": lambda arguments: _pad(arguments, left=True),
    "padright": lambda arguments: _pad(arguments, left=False),
    "formatnum": _format_number,
    "urlencode": _url_encode,
    "anchorencode": _anchor_encode,
    "ns": _namespace,
    "nse": lambda arguments: _namespace(arguments).replace(" ", "_"),
    "plural": _plural,
    "grammar": _word,
    "gender": _gender,
    "int": _message,
    "formal": _first,
    "bidi": _first,
    **dict.fromkeys(("localurl", "localurle", "fullurl", "fullurle", "canonicalurl", "canonicalurle"), _nothing),
    **dict.fromkeys(
        ("filepath", "articlepath", "special", "speciale", "noexternallanglinks", "displaytitle"), _nothing
    ),
    **dict.fromkeys(("defaultsort", "defaultsortkey", "defaultcategorysort", "protectionlevel"), _nothing),
    **dict.fromkeys(("cascadingsources", "protectionexpiry", "shortdesc"), _nothing),
    **dict.fromkeys(("pagesize", "pagesincategory", "pagesincat", "pageid", "numberingroup", "wbreponame"), _unknown),
}


def is_function(title: str) -> bool:
    """Whether a call's title is that of a parser function, and no template's.

    >>> is_function("DEFAULTSORT:Nile"), is_function("Nile")
    (True, False)
    """
    name, colon, _ = title.strip().partition(":")
    return bool(colon) and (name.lower() in FUNCTIONS or name.startswith("#"))


def _encoded(text: str) -> str:
    return urllib.parse.quote(text.replace(" ", "_"), safe=";@$!*(),/~:")


# Of the page that is being read, which is an article: it has no namespace.
_TITLES: dict[str, Callable[[str], str]] = {
    "PAGENAME": str,
    "FULLPAGENAME": str,
    "BASEPAGENAME": lambda title: title.rpartition("/")[0] or title,
    "ROOTPAGENAME": lambda title: title.partition("/")[0] or title,
    "SUBPAGENAME": lambda title: title.rpartition("/")[2],
    "SUBJECTPAGENAME": str,
    "ARTICLEPAGENAME": str,
    "TALKPAGENAME": lambda title: f"Talk:{title}",
    "NAMESPACE": lambda title: "",
    "SUBJECTSPACE": lambda title: "",
    "ARTICLESPACE": lambda title: "",
    "TALKSPACE": lambda title: "Talk",
    "NAMESPACENUMBER": lambda title: "0",
}
_FIXED = {
    "!": "|",
    "=": "=",
    "REVISIONID": "-",  # what MediaWiki itself says; only a preview has none
    **dict.fromkeys(("SERVER", "SERVERNAME", "SCRIPTPATH", "STYLEPATH", "ARTICLEPATH", "DIRECTIONMARK", "DIRMARK"), ""),
}
_OF_THE_DATABASE = re.compile(r"(?:CURRENT|LOCAL|REVISION|NUMBEROF|PAGE|CASCADING|PROTECTION)[A-Z0-9]+")


def variable(name: str, title: str, site_name: str, site_code: str) -> str | None:
    """The value of a variable; None if there is none of the name.

    Raises:
        UnknownValueError: the clock or the database knows it.

    >>> variable("PAGENAME", "Nile", "", "en"), variable("Nile", "Nile", "", "en")
    ('Nile', None)
    """
    if not name.isupper() and name not in ("!", "="):
        return None
    if name in _FIXED:
        return _FIXED[name]
    if name in _TITLES:
        return _TITLES[name](title)
    if name[-1] == "E" and name[:-1] in _TITLES:
        return _encoded(_TITLES[name[:-1]](title))
    if name == "SITENAME":
        return site_name
    if name in ("CONTENTLANGUAGE", "CONTENTLANG", "PAGELANGUAGE", "PAGELANG"):
        return site_code
    if _OF_THE_DATABASE.fullmatch(name):
        raise UnknownValueError(name)
    return None


def title_of(name: str, title: str) -> str | None:
    """What {{PAGENAME:title}} and its kin are; None if that is no such function.

    >>> title_of("PAGENAME", "Talk:Nile")
    'Talk:Nile'
    """
    return _TITLES[name](title.strip()) if name in _TITLES else None
