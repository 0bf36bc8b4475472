"""compose makes a model of a causal generator, which answer takes; what is not for it is refused in one line."""

import json

import pyarrow.parquet as pq
import pytest
import torch

from rag_ops.errors import InputError
from rag_ops.interop.model_card import RagTokenForGeneration
from rag_ops.models import causal, checkpoints, loading
from rag_ops.storage.manifests import read_manifest
from schemas.passages import Passage
from tests.pipelines.workspace import fails, ragbeam
from tests.rag_ops.generation.causal_models import LIMIT, NEAR, Mixture, save

DOCS = ("--n_docs", 3, "--compute_dtype", "float32")  # as the oracle computes


@pytest.fixture(scope="module")
def generator(tmp_path_factory) -> str:
    """A tiny Llama with a chat template."""
    return save(tmp_path_factory.mktemp("llama"), "llama")


@pytest.fixture(scope="module")
def model(tmp_path_factory, sentence_encoder, generator) -> str:
    """A RAG-Token model of it."""
    directory = tmp_path_factory.mktemp("composed") / "rag"
    ragbeam("compose", "--question_encoder", sentence_encoder, "--generator", generator, "--output", directory)
    return str(directory)


def answer(searchable, model, output, *more: object) -> list[dict]:
    """The rows that have no error."""
    given = ["--questions", searchable / "questions.jsonl", "--index", searchable / "index", "--model", model]
    ragbeam("answer", *given, "--output", output, "--threads", 1, "--max_new_tokens", LIMIT, *DOCS, *more)
    shards = read_manifest(str(output), "answer").shards
    rows = [row for shard in shards for row in pq.read_table(output / shard.path).to_pylist()]
    return [row for row in rows if row["error"] is None]


def test_a_composed_model_answers_as_the_mixture_of_its_full_prompts(searchable, generator, model, tmp_path):
    rows = answer(searchable, model, tmp_path / "a", "--num_beams", 2, "--n_best", 2)
    whole, own = causal.load_causal(generator), loading.load_tokenizer(generator)
    assert len(rows) >= 7
    with torch.inference_mode():
        for row in rows:
            passages = [Passage(one["id"], one["title"], one["text"]) for one in row["passages"]]
            mixture = Mixture(whole, own, row["question"], passages, [one["score"] for one in row["passages"]])
            tokens, score = mixture.beams(2)
            if mixture.gap >= NEAR:
                assert row["answer"] == own.decode(tokens, skip_special_tokens=True).strip()
                assert row["score"] == pytest.approx(score, abs=1e-4)
            assert len(row["alternatives"]) == 1
    counts = json.loads((tmp_path / "a" / "run.json").read_text())["steps"]["Generate"]
    assert counts["passages_computed"] == len({one["id"] for row in rows for one in row["passages"]})
    assert counts["passages"] > counts["passages_computed"]


def test_the_prompt_of_a_file_and_stop_texts_decide_the_answers_and_memory_does_not(searchable, model, tmp_path):
    file = tmp_path / "prompt.jinja"
    file.write_text("{{ text }}\n{{ question }} ?")
    first = answer(searchable, model, tmp_path / "a", "--prompt", file, "--stop", "e", "i")
    config = read_manifest(str(tmp_path / "a"), "answer").config
    assert (config["template"], config["stop"]) == (file.read_text(), ["e", "i"])
    assert not any({"e", "i"} & {*row["answer"]} for row in first)
    moved = tmp_path / "moved.jinja"
    moved.write_text(file.read_text())
    again = answer(searchable, model, tmp_path / "b", "--prompt", moved, "--stop", "e", "i", "--passage_memory", "1")
    assert again == first
    assert read_manifest(str(tmp_path / "b"), "answer").config == config
    plain = answer(searchable, model, tmp_path / "c")
    assert [row["answer"] for row in plain] != [row["answer"] for row in first]
    assert not {"template", "stop"} & {*read_manifest(str(tmp_path / "c"), "answer").config}


def test_evaluate_sweeps_with_the_answers_own_prompt(searchable, model, tmp_path):
    file = tmp_path / "prompt.jinja"
    file.write_text("{{ text }}\n{{ question }} ?")
    answer(searchable, model, tmp_path / "a", "--prompt", file)
    ragbeam("evaluate", "--answers", tmp_path / "a", "--output", tmp_path / "e.json", "--model", model, "--sweep", 1, 3)
    report = json.loads((tmp_path / "e.json").read_text())
    assert report


def test_a_model_says_what_it_is(model, generator, sentence_encoder, tmp_path):
    config = checkpoints.read_config(model)
    assert (config["model_type"], config["architectures"]) == ("rag", ["RagTokenCausalLM"])
    assert config["generator"]["model_type"] == "llama"
    assert checkpoints.is_causal_rag(model)
    before, after = (causal.load_causal(place).state_dict() for place in (generator, f"{model}/generator"))
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    wanted, found = (loading.load_encoder(place, "question").state_dict() for place in (sentence_encoder, model))
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())


def test_the_chat_template_is_a_part_of_the_model(sentence_encoder, tmp_path):
    generator = save(tmp_path / "g", "llama")
    digests = []
    for name in ("a", "b"):
        ragbeam(
            "compose", "--question_encoder", sentence_encoder, "--generator", generator, "--output", tmp_path / name
        )
        digests.append(checkpoints.model_digest(str(tmp_path / name)))
        file = tmp_path / "g" / "chat_template.jinja"
        file.write_text(file.read_text() + " ")
    assert digests[0] != digests[1]


def test_what_a_causal_generator_cannot_is_refused(
    searchable, sentence_encoder, generator, model, tiny_rag, tmp_path, capsys
):
    questions, index = searchable / "questions.jsonl", searchable / "index"
    output = ["--output", tmp_path / "o"]
    with pytest.raises(InputError, match="causal generator"):
        RagTokenForGeneration.from_pretrained(model)
    asking = ["answer", "--questions", questions, "--index", index, *output]
    assert "--lazy knows no bound" in fails(capsys, *asking, "--model", model, "--lazy")[1]
    by_sequences = ["--decoding", "sequence-fast", "--any_architecture"]
    line = fails(capsys, *asking, "--model", model, *by_sequences)[1]
    assert "--decoding sequence-fast is for sequence-to-sequence generators" in line
    composing = ["compose", "--question_encoder", sentence_encoder, "--generator", generator, *output]
    line = fails(capsys, *composing, "--architecture", "sequence")[1]
    assert "--architecture sequence is for sequence-to-sequence generators" in line
    assert "--stop is for causal generators" in fails(capsys, *asking, "--model", tiny_rag, "--stop", "x")[1]
    file = tmp_path / "p"
    for content, message in ((b"", "--prompt is empty"), (b"\xff", "--prompt cannot be read"), (b"x", "is for causal")):
        file.write_bytes(content)
        assert message in fails(capsys, *asking, "--model", tiny_rag, "--prompt", file)[1]
    assert "--prompt cannot be read" in fails(capsys, *asking, "--model", model, "--prompt", tmp_path / "none")[1]
    file.write_text("{% for %}")
    assert "the prompt template cannot be read" in fails(capsys, *asking, "--model", model, "--prompt", file)[1]


def test_what_was_read_of_passages_is_found_again_in_files(searchable, model, tmp_path):
    cache = tmp_path / "cache"
    first = answer(searchable, model, tmp_path / "a", "--passage_cache", cache)
    files = sorted(cache.glob("passage-*"))
    counts = [json.loads((tmp_path / "a" / "run.json").read_text())["steps"]["Generate"]]
    files[0].write_bytes(files[0].read_bytes()[:50])
    again = answer(searchable, model, tmp_path / "b", "--passage_cache", cache)
    counts.append(json.loads((tmp_path / "b" / "run.json").read_text())["steps"]["Generate"])
    assert [one["passages_computed"] for one in counts] == [len(files), 1]
    assert again == first == answer(searchable, model, tmp_path / "c")
    config = read_manifest(str(tmp_path / "a"), "answer").config
    assert config == read_manifest(str(tmp_path / "c"), "answer").config
    assert answer(searchable, model, tmp_path / "d", "--passage_cache", cache, "--passage_cache_size", "20kB") == first
    assert sum(path.stat().st_size for path in cache.glob("passage-*")) <= 20_000


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--passage_cache_size", "1GiB"], "--passage_cache_size goes with --passage_cache: '1GiB'"),
        (["--passage_cache", "{t}/c", "--passage_cache_size", "much"], "--passage_cache_size is no size: 'much'"),
        (["--passage_cache", "{t}/file"], "--passage_cache is a file"),
        (["--passage_cache", "{t}/o/c"], "--passage_cache overlaps --output, and the same command writes both"),
    ],
    ids=str,
)
def test_a_passage_cache_that_cannot_be_is_refused(searchable, model, tmp_path, capsys, more, message):
    (tmp_path / "file").write_text("mine")
    asking = ["answer", "--questions", searchable / "questions.jsonl", "--index", searchable / "index"]
    told = [part.format(t=tmp_path) for part in more]
    code, line = fails(capsys, *asking, "--model", model, "--output", tmp_path / "o", *told)
    assert (code, message in line) == (2, True), line
