"""Gold answers in the forms that known question sets and the libraries that write them use."""

import numpy as np
import pandas as pd
import pytest

from rag_ops.questions.gold_answers import UnreadableError, gold_answers


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (float("nan"), None),
        (b"caf\xc3\xa9", ("café",)),
        (1066, ("1066",)),
        ({"text": ["1066", "in 1066"], "answer_start": [3, 0]}, ("1066", "in 1066")),  # SQuAD on the hub
        ([{"text": "1066", "answer_start": 3}], ("1066",)),  # SQuAD's own file
        ({"Value": "Sunset", "Aliases": ["Sunset", "Dusk"], "NormalizedAliases": ["dusk"]}, ("Sunset", "Dusk")),
        ({"value": "Sunset", "aliases": []}, ("Sunset",)),  # no aliases is not no answer
        ([{"answer": "a", "provenance": [{"title": "x"}]}, {"provenance": [{"title": "y"}]}], ("a",)),  # KILT
        ([{"provenance": [{"title": "y"}]}], ()),
        (
            [[{"start": 3, "end": 9, "string": "the sun"}], [{"start": 1, "end": 2, "string": "sun"}]],
            ("the sun", "sun"),
        ),
        ({"spans": ["two", "three"], "types": ["span", "span"]}, ("two", "three")),  # DROP
        (["No Answer Present."], ()),  # MS MARCO
        ("No Answer Present.", ()),
        ({"value": "<unk>", "aliases": []}, ()),  # TriviaQA's test set
        ("<unk", ("<unk",)),
        ('["novelist", "writer"]', ("novelist", "writer")),  # PopQA
        ("['novelist', \"the writer's\"]", ("novelist", "the writer's")),
        ('{"text": ["a"], "answer_start": [1]}', ("a",)),
        ("{'text': ['a'], 'answer_start': [-1]}", ("a",)),
        ("[]", ()),
        # Texts that only look like lists.
        ("[sic]", ("[sic]",)),
        ("{x | x > 0}", ("{x | x > 0}",)),
        ("[2, 5]", ("[2, 5]",)),
        ("[", ("[",)),
    ],
)
def test_each_form(value, expected):
    assert gold_answers(value) == expected


def test_numbers_in_a_cell_are_texts(tmp_path):
    assert gold_answers("[1988, 1989]", cell=True) == ("1988", "1989")
    assert gold_answers("[1 2]", cell=True) == ("[1 2]",)


@pytest.mark.parametrize(
    "value",
    [
        ["Saint Denis", "King's Lynn"],
        np.array(["Saint Denis", "King's Lynn"], dtype=object),
        {"text": np.array(["Saint Denis", "King's Lynn"], dtype=object), "answer_start": np.array([3, 9], np.int32)},
    ],
)
def test_what_pandas_writes_into_a_cell_is_read(tmp_path, value):
    pd.DataFrame({"answers": [value]}).to_csv(tmp_path / "a.csv", index=False)
    cell = pd.read_csv(tmp_path / "a.csv")["answers"][0]
    assert gold_answers(cell, cell=True) == ("Saint Denis", "King's Lynn")


@pytest.mark.parametrize("value", [{"start": 3}, [{"a": 1}], {}, '{"start": 3}'])
def test_an_object_without_answers_is_named_by_what_it_has(value):
    with pytest.raises(UnreadableError, match=r"an object of (start|a|nothing)"):
        gold_answers(value)


@pytest.mark.parametrize(
    "text", ["[" * 100_000 + "]" * 100_000, "{" * 3000 + "}" * 3000, "['" + "a" * (2 << 20) + "']"]
)
def test_a_hostile_cell_is_a_text(text):
    assert gold_answers(text) == (text,)
