"""Documents of JSON beside json.loads, in pieces of any size, cut and damaged."""

import io
import json
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag_ops.errors import InputError
from rag_ops.storage import json_documents
from rag_ops.storage.json_documents import columns, elements, is_document, is_of_columns

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
ITEMS = st.lists(st.dictionaries(st.text(max_size=3), VALUES, max_size=3), max_size=5)


def read(text: str) -> list:
    return list(elements(io.StringIO(text), "x.json"))


@settings(max_examples=200, deadline=None)
@given(items=ITEMS, indent=st.sampled_from([None, 2]), before=st.dictionaries(st.text(max_size=3), VALUES, max_size=2))
def test_elements_are_those_of_json_loads(items, indent, before):
    assert read(json.dumps(items, indent=indent)) == items
    before.pop("data", None)
    document = {**before, "data": items, "version": "1.1"}
    assert read(json.dumps(document, indent=indent)) == items


def test_pieces_may_end_anywhere(monkeypatch):
    items = [{"question": f"who {n}", "answers": [{"text": "x" * n}]} for n in range(40)]
    for size in (1, 2, 7, 64):
        monkeypatch.setattr(json_documents, "CHUNK_CHARS", size)
        assert read(json.dumps({"data": items})) == items


@pytest.mark.parametrize(
    "text",
    ['[{"a": 1}', '[{"a": 1},', '[{"a": 1} {"b": 2}]', '[{"a": }]', "[1] [2]", '{"data": [1]', '{"data" [1]}', "", "x"],
)
def test_what_is_cut_or_broken_is_refused(text):
    with pytest.raises(InputError, match=r"broken or cut.*x\.json, after value \d"):
        read(text)


def test_deep_nesting_and_endless_elements_are_refused(monkeypatch):
    with pytest.raises(InputError, match="nested too deeply"):
        read("[" * 200_000)
    monkeypatch.setattr(json_documents, "MAX_ELEMENT_CHARS", 1000)
    with pytest.raises(InputError, match="broken or cut"):
        read('["' + "x" * (4 << 20))


def test_memory_is_that_of_some_elements():
    text = io.StringIO(json.dumps([{"question": f"who is number {n}", "context": "x" * 500} for n in range(40_000)]))
    tracemalloc.start()
    try:
        count = sum(1 for _ in elements(text, "x.json"))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 40_000
    assert peak < 10 << 20  # of 24 MB


def test_documents_are_told_from_lines():
    row = '{"question": "who"}\n'
    assert not is_document(row)
    assert not is_document(row + row)
    assert not is_document('{"data": [{"a": 1}], "question": "who"}\n' + row)
    assert not is_document("[1]\n" + row)  # a line that is no object
    assert is_document(f"[{row}]")
    assert is_document('  [\n  {"question": "who"}\n]\n')
    assert is_document('{"version": "v2.0", "data": [{"title": "x", "paragraphs": []}]}')
    assert is_document('{\n "Data": [\n  {\n   "Answer": {')
    assert is_of_columns('{"answers": {"0": ["a"], "1": ["b"]}, "query": {"0": "who"}}')
    assert not is_of_columns(row)


def test_columns_are_those_of_json_loads_and_what_is_not_wanted_is_not_kept():
    document = {"query": {"0": "who", "1": "wh\u00e4t"}, "passages": {"0": [{"a": 1}], "1": []}, "none": {}}
    text = io.StringIO(json.dumps(document, indent=1))
    assert columns(text, "x", lambda name: name != "passages") == (
        list(document),
        {"query": document["query"], "none": {}},
    )
