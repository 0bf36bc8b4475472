"""The plan: figures by hand, rates, and refusals before any work. `make bench` measures it against runs."""

import json
import shutil

import numpy as np
import pytest

from rag_ops import planning
from rag_ops.errors import InputError
from rag_ops.generation import batch_memory
from rag_ops.generation.settings import GenerationSettings
from rag_ops.planning import Job, Rate, StagePlan, plan
from rag_ops.retrieval import kinds
from rag_ops.retrieval.bm25_postings import SHARD_ROWS
from tests.pipelines.workspace import fails, ragbeam, write_articles, write_corpus

GIB = 1 << 30


def test_all_of_wikipedia_by_hand():
    found = plan(Job(21_015_324, questions=1000, target_recall=0.999), {"embed": Rate(1000.0), "answer": Rate(2.0)})
    assert (found.spec, found.index_shards) == ("Flat", 16)
    assert found.stage("index").disk_bytes == 21_015_324 * 768 * 2
    assert found.stage("embed").disk_bytes == pytest.approx(21_015_324 * 768 * 2, rel=0.1)
    assert found.stage("embed").seconds == pytest.approx(21_015_324 / 1000)
    assert found.stage("answer").seconds == 500
    assert found.stage("chunk").seconds is None
    assert 2 * GIB < found.stage("index").memory_bytes < 2.5 * GIB
    text = "\n".join(found.lines())
    assert "? (--rate)" in text
    assert "a recall of 0.999 wants exact search" in text


def test_the_batches_of_embed_are_those_that_the_encoder_makes():
    from rag_ops.models import encoder

    threads, hidden = 3, 3072
    found = [plan(Job(1000, threads=n)).stage("embed").memory_bytes for n in (0, threads)]
    tokens = encoder.ENCODER_BATCH_TOKENS["cpu"]
    assert tokens == 512
    assert found[1] - found[0] == pytest.approx(planning.TOKEN_BYTES * hidden * tokens * threads)


def test_arithmetic_of_16_bits_halves_the_activations_and_needs_no_repacked_weights():
    wide, narrow = (plan(Job(1000, compute_dtype=dtype)).stage("embed") for dtype in ("float32", "bfloat16"))
    activations = planning.TOKEN_BYTES * 3072 * 512 * 2
    assert wide.memory_bytes - narrow.memory_bytes == pytest.approx(2 * 438_000_000 + activations / 2)
    assert wide.disk_bytes == narrow.disk_bytes


def answer_bytes(model=planning.RAG_TOKEN, n_docs=5, batch_tokens=None, dtype="float32", **settings) -> float:
    return planning.answer_memory_bytes(model, 0.0, GenerationSettings(**settings), n_docs, batch_tokens, dtype)


def test_batches_of_answer_take_what_decoding_makes_of_them_by_hand():
    from rag_ops.generation import bart

    keys, few = 12 * 2 * 1024 * 4, {"max_new_tokens": bart.DIRECT_LOOKS}
    least = planning.MODEL_PROCESS + planning.DECODING_WEIGHTS * planning.RAG_TOKEN.weight_bytes
    loaded = planning.MODEL_PROCESS + planning.ANSWER_WEIGHTS * planning.RAG_TOKEN.weight_bytes
    logits = batch_memory.LOGIT_COPIES * 50_265 * 4
    states, answers = 32_768 * 1024 * 4, 256 * bart.DIRECT_LOOKS * keys
    assert answer_bytes(**few) == loaded  # 64 rows take less than the checkpoint did
    lazily = batch_memory.batch_bytes(batch_memory.BART_LARGE, GenerationSettings(lazy=True, **few))
    assert lazily == pytest.approx(2 * (states + answers) + 256 * logits)
    assert answer_bytes(lazy=True, **few) == max(loaded, least + lazily)
    longer = 2 * (states + 32_768 * keys + 256 * 25 * keys)  # the passages' keys and values are made
    assert answer_bytes(lazy=True, max_new_tokens=25) == pytest.approx(least + longer + 256 * logits)
    halves = answer_bytes(lazy=True, max_new_tokens=25, dtype="bfloat16") - least - 256 * logits
    assert halves == pytest.approx(longer / 2)
    assert answer_bytes(lazy=True, batch_tokens=8192, **few) == loaded
    four = answer_bytes(num_beams=4)
    assert four == pytest.approx(least + 2 * 8192 * (1024 * 4 + keys) + 2 * 64 * 4 * 50 * keys + 64 * 4 * logits)
    assert answer_bytes(n_docs=512, max_new_tokens=25) == pytest.approx(
        least + 2 * (512 * 128 * (1024 * 4 + keys) + 512 * 25 * keys) + 512 * logits
    )


def test_a_causal_generator_holds_prompts_answers_and_what_passage_memory_allows(tmp_path):
    sizes = {"hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3}
    config = {"model_type": "rag", "generator": {"model_type": "llama", "vocab_size": 49_152, **sizes}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "generator").mkdir()
    (tmp_path / "generator" / "model.safetensors").write_bytes(b"x" * 1000)
    model = planning.Model.of(str(tmp_path))
    assert (model.weight_bytes, model.decoder.is_causal) == (1000, True)
    token = 46_080  # what README says of SmolLM2
    assert model.decoder.keys * 4 == token
    least = planning.MODEL_PROCESS + planning.DECODING_WEIGHTS * 1000
    logits = batch_memory.LOGIT_COPIES * 64 * 49_152 * 4
    for beams in (1, 4):
        found = answer_bytes(model, num_beams=beams, passage_memory="1MB") - least - 1_000_000
        assert found == pytest.approx(beams * ((8192 + 64 * 50) * token * (1 + 1 / 30) + logits))
    assert answer_bytes(model) - answer_bytes(model, passage_memory="1GiB") == GIB


def test_plan_takes_the_settings_of_decoding_that_take_memory(capsys):
    def memory(*more: object) -> str:
        ragbeam("plan", "--articles", 1000, "--questions", 10, *more)
        return next(line for line in capsys.readouterr().out.splitlines() if line.strip().startswith("answer"))

    assert len({memory(), memory("--lazy"), memory("--num_beams", 4), memory("--lazy", "--max_new_tokens", 24)}) == 4


def test_workers_share_the_time_and_shards_the_memory():
    one, four = (plan(Job(10**7, spec="SQ8", workers=n), {"index": Rate(100.0)}) for n in (1, 4))
    assert four.stage("index").seconds == one.stage("index").seconds / 4
    few, many = (plan(Job(10**7, spec="SQ8", index_shards=n)).stage("index").memory_bytes for n in (2, 20))
    assert many < few / 2


def test_float32_doubles_the_vectors_and_leaves_codes_alone():
    half, whole = (plan(Job(10**6, spec="SQ8", dtype=dtype)) for dtype in ("float16", "float32"))
    assert whole.stage("embed").disk_bytes / half.stage("embed").disk_bytes == pytest.approx(2, rel=0.02)
    assert whole.stage("index").disk_bytes == half.stage("index").disk_bytes


def test_rates_are_by_the_time_of_the_steps_and_start_and_training_come_once(tmp_path):
    def write(folder, rows, seconds, steps, **more):
        report = {"rows": rows, "bytes": 7 * rows, "seconds": seconds, "rows_per_sec": rows / seconds, **more}
        report |= {"shards": {"made": 2, "total": 2}, "steps": {step: {"millis": ms} for step, ms in steps.items()}}
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "run.json").write_text(json.dumps(report))

    write("passages", 1000, 14.0, {"ReadSplits": 8000, "WriteShards": 2000})
    write("embeddings", 1000, 20.0, {"Encode": 5000}, vectors={"reused": 900, "computed": 92, "checked": 8})
    write("index", 1000, 19.0, {"Train": 8000, "BuildShards": 3000, "Measure": 2000})
    write("answers", 10, 30.0, {"Generate": 20_000, "SearchShards": 1000})
    rates = planning.measured_rates(str(tmp_path))
    found = plan(Job(100_000, questions=20, workers=2, spec="Flat"), rates)
    assert found.stage("chunk").seconds == pytest.approx(4 + 1000 / 2)
    assert found.stage("embed").seconds == pytest.approx(15 + 5 / 100 * 100_000 / 2)
    assert found.stage("index").seconds == pytest.approx(14 + 500 / 2)
    assert found.stage("answer").seconds == pytest.approx(9 + (40 + 2 * 100) / 2)
    assert [stage.disk_bytes for stage in found.stages] == [700_000, 700_000, 700_000, 140]
    write("uncounted/passages", 10, 5.0, {})
    assert planning.measured_rates(str(tmp_path / "uncounted")) == {"chunk": Rate(2.0, row_bytes=7.0)}


def test_the_time_of_a_search_of_lists_grows_with_the_lists_of_all_shards(tmp_path):
    """A hundredth of the vectors in one shard shows what a search of many shards takes, lists counted."""
    steps = {"Generate": {"millis": 100}, "SearchShards": {"millis": 500}}
    index = {"rows": 1000, "info": {"spec": "IVF64,SQ8", "dimension": 64}, "steps": {}}
    for folder, report in (("index", index), ("answers", {"rows": 10, "steps": steps})):
        report |= {"bytes": 1000, "seconds": 1.0, "rows_per_sec": 1.0, "shards": {"made": 1, "total": 1}}
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "run.json").write_text(json.dumps(report))
    rate = planning.measured_rates(str(tmp_path))["answer"]
    lists = kinds.kind_of("IVF64,SQ8")("IVF64,SQ8", 64).searched(0, 1)
    assert lists > 10_000
    assert rate.search_secs == pytest.approx(0.5 / 10 / (1000 + lists))
    one, four = (
        plan(Job(100_000, 64, spec="IVF64,SQ8", index_shards=shards, questions=10), {"answer": rate}).stage("answer")
        for shards in (1, 4)
    )
    assert four.seconds - one.seconds == pytest.approx(0.5 * 3 * lists / (1000 + lists))


def test_what_does_not_fit_memory_or_disk_is_refused(tmp_path, monkeypatch):
    stage = StagePlan("index", 10, 10.0, 3 * GIB, None)
    monkeypatch.setattr(planning, "available_memory_bytes", lambda: 2 * GIB)
    with pytest.raises(InputError, match="index does not fit this machine's memory: '3 GiB'; expected at most 2 GiB"):
        planning.check_fits(stage, str(tmp_path / "a" / "b"))
    monkeypatch.setattr(planning, "available_memory_bytes", lambda: None)
    planning.check_fits(stage, str(tmp_path / "a" / "b"))
    with pytest.raises(InputError, match="index does not fit the disk"):
        planning.check_fits(StagePlan("index", 10, 1e18, 0, None), str(tmp_path / "a" / "b"))


def test_this_machines_memory_is_known():
    assert planning.available_memory_bytes() > 100e6


def test_index_refuses_what_does_not_fit_and_writes_nothing(tmp_path, monkeypatch, capsys):
    write_corpus(tmp_path, [np.ones((300, 8), np.float16)], normalize=False)
    monkeypatch.setattr(planning, "available_memory_bytes", lambda: 10_000_000)
    code, line = fails(capsys, "index", "--embeddings", tmp_path / "embeddings", "--output", tmp_path / "index")
    assert code == 2
    assert "index does not fit this machine's memory" in line
    assert not (tmp_path / "index").exists()


def test_the_command_reads_manifests_models_and_rates(tmp_path, tiny_rag, sentence_encoder, capsys):
    write_articles(tmp_path / "articles.jsonl")
    ws = tmp_path / "ws"
    (tmp_path / "q.txt").write_text("what is the moon\n")
    ragbeam(
        *("run", "--workspace", ws, "--input", tmp_path / "articles.jsonl", "--questions", tmp_path / "q.txt"),
        *("--encoder", sentence_encoder, "--model", tiny_rag, "--max_new_tokens", 3),
    )
    capsys.readouterr()
    ragbeam(
        *("plan", "--embeddings", ws / "embeddings", "--encoder", sentence_encoder, "--model", tiny_rag),
        *("--measured", ws, "--questions", 100, "--rate", "answer=4"),
    )
    lines = capsys.readouterr().out.splitlines()
    rows = json.loads((ws / "embeddings" / "run.json").read_text())["rows"]
    assert [line.split()[0] for line in lines[:6]] == ["stage", "chunk", "embed", "index", "answer", "all"]
    assert f" {rows} " in lines[1]
    assert lines[4].split()[-2:] == ["25", "s"]
    assert "?" not in "".join(lines[1:6])
    assert "index: Flat: for" in lines[6]


def test_words_and_search_are_planned_beside_what_runs_of_them_take(searchable, sentence_encoder, tmp_path, capsys):
    """Runs of an index of words and of both searches in a workspace: what is planned by them is what they took."""
    ws = tmp_path / "ws"
    ws.mkdir()
    for name in ("passages", "embeddings", "index"):
        shutil.copytree(searchable / name, ws / name)
    ragbeam("index", "--kind", "bm25", "--passages", ws / "passages", "--output", ws / "bm25")
    search = ["search", "--questions", searchable / "questions.jsonl", "--n_docs", 7, "--overwrite"]
    by_words = [*search, "--bm25", ws / "bm25"]
    dense = [*search, "--index", ws / "index", "--question_encoder", sentence_encoder]
    for flags, line, other in ((by_words, planning.WORD_SEARCH, "search"), (dense, "search", planning.WORD_SEARCH)):
        ragbeam(*flags, "--output", ws / "hits")
        taken, words = (json.loads((ws / name / "run.json").read_text()) for name in ("hits", "bm25"))
        rates = planning.measured_rates(str(ws))
        questions = taken["info"]["questions"]
        found = plan(Job(words["rows"], questions=questions, search_docs=7, spec="Flat"), rates)
        assert found.stage("bm25").disk_bytes == pytest.approx(words["bytes"])
        assert found.stage(line).disk_bytes == pytest.approx(taken["bytes"] / taken["rows"] * 7 * questions)
        assert found.stage(line).seconds == pytest.approx(taken["seconds"], rel=0.3)
        assert found.stage(line).rows == questions
        assert found.stage(other).seconds is None
        twice = plan(Job(words["rows"], questions=2 * questions, search_docs=7, spec="Flat", workers=2), rates)
        assert twice.stage(line).seconds == pytest.approx(found.stage(line).seconds)
    capsys.readouterr()
    ragbeam("plan", "--passages", ws / "passages", "--questions", 10, "--measured", ws, "--rate", "search=5")
    lines = capsys.readouterr().out.splitlines()[-3:]
    names = ["index --kind bm25, if you want one", "search --index, if you want it", "search --bm25"]
    assert [line.split(": disk ")[0] for line in lines] == names
    assert all(" memory of a worker " in line for line in lines)
    assert [line.split(" time ")[1] for line in lines[1:]] == ["2 s", "2 s"]


def test_search_by_hand():
    """Dense search has the encoder and an index shard in memory, that by words a shard of words and no model."""
    many = plan(Job(21_015_324, questions=1000, target_recall=0.999), {"search": Rate(4.0, 10.0, None, 1e-9)})
    dense, words = many.stage("search"), many.stage(planning.WORD_SEARCH)
    assert dense.disk_bytes == words.disk_bytes == 1000 * 100 * planning.HIT_BYTES
    assert dense.seconds == pytest.approx(10 + 1000 * (1 / 4 + 21_015_324e-9))
    shard = 21_015_324 * 768 * 2 / many.index_shards
    assert dense.memory_bytes == planning.MODEL_PROCESS + 4 * 438_000_000 + shard
    assert words.memory_bytes == planning.WORDS_PROCESS + planning.BM25_ROW_BYTES * SHARD_ROWS
    assert words.seconds is None
    assert plan(Job(10, questions=3)).stage("search").disk_bytes == 3 * 10 * planning.HIT_BYTES
    assert plan(Job(10)).stage("search").seconds == 0


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "the corpus is not given"),
        (["--articles", 10, "--num_passages", 5], "the corpus is not given"),
        (["--articles", 0], "--articles is too small: 0"),
        (["--articles", 10, "--rate", "embed"], "--rate is no rate: 'embed'"),
        (["--articles", 10, "--rate", "cook=3"], "--rate is no rate: 'cook=3'"),
        *((["--articles", 10, "--rate", f"embed={n}"], "--rate is no rate") for n in ("inf", "nan", "1e-320", "-1")),
        (["--num_passages", 1000, "--spec", "PQ50"], "use PQ48"),
        (["--num_passages", 10**9, "--shard_memory", "1MiB", "--num_shards", 5], "no index fits --shard_memory"),
        (["--articles", 10, "--measured", "nowhere"], "no rates there: 'nowhere'"),
        (["--passages", "nowhere"], "nowhere"),
    ],
)
def test_bad_use_is_one_line(capsys, more, message):
    code, line = fails(capsys, "plan", *more)
    assert code == 2
    assert message in line


@pytest.mark.parametrize("value", ["x", [5], -1, 0, 1.5, True, 10**30])
@pytest.mark.parametrize(("flag", "part"), [("--encoder", None), ("--model", None), ("--model", "generator")])
def test_a_configuration_without_sizes_is_refused_at_once(value, flag, part, tmp_path, capsys):
    sizes = {"hidden_size": value, "intermediate_size": value or -1}
    config = {"model_type": "rag", "generator": value} if part else {"model_type": "x", **sizes}
    (tmp_path / "config.json").write_text(json.dumps(config))
    code, line = fails(capsys, "plan", "--articles", 10, flag, tmp_path)
    assert (code, "config.json" in line) == (2, True), line


@pytest.mark.parametrize("text", ["", "[", "[" * 100_000, "null", "{}", '{"shards": 5}', '{"shards": {"made": 1}}'])
def test_a_report_without_a_rate_is_refused(text, tmp_path, capsys):
    (tmp_path / "passages").mkdir()
    (tmp_path / "passages" / "run.json").write_text(text)
    code, line = fails(capsys, "plan", "--articles", 10, "--measured", tmp_path)
    assert (code, "a run.json there gives no rate" in line) == (2, True), line
