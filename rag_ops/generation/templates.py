"""Prompt templates, in Jinja as chat templates are: sandboxed, with a fixed date, and with an end to every loop."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Mapping
from typing import Any

import jinja2
from jinja2 import ext, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from rag_ops.errors import InputError

DATE = datetime.datetime(2024, 7, 26)  # what a template that writes today's date gets: answers are the same tomorrow
MAX_STEPS = 100_000  # rounds of loops and calls in one rendering
MAX_CHARS = 1 << 20  # of one rendering
MAX_REASON_CHARS = 160
_TICK = "ragbeam_tick"


class TemplateError(ValueError):
    """A template could not be rendered for one passage and question."""


class Template:
    """A compiled template.

    Args:
        source: text of the template.
        name: where it comes from, for the error line.

    Raises:
        InputError: it is no template.
    """

    def __init__(self, source: str, name: str):
        self._name, self._environment = name, _Environment()
        try:
            self._template = self._environment.from_string(source)
        except (jinja2.TemplateError, RecursionError) as error:
            raise InputError(
                f"the prompt template cannot be read ({_reason(error)})",
                value=name,
                expected="a template in Jinja, with the variables question, title and text",
            ) from error

    def render(self, variables: Mapping[str, Any]) -> str:
        """The text for some variables; those that are not given are empty.

        Raises:
            TemplateError: the template raises an error, or takes more than `MAX_STEPS` or `MAX_CHARS`.
        """
        self._environment.steps = 0
        parts, length = [], 0
        try:
            for part in self._template.generate(**variables):
                length += len(part)
                if length > MAX_CHARS:
                    raise TemplateError(f"{self._name} writes more than {MAX_CHARS:,} characters")
                parts.append(part)
        except (jinja2.TemplateError, ArithmeticError, LookupError, TypeError, ValueError, RecursionError) as error:
            if isinstance(error, TemplateError):
                raise
            raise TemplateError(f"{self._name}: {_reason(error)}") from error
        return "".join(parts)


class _Generation(ext.Extension):
    """`{% generation %}`, which marks an assistant's words for training: its content alone."""

    tags = frozenset(("generation",))  # type: ignore[assignment]

    def parse(self, parser: Any) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Environment(ImmutableSandboxedEnvironment):
    """A sandbox with what chat templates expect of transformers, which counts rounds of loops and calls."""

    intercepted_binops = frozenset(("*", "**"))

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[ext.loopcontrols, _Generation])
        self.steps = 0
        self.filters["tojson"] = _to_json
        self.globals |= {"raise_exception": _raise, "strftime_now": DATE.strftime, _TICK: self.tick}

    def tick(self) -> str:
        """Counts a step.

        Raises:
            TemplateError: it is one too many.
        """
        self.steps += 1
        if self.steps > MAX_STEPS:
            raise TemplateError(f"the prompt template takes more than {MAX_STEPS:,} steps")
        return ""

    def _parse(self, source: str, name: Any, filename: Any) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        for loop in list(tree.find_all(nodes.For)):
            loop.body.insert(0, nodes.ExprStmt(nodes.Call(nodes.Name(_TICK, "load"), [], [], None, None)))
        tree.set_environment(self)
        return tree

    def call(self, context: Any, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """See Jinja's sandbox."""
        self.tick()
        return super().call(context, function, *args, **kwargs)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Products of numbers alone, none of them large: `"x" * 1000000000` is memory."""
        if not all(isinstance(one, (int, float)) and abs(one) < 1 << 31 for one in (left, right)) or (
            operator == "**" and abs(right) > 64
        ):
            raise TemplateError(f"the prompt template computes {operator} of what is not two small numbers")
        return super().call_binop(context, operator, left, right)


def _to_json(value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, **more: Any) -> str:
    """JSON without Jinja's escapes for HTML, as transformers' filter writes it."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, **more)


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


def _reason(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:MAX_REASON_CHARS]
