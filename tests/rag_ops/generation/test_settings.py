"""Settings of decoding refuse nonsense where they are made, and name the flag."""

import dataclasses
import math

import pytest

from pipelines.answer.options import answer_options
from rag_ops.errors import InputError
from rag_ops.generation.settings import GenerationSettings

GIVEN = {"questions": ["q"], "index": "index", "model": "model", "output": "out"}
NONSENSE = [
    ({"num_beams": 0}, "--num_beams is too small: 0; expected 1 or more"),
    ({"max_new_tokens": 0}, "--max_new_tokens is too small: 0"),
    ({"max_new_tokens": math.nan}, "--max_new_tokens is no whole number: nan"),
    ({"num_beams": 2.5}, "--num_beams is no whole number: 2.5"),
    ({"no_repeat_ngram_size": 1.5}, "--no_repeat_ngram_size is no whole number: 1.5"),
    ({"n_best": 0}, "--n_best is too small: 0"),
    ({"n_best": 3, "num_beams": 2}, "--n_best is more than --num_beams: 3; expected at most 2"),
    ({"max_combined_length": 0}, "--max_combined_length is too small: 0"),
    ({"min_length": -1}, "--min_length is out of range: -1"),
    ({"min_length": 9, "max_new_tokens": 3}, "--min_length is out of range: 9"),
    ({"min_length": math.nan}, "--min_length is no whole number: nan"),
    ({"no_repeat_ngram_size": -1}, "--no_repeat_ngram_size is negative: -1"),
    ({"length_penalty": math.nan}, "--length_penalty is not finite: nan"),
    ({"length_penalty": math.inf}, "--length_penalty is not finite: inf"),
    ({"score_scale": 0.0}, "--score_scale is out of range: 0.0"),
    ({"score_scale": math.nan}, "--score_scale is out of range: nan"),
    ({"score_scale": math.inf}, "--score_scale is out of range: inf"),
    ({"truncation": "middle"}, "--truncation is unknown: 'middle'"),
    ({"spelling": "american"}, "--spelling is unknown: 'american'"),
    ({"forced_tokens": "all"}, "--forced_tokens is unknown: 'all'; expected model or none"),
    ({"forbidden_words": "the king"}, "--forbidden_words is no list of words: 'the king'"),
    ({"forbidden_words": ["the", " "]}, "--forbidden_words is no list of words: ['the', ' ']"),
]


@pytest.mark.parametrize(("settings", "message"), NONSENSE)
def test_nonsense_is_refused_alike_in_a_notebook_and_on_the_command_line(settings, message):
    for make in (GenerationSettings, lambda **given: answer_options(GIVEN | given)):
        with pytest.raises(InputError) as error:
            make(**settings)
        assert str(error.value).startswith(message)


def test_every_setting_is_an_option_of_answer_with_the_same_default():
    options = answer_options(GIVEN)
    assert options.generation == GenerationSettings()
    for field in dataclasses.fields(GenerationSettings):
        assert getattr(options.generation, field.name) == field.default


def test_forbidden_words_are_kept_as_a_tuple():
    assert GenerationSettings(forbidden_words=["the king"]).forbidden_words == ("the king",)
