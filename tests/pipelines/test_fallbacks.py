"""What a library would fill in silently ends a command: exit 2, one line, nothing left behind."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tests.pipelines.console.test_options import REQUIRED
from tests.pipelines.workspace import fails, write_questions

ENCODER = "encoder.layer.1."
GENERATOR = "rag.generator.model.decoder.layers.1."


def without(directory: str, target: Path, part: str) -> Path:
    """A copy of a model whose file lacks the weights of a part."""
    shutil.copytree(directory, target)
    state = load_file(target / "model.safetensors")
    kept = {name: tensor for name, tensor in state.items() if part not in name}
    assert len(kept) < len(state)
    save_file(kept, target / "model.safetensors", metadata={"format": "pt"})
    return target


def without_layers(directory: str, target: Path, part: str | None = None) -> Path:
    """A copy of a model whose configuration asks for a billion layers."""
    shutil.copytree(directory, target)
    config = json.loads((target / "config.json").read_text())
    for values in (config, config.get("generator"), config.get("question_encoder")):
        for key in ("num_hidden_layers", "encoder_layers"):
            if values and key in values:
                values[key] = 10**9
    (target / "config.json").write_text(json.dumps(config))
    return target


@pytest.fixture
def place(tmp_path, searchable):
    write_questions(tmp_path / "q.jsonl")
    return tmp_path


def commands(place: Path, searchable: Path, encoder: object, model: object, generator: object) -> dict[str, list]:
    """A command line for each command that loads a model, which writes to `out`."""
    questions, index = place / "q.jsonl", searchable / "index"
    return {
        "embed": ["embed", "--passages", searchable / "passages", "--encoder", encoder],
        "answer": ["answer", "--questions", questions, "--index", index, "--model", model],
        "compose": ["compose", "--question_encoder", encoder, "--generator", generator],
        "compose --warm_start": ["compose", "--question_encoder", encoder, "--warm_start"],
        "finetune": ["finetune", "--model", model, "--index", index, "--train", questions, "--max_steps", 1],
    }


CASES = [
    ("embed", "encoder", ENCODER),
    ("answer", "model", GENERATOR),
    ("answer", "model", "rag.question_encoder." + ENCODER),
    ("compose", "encoder", ENCODER),
    ("compose", "generator", "model.decoder.layers.1."),
    ("compose --warm_start", "encoder", ENCODER),
    ("finetune", "model", GENERATOR),
    ("finetune", "model", "rag.question_encoder." + ENCODER),
]


@pytest.mark.parametrize("change", [without, without_layers])
@pytest.mark.parametrize(("command", "which", "part"), CASES)
def test_a_model_that_lacks_weights_is_refused_by_every_command(
    command, which, part, change, capsys, place, searchable, sentence_encoder, tiny_rag, tiny_bart
):
    models = {"encoder": sentence_encoder, "model": tiny_rag, "generator": tiny_bart}
    models[which] = change(models[which], place / "broken", part)
    given = commands(place, searchable, **models)[command]
    before = sorted(place.rglob("*"))
    code, line = fails(capsys, *given, "--output", place / "out")
    assert code == 2
    if change is without:
        assert "lacks weights: '" in line
        assert part.removeprefix("rag.question_encoder.") in line
    else:
        assert "1000000000" in line
    assert sorted(place.rglob("*")) == before


def test_a_workspace_is_refused_too_and_keeps_its_finished_stages(
    capsys, place, searchable, sentence_encoder, tiny_rag
):
    broken = without(tiny_rag, place / "broken", GENERATOR)
    given = ["run", "--workspace", place / "out", "--input", searchable / "articles.jsonl", "--passage_words", 20]
    given += ["--questions", place / "q.jsonl", "--encoder", sentence_encoder, "--model", broken]
    code, line = fails(capsys, *given)
    assert (code, "lacks weights" in line) == (2, True)
    assert sorted(path.name for path in (place / "out").iterdir()) == ["embeddings", "index", "passages"]


LEFT = [
    (["b.jsonl"], "an argument belongs to no flag: 'b.jsonl'"),
    (["num_shards", "4"], "an argument belongs to no flag: 'num_shards'"),
    (["-n_docs", "3"], "unknown flag: '-n_docs'"),
    (["--no_such_flag"], "unknown flag: '--no_such_flag'"),
    (["--no-such-flag=1"], "unknown flag: '--no_such_flag'"),
    (["--debug=1"], "--debug: ignored explicit argument '1'"),
]


def given_to(command: str, tmp_path: Path, searchable: Path, **models: str) -> list:
    """A command that would succeed, or fail later, and writes to `out`."""
    stages = {"--passages": "passages", "--embeddings": "embeddings", "--index": "index"}
    values = {"--encoder": models["encoder"], "--question_encoder": models["encoder"], "--model": models["model"]}
    values |= {"--generator": models["generator"], "--questions": tmp_path / "q.jsonl", "--train": tmp_path / "q.jsonl"}
    values |= {flag: searchable / name for flag, name in stages.items()} | {"--input": searchable / "articles.jsonl"}
    required = REQUIRED[command]
    if command == "verify":
        return ["verify", searchable]
    pairs = [(flag, values.get(flag, value)) for flag, value in zip(required[::2], required[1::2], strict=True)]
    given = [command, *[word for pair in pairs for word in pair]]
    named = "--workspace" if command == "demo" else "--output"
    return given if command in ("plan", "workers") else [*given, named, tmp_path / "out"]


@pytest.mark.parametrize(("more", "says"), LEFT)
@pytest.mark.parametrize("command", REQUIRED)
def test_an_argument_that_nobody_consumed_ends_every_command(
    command, more, says, capsys, place, searchable, sentence_encoder, tiny_rag, tiny_bart
):
    models = {"encoder": sentence_encoder, "model": tiny_rag, "generator": tiny_bart}
    given = given_to(command, place, searchable, **models)
    before = sorted(place.rglob("*"))
    code, line = fails(capsys, *given, *more)
    assert code == 2
    assert says in line
    assert f"see ragbeam {command} --help" in line
    assert sorted(place.rglob("*")) == before


NEAREST = [
    ("chunk", ["--num_shard", "4"], "--num_shards"),
    ("embed", ["--encoderr", "x"], "--encoder"),
    ("index", ["--target_recal", "0.9"], "--target_recall"),
    ("answer", ["-n_docs", "3"], "--n_docs"),
    ("answer", ["--num-beam=2"], "--num_beams"),
    ("run", ["--n_doc", "3"], "--n_docs"),
    ("demo", ["--n_doc", "3"], "--n_docs"),
    ("evaluate", ["--sweeep", "3"], "--sweep"),
    ("compose", ["--warmstart"], "--warm_start"),
    ("finetune", ["--max_step", "3"], "--max_steps"),
    ("chunk", ["--flink_mastr", "host:8081"], "--flink_master"),
    ("chunk", ["--runner", "flink", "--object_reus", "true"], "--object_reuse"),
]


@pytest.mark.parametrize(("command", "more", "nearest"), NEAREST)
def test_the_nearest_flag_of_the_command_or_of_beam_is_named(
    command, more, nearest, capsys, place, searchable, sentence_encoder, tiny_rag, tiny_bart
):
    models = {"encoder": sentence_encoder, "model": tiny_rag, "generator": tiny_bart}
    code, line = fails(capsys, *given_to(command, place, searchable, **models), *more)
    assert code == 2
    assert f"did you mean {nearest}? see ragbeam {command} --help" in line
    assert not (place / "out").exists()


BEAMS = [
    (["--direct_num_workers", "two"], "invalid int value: 'two'"),
    (["--direct_running_mode", "no_such"], "invalid choice: 'no_such'"),
    (["--streaming=true"], "ignored explicit argument 'true'"),
    (["--direct_num_workers", "-1"], "--direct_num_workers is out of range: -1; expected 1 to 1000"),
    (["--direct_num_workers"], "expected one argument"),
    (["--runner", "FlinkRuner"], "unknown runner: 'FlinkRuner'"),
    (["--runner"], "expected one argument"),
]


@pytest.mark.parametrize(("more", "says"), BEAMS)
@pytest.mark.parametrize("command", ["chunk", "embed", "index", "answer", "run", "demo"])
def test_a_value_that_beam_does_not_read_is_one_line_and_leaves_nothing(
    command, more, says, capsys, place, searchable, sentence_encoder, tiny_rag, tiny_bart
):
    models = {"encoder": sentence_encoder, "model": tiny_rag, "generator": tiny_bart}
    before = sorted(place.rglob("*"))
    code, line = fails(capsys, *given_to(command, place, searchable, **models), *more)
    assert code == 2
    assert says in line
    assert sorted(place.rglob("*")) == before
