"""answer --decoding: RAG-Sequence through the job, and whose weights it takes."""

import math

import pyarrow.parquet as pq
import pytest

from rag_ops.evaluation.figures import AnswerSet
from rag_ops.evaluation.sweep import Sweep
from rag_ops.models import checkpoints
from rag_ops.models.compose import compose
from rag_ops.storage.manifests import read_manifest
from tests.pipelines.workspace import fails, ragbeam

SETTINGS = ("--num_beams", 3, "--n_best", 2, "--n_docs", 3, "--max_new_tokens", 5)


@pytest.fixture(scope="module")
def sequence_rag(tmp_path_factory, sentence_encoder, tiny_bart) -> str:
    """The parts of `tiny_rag` as a RAG-Sequence model."""
    directory = str(tmp_path_factory.mktemp("sequence"))
    compose(sentence_encoder, tiny_bart, directory, architecture="sequence")
    return directory


def flags(stage, model, output, *more: object) -> list[object]:
    asked = ["answer", "--questions", stage / "questions.jsonl", "--index", stage / "index", "--model", model]
    return [*asked, "--output", output, "--threads", 1, *more]


def answers(stage, model, output, *more: object) -> list[dict]:
    """The rows that have no error."""
    ragbeam(*flags(stage, model, output, *more))
    shards = read_manifest(str(output), "answer").shards
    rows = [row for shard in shards for row in pq.read_table(output / shard.path).to_pylist()]
    return [row for row in rows if row["error"] is None]


def test_a_sequence_model_is_decoded_by_sequences_and_others_if_that_is_allowed(
    searchable, tiny_rag, sequence_rag, tmp_path
):
    own = answers(searchable, sequence_rag, tmp_path / "own", *SETTINGS)
    asked = ("--decoding", "sequence", "--any_architecture")
    other = answers(searchable, tiny_rag, tmp_path / "other", *SETTINGS, *asked)
    token = answers(searchable, sequence_rag, tmp_path / "t", *SETTINGS, "--decoding", "token", "--any_architecture")
    plain = answers(searchable, tiny_rag, tmp_path / "plain", *SETTINGS)
    assert own
    for pair in ((own, other), (token, plain)):
        found = [[(row["answer"], row["score"], row["alternatives"]) for row in rows] for rows in pair]
        assert found[0] == found[1]
    assert [row["score"] for row in own] != [row["score"] for row in plain]
    configs = {name: read_manifest(str(tmp_path / name), "answer").config for name in ("own", "other", "t", "plain")}
    assert {name: config.get("decoding") for name, config in configs.items()} == {
        **{"own": "sequence", "other": "sequence", "t": None, "plain": None}
    }
    assert not any("any_architecture" in config for config in configs.values())
    for row in own:
        assert sum(passage["posterior"] for passage in row["passages"]) == pytest.approx(1, abs=1e-5)
        assert sum(token["log_probability"] for token in row["tokens"]) == pytest.approx(row["score"], abs=1e-4)
        last = row["tokens"][-1]["posterior"]
        assert last == pytest.approx([passage["posterior"] for passage in row["passages"]], abs=1e-6)
        assert row["score_high"] == row["score"]
        assert len(row["alternatives"]) == 1
        assert not row["truncated"]


def test_fast_decoding_gives_lower_bounds(searchable, sequence_rag, tmp_path):
    for row in answers(searchable, sequence_rag, tmp_path / "fast", *SETTINGS, "--decoding", "sequence-fast"):
        assert -math.inf < row["score"] <= row["score_high"] <= 0
        gave = [passage["posterior"] > 0 for passage in row["passages"]]
        assert any(gave)
        assert (row["score"] < row["score_high"]) == (not all(gave))
    assert read_manifest(str(tmp_path / "fast"), "answer").config["decoding"] == "sequence-fast"


def test_a_sweep_answers_again_by_the_decoding_of_the_answers(searchable, tiny_rag, tmp_path):
    asked = ("--decoding", "sequence", "--any_architecture")
    rows = answers(searchable, tiny_rag, tmp_path / "answers", *SETTINGS, *asked)
    sweep = Sweep(AnswerSet.open(str(tmp_path / "answers")), [3], tiny_rag, device="cpu", threads=1)
    again = sweep._answers({row["question"]: {**row, "choices": None} for row in rows})[3]
    assert again == {row["question"]: row["answer"] for row in rows}


def test_weights_of_the_other_rule_are_refused_in_one_line(searchable, tiny_rag, sequence_rag, tmp_path, capsys):
    code, line = fails(capsys, *flags(searchable, tiny_rag, tmp_path / "a", "--decoding", "sequence-fast"))
    assert code == 2
    assert "--decoding sequence-fast is another rule than the model was trained to choose its answers by" in line
    assert "RagTokenForGeneration" in line
    assert "--any_architecture" in line
    code, line = fails(capsys, *flags(searchable, sequence_rag, tmp_path / "b", "--decoding", "token"))
    assert code == 2
    assert "RagSequenceForGeneration" in line
    code, line = fails(capsys, *flags(searchable, sequence_rag, tmp_path / "c", "--lazy"))
    assert code == 2
    assert "--lazy is for the mixture of tokens: '--decoding sequence'" in line
    assert not any((tmp_path / name / "manifest.json").exists() for name in "abc")


def test_compose_says_what_a_model_is(tiny_rag, sequence_rag):
    found = [checkpoints.read_config(directory)["architectures"] for directory in (tiny_rag, sequence_rag)]
    assert found == [["RagTokenForGeneration"], ["RagSequenceForGeneration"]]
