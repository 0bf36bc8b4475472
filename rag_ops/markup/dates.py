"""Formats dates by the codes of {{#time:}} (https://www.mediawiki.org/wiki/Help:Extension:ParserFunctions#time)."""

from __future__ import annotations

import calendar
import datetime
import re
from collections.abc import Callable

from rag_ops.markup.templates import MONTHS

DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
_TIME = r"(?:[T ]+(\d{1,2}):(\d\d)(?::(\d\d))?(?:\s*(?:Z|UTC|GMT))?)?"
_FORMS = tuple(
    re.compile(form + _TIME, re.IGNORECASE)
    for form in (
        r"(?P<y>\d{4})[-/](?P<m>\d{1,2})[-/](?P<d>\d{1,2})",
        r"(?P<d>\d{1,2})(?:st|nd|rd|th)?[ -]+(?P<n>[a-z]{3,9})\.?,?[ -]+(?P<y>\d{4})",
        r"(?P<n>[a-z]{3,9})\.? +(?P<d>\d{1,2})(?:st|nd|rd|th)?,? +(?P<y>\d{4})",
        r"(?P<n>[a-z]{3,9})\.?,? +(?P<y>\d{4})",
        r"(?P<y>\d{4})-(?P<m>\d{1,2})",
        r"(?P<y>\d{4})(?P<m>\d\d)(?P<d>\d\d)",
        r"(?P<y>\d{4})",
    )
)
_STAMP = re.compile(r"(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)")
_SHIFT = re.compile(r"\s*([+-])\s*(\d{1,5})\s+(day|week|month|year)s?\s*$", re.IGNORECASE)
_CODE = re.compile(r'"([^"]*)"|\\(.)|xn|xN|xr|(.)', re.DOTALL)


class NoDateError(ValueError):
    """A text that is no date."""


def formatted(codes: str, date: str, *, english: bool = True) -> str | None:
    """A date by codes; None if the clock, a time zone or another language's names of months would decide.

    Raises:
        NoDateError: there is none of such a form.

    >>> formatted("j F Y", "2009-05-14"), formatted("D, H:i", "14 May 2009 18:05"), formatted("Y", "")
    ('14 May 2009', 'Thu, 18:05', None)
    """
    moment = parsed(date)
    if moment is None:
        return None
    written: list[str] = []
    for match in _CODE.finditer(codes):
        if match[1] is not None or match[2] is not None:
            written.append(match[1] or match[2] or "")
        elif match[3] in _NAMES and not english:
            return None
        elif match[3] in _CODES:
            written.append(_CODES[match[3]](moment))
        elif match[3] is not None:
            if match[3] in "exTPOI":  # a zone; x begins the codes of other calendars
                return None
            written.append(match[3])
    return "".join(written)


def parsed(text: str) -> datetime.datetime | None:
    """The moment of a date in a common form; None if the clock decides it, or its form is none of those.

    Raises:
        NoDateError: there is no such day, or no digit at all.
    """
    text = " ".join(text.split())
    shift = _SHIFT.search(text)
    base = text[: shift.start()] if shift else text
    if not base:
        return None
    try:
        if stamp := _STAMP.fullmatch(base):
            moment = datetime.datetime(*map(int, stamp.groups()))  # type: ignore[arg-type]
        else:
            match = next(filter(None, (form.fullmatch(base) for form in _FORMS)), None)
            if match is None:
                if any(character.isdigit() for character in base) or base.lower() in _RELATIVE:
                    return None
                raise NoDateError(base)
            moment = _moment(match)
        return _shifted(moment, shift) if shift else moment
    except (ValueError, OverflowError) as error:
        raise NoDateError(base) from error


_RELATIVE = frozenset("now today tomorrow yesterday midnight noon".split())


def _moment(match: re.Match[str]) -> datetime.datetime:
    found = match.groupdict()
    hour, minute, second = (int(part or 0) for part in match.groups()[-3:])
    month = int(found.get("m") or 1)
    if name := found.get("n"):
        month = next((number for number in range(1, 13) if _means(name, MONTHS[number - 1])), 0)
    return datetime.datetime(int(found["y"]), month, int(found.get("d") or 1), hour, minute, second)


def _means(written: str, month: str) -> bool:
    written = written.lower()
    return written in (month.lower(), month[:3].lower(), "sept" if month == "September" else "")


def _shifted(moment: datetime.datetime, shift: re.Match[str]) -> datetime.datetime:
    count = int(shift[2]) * (-1 if shift[1] == "-" else 1)
    unit = shift[3].lower()
    if unit in ("day", "week"):
        return moment + datetime.timedelta(days=count * (7 if unit == "week" else 1))
    months = moment.year * 12 + moment.month - 1 + count * (12 if unit == "year" else 1)
    first = moment.replace(year=months // 12, month=months % 12 + 1, day=1)
    return first + datetime.timedelta(days=moment.day - 1)  # 31 January and a month is 3 March, as PHP has it


_NAMES = frozenset("FMDlAaS")  # codes whose text is English
_CODES: dict[str, Callable[[datetime.datetime], str]] = {
    "Y": lambda moment: f"{moment.year:04d}",
    "y": lambda moment: f"{moment.year % 100:02d}",
    "o": lambda moment: str(moment.isocalendar()[0]),
    "L": lambda moment: str(int(calendar.isleap(moment.year))),
    "n": lambda moment: str(moment.month),
    "m": lambda moment: f"{moment.month:02d}",
    "F": lambda moment: MONTHS[moment.month - 1],
    "M": lambda moment: MONTHS[moment.month - 1][:3],
    "j": lambda moment: str(moment.day),
    "d": lambda moment: f"{moment.day:02d}",
    "D": lambda moment: DAYS[moment.weekday()][:3],
    "l": lambda moment: DAYS[moment.weekday()],
    "S": lambda moment: _ordinal(moment.day),
    "N": lambda moment: str(moment.isoweekday()),
    "w": lambda moment: str(moment.isoweekday() % 7),
    "W": lambda moment: f"{moment.isocalendar()[1]:02d}",
    "z": lambda moment: str(moment.timetuple().tm_yday - 1),
    "t": lambda moment: str(calendar.monthrange(moment.year, moment.month)[1]),
    "A": lambda moment: "PM" if moment.hour >= 12 else "AM",
    "a": lambda moment: "pm" if moment.hour >= 12 else "am",
    "g": lambda moment: str((moment.hour - 1) % 12 + 1),
    "h": lambda moment: f"{(moment.hour - 1) % 12 + 1:02d}",
    "G": lambda moment: str(moment.hour),
    "H": lambda moment: f"{moment.hour:02d}",
    "i": lambda moment: f"{moment.minute:02d}",
    "s": lambda moment: f"{moment.second:02d}",
    "U": lambda moment: str(calendar.timegm(moment.timetuple())),
    "c": lambda moment: moment.isoformat() + "+00:00",
}


def _ordinal(day: int) -> str:
    return "th" if 11 <= day <= 13 else {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")
