"""Braces pair up as MediaWiki's grammar says, and hostile ones cost linear time."""

import contextlib
import time

import pytest

from rag_ops.markup.preprocessor import Argument, Call, Raw, TooDeepError, parse


def shape(nodes):
    """Nodes as lists and tuples of texts, for comparison."""
    shown = []
    for node in nodes:
        if isinstance(node, Call):
            parts = [(None if part.name is None else shape(part.name), shape(part.value)) for part in node.parts]
            shown.append(("call", shape(node.title), *parts))
        elif isinstance(node, Argument):
            default = () if node.default is None else (shape(node.default),)
            shown.append(("argument", shape(node.name), *default))
        elif shown and isinstance(shown[-1], str):
            shown[-1] += node
        else:
            shown.append(str(node))
    return shown


@pytest.mark.parametrize(
    ("markup", "expected"),
    [
        ("a {{b}} c", ["a ", ("call", ["b"]), " c"]),
        ("{{b|1|x = y|}}", [("call", ["b"], (None, ["1"]), (["x "], [" y"]), (None, []))]),
        ("{{{1|two|three}}}", [("argument", ["1"], ["two"])]),
        ("{{{a=b|c=d}}}", [("argument", ["a=b"], ["c=d"])]),
        ("{{{{{1}}}}}", [("call", [("argument", ["1"])])]),
        ("{{{{a}}}}", ["{", ("argument", ["a"]), "}"]),
        ("{{a|[[b|c]]|d}}", [("call", ["a"], (None, ["[[b|c]]"]), (None, ["d"]))]),
        ("{{[[a|b}}]]", ["{{[[a|b}}]]"]),
        ("{{a|\n== b ==\n}}", [("call", ["a"], (None, ["\n== b ==\n"]))]),
        ("{{a|\n=b}}", [("call", ["a"], (["\n"], ["b"]))]),
        ("{{a<!-- | -->|b<!-- }} -->}}", [("call", ["a"], (None, ["b"]))]),
        ("{{a|b\n <!-- c --> \nd}}", [("call", ["a"], (None, ["b\nd"]))]),
        ("{{a|<nowiki>}}|</nowiki>}}", [("call", ["a"], (None, ["<nowiki>}}|</nowiki>"]))]),
        ("<ref>{{a|</ref>}}", ["<ref>{{a|</ref>}}"]),
        ("{{a <!-- b", ["{{a <!-- b"]),
        ("{{a|{{}}}}", [("call", ["a"], (None, [("call", [])]))]),
        ("}} a {{ b", ["}} a {{ b"]),
    ],
)
def test_pairs(markup, expected):
    assert shape(parse(markup)) == expected


def test_a_call_knows_where_it_is_written_and_what_an_extension_tag_holds_is_raw():
    nodes = parse("x\n{{a}} {{b|<math>{{c}}</math>}}")
    assert [(node.source, node.begins_line) for node in nodes if isinstance(node, Call)] == [
        ("{{a}}", True),
        ("{{b|<math>{{c}}</math>}}", False),
    ]
    assert type(nodes[-1].parts[0].value[0]) is Raw


@pytest.mark.parametrize(
    "piece",
    ["{{", "{{a|", "{{a}}", "{", "}}", "{{a|[[", "<!--", "{{<ref>", "{{a|=", "{{a|\n==", "{{{a|", "{{a<nowiki>"],
)
def test_hostile_braces_cost_linear_time(piece):
    def secs(times):
        started = time.process_time()
        for markup in (piece * times, piece * times + "}" * times):
            with contextlib.suppress(TooDeepError):
                parse(markup)
        return time.process_time() - started

    assert secs(40_000) < 4 + 40 * secs(2_000)
