"""Start, end and forced tokens are those of the generation configuration that transformers loads."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from transformers import RagTokenForGeneration

from rag_ops.errors import InputError
from rag_ops.generation.special_tokens import SpecialTokens, read_special_tokens, special_tokens
from tests.rag_ops.generation.families import generator, rag


def saved(directory: Path, level: dict, own: dict, generation: dict | None) -> str:
    """A RAG model on disk: ids of RagConfig and of the generator; generation_config.json also says `generation`."""
    rag(generator("bart", 110, **own), **level).save_pretrained(directory)
    path = directory / "generation_config.json"
    if generation is None:
        path.unlink()
    else:
        path.write_text(json.dumps(json.loads(path.read_text()) | generation))
    return str(directory)


@pytest.mark.parametrize(
    ("level", "own", "generation", "expected"),
    [
        ({}, {}, {}, SpecialTokens(1, 2, (2,), None, (2,))),
        ({}, {"forced_eos_token_id": 7}, {}, SpecialTokens(1, 2, (2,), None, (7,))),
        ({}, {"forced_eos_token_id": None}, {}, SpecialTokens(1, 2, (2,))),
        ({"decoder_start_token_id": 9, "eos_token_id": [8, 4]}, {}, {}, SpecialTokens(1, 9, (8, 4), None, (2,))),
        ({}, {}, {"forced_bos_token_id": 5, "eos_token_id": [2, 6]}, SpecialTokens(1, 2, (2, 6), 5, (2,))),
        (
            {"eos_token_id": 8},
            {},
            {"eos_token_id": 6, "forced_eos_token_id": [6, 7]},
            SpecialTokens(1, 2, (6,), None, (6, 7)),
        ),
        ({}, {"forced_eos_token_id": 7, "pad_token_id": 3}, None, SpecialTokens(3, 2, (2,), None, (7,))),
        ({"decoder_start_token_id": 9}, {"eos_token_id": [4, 2]}, None, SpecialTokens(1, 9, (4, 2), None, (2,))),
    ],
)
def test_the_tokens_read_from_a_directory_are_those_of_the_model_that_transformers_loads(
    tmp_path, level, own, generation, expected
):
    directory = saved(tmp_path, level, own, generation)
    loaded = RagTokenForGeneration.from_pretrained(directory)
    assert read_special_tokens(directory) == special_tokens(loaded.generation_config, loaded.config) == expected
    generate = loaded.generation_config
    assert generate.decoder_start_token_id == expected.start
    assert generate.forced_bos_token_id == expected.first


def test_without_a_start_token_it_is_the_beginning_of_a_text_and_without_an_end_token_an_error():
    generation = SimpleNamespace(pad_token_id=None, bos_token_id=4, eos_token_id=6)
    config = SimpleNamespace(generator=SimpleNamespace())
    assert special_tokens(generation, config) == SpecialTokens(6, 4, (6,))
    with pytest.raises(InputError, match="lacks a token: 'start 4, end \\(\\)'"):
        special_tokens(SimpleNamespace(bos_token_id=4), config)


def test_a_generators_own_tokens_stand_in_for_what_the_generation_configuration_lacks():
    config = SimpleNamespace(eos_token_id=7, generator=SimpleNamespace(decoder_start_token_id=3, eos_token_id=8))
    assert special_tokens(SimpleNamespace(pad_token_id=0), config) == SpecialTokens(0, 3, (7,))


def test_unforced_leaves_the_others():
    assert SpecialTokens(1, 2, (3, 4), 5, (3,)).unforced() == SpecialTokens(1, 2, (3, 4))
