"""Checkpoints in the layouts of 2020: exactly the files that facebook's repositories hold, small, through every job."""

import fnmatch
import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
import transformers
from tokenizers import ByteLevelBPETokenizer

from rag_ops import RagTokenForGeneration
from rag_ops.errors import InputError
from rag_ops.models import checkpoints, loading
from rag_ops.models.compose import compose
from rag_ops.storage.manifests import read_manifest
from tests.conftest import LETTERS, WORDS
from tests.pipelines.workspace import fails, ragbeam, write_articles, write_questions

SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
BERT_SPECIAL = {
    **{"unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]", "mask_token": "[MASK]"}
}
MASK = {"content": "<mask>", "single_word": False, "lstrip": True, "rstrip": False, "normalized": True}
BART_SPECIAL = {
    **{"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "sep_token": "</s>", "pad_token": "<pad>"},
    **{"cls_token": "<s>", "mask_token": MASK},
}
# What the hub has of each repository, but for README.md and the weights of other libraries.
TOKENIZER_FILES = {
    "bert": {"vocab.txt", "special_tokens_map.json", "tokenizer_config.json"},
    "bart": {"vocab.json", "merges.txt", "special_tokens_map.json", "tokenizer_config.json"},
}
FILES = {
    "dpr-ctx_encoder-single-nq-base": {"config.json", "pytorch_model.bin", "vocab.txt", "tokenizer_config.json"},
    "dpr-question_encoder-single-nq-base": {"config.json", "pytorch_model.bin", "vocab.txt", "tokenizer_config.json"},
    "bart-large": {"config.json", "pytorch_model.bin", "vocab.json", "merges.txt"},
    "rag-token-nq": {
        *("config.json", "pytorch_model.bin"),
        *(f"question_encoder_tokenizer/{name}" for name in TOKENIZER_FILES["bert"]),
        *(f"generator_tokenizer/{name}" for name in TOKENIZER_FILES["bart"]),
    },
}


def write_bert_tokenizer(directory: Path, *, special: bool) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    pieces = [*LETTERS, *(f"##{letter}" for letter in LETTERS), *WORDS, *".,/?!-'\"()"]
    (directory / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *pieces]) + "\n")
    (directory / "tokenizer_config.json").write_text('{"do_lower_case": true, "model_max_length": 512}')
    if special:
        (directory / "special_tokens_map.json").write_text(json.dumps(BERT_SPECIAL))


def write_bart_tokenizer(directory: Path, *, special: bool) -> int:
    directory.mkdir(parents=True, exist_ok=True)
    bpe = ByteLevelBPETokenizer()
    first = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    bpe.train_from_iterator([" ".join(WORDS)] * 3, vocab_size=330, min_frequency=1, special_tokens=first)
    bpe.save_model(str(directory))
    if special:
        (directory / "special_tokens_map.json").write_text(json.dumps(BART_SPECIAL))
        (directory / "tokenizer_config.json").write_text('{"model_max_length": 1024}')
    return len(json.loads((directory / "vocab.json").read_text()))


def write_old(directory: Path, model, *, leave_out: str = "\0", **config) -> None:
    """Configuration and weights as of 2020: pytorch_model.bin, and none of today's keys."""
    directory.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items() if leave_out not in name}
    torch.save(state, directory / "pytorch_model.bin")
    values = {**model.config.to_dict(), "architectures": [type(model).__name__], **config}
    for part in (values, values.get("question_encoder", {}), values.get("generator", {})):
        for key in ("dtype", "transformers_version", "tie_word_embeddings", "_attn_implementation"):
            part.pop(key, None)
    (directory / "config.json").write_text(json.dumps(values, default=str))


@pytest.fixture(scope="module")
def hub(tmp_path_factory) -> Path:
    """The repositories, as directories of their names."""
    torch.manual_seed(20)
    root = tmp_path_factory.mktemp("facebook")
    for name, kind in (("ctx", transformers.DPRContextEncoder), ("question", transformers.DPRQuestionEncoder)):
        directory = root / f"dpr-{name}_encoder-single-nq-base"
        write_bert_tokenizer(directory, special=False)
        encoder = kind(transformers.DPRConfig(vocab_size=110, initializer_range=0.5, **SIZES))
        write_old(directory, encoder)
    words = write_bart_tokenizer(root / "bart-large", special=False)
    sizes = {"layers": 1, "attention_heads": 2, "ffn_dim": 32}
    bart = transformers.BartForConditionalGeneration(
        transformers.BartConfig(
            **{f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in sizes.items()},
            **{"vocab_size": words, "d_model": 16, "max_position_embeddings": 1024, "init_std": 0.5},
            **{"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 2},
            forced_eos_token_id=None,
        )
    )
    write_old(root / "bart-large", bart)
    config = transformers.RagConfig.from_question_encoder_generator_configs(
        encoder.config, bart.config, retrieval_vector_size=16, index_name="exact", n_docs=2
    )
    rag = transformers.RagTokenForGeneration(config=config, question_encoder=encoder, generator=bart)
    write_bert_tokenizer(root / "rag-token-nq" / "question_encoder_tokenizer", special=True)
    write_bart_tokenizer(root / "rag-token-nq" / "generator_tokenizer", special=True)
    write_old(root / "rag-token-nq", rag, leave_out="lm_head")
    return root


@pytest.fixture(scope="module")
def corpus(hub, tmp_path_factory) -> Path:
    """An index made with the old context encoder, and questions."""
    directory = tmp_path_factory.mktemp("corpus")
    write_articles(directory / "articles.jsonl", count=20)
    write_questions(directory / "questions.jsonl")
    ragbeam("chunk", "--input", directory / "articles.jsonl", "--output", directory / "passages", "--num_shards", 1)
    encoder = hub / "dpr-ctx_encoder-single-nq-base"
    ragbeam("embed", "--passages", directory / "passages", "--encoder", encoder, "--output", directory / "embeddings")
    ragbeam("index", "--embeddings", directory / "embeddings", "--output", directory / "index")
    return directory


def answers_of(directory: Path) -> list[dict]:
    shards = read_manifest(str(directory), "answer").shards
    return [row for shard in shards for row in pq.read_table(directory / shard.path).to_pylist()]


@pytest.mark.parametrize("name", sorted(FILES))
def test_the_directories_hold_the_hubs_files_and_no_others(hub, name):
    found = {path.relative_to(hub / name).as_posix() for path in (hub / name).rglob("*") if path.is_file()}
    assert found == FILES[name]


@pytest.mark.parametrize("name", sorted(FILES))
def test_what_is_downloaded_is_all_that_a_layout_needs(name):
    asked = {}

    def patterns(repository, allow_patterns):
        asked[repository] = allow_patterns
        return "/downloaded"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.snapshot_download", patterns)
        assert checkpoints.find_model(f"facebook/{name}") == "/downloaded"
    wanted = [*FILES[name], "0_Transformer/vocab.txt", "0_Transformer/merges.txt", "1_Pooling/config.json"]
    wanted += [
        "0_Transformer/pytorch_model.bin",
        "0_Transformer/sentencepiece.bpe.model",
        "pytorch_model.bin.index.json",
    ]
    for file in wanted:
        assert any(fnmatch.fnmatch(file, pattern) for pattern in asked[f"facebook/{name}"]), file
    for file in ("tf_model.h5", "flax_model.msgpack", "rust_model.ot", "README.md", "onnx/model.onnx"):
        assert not any(fnmatch.fnmatch(file, pattern) for pattern in asked[f"facebook/{name}"]), file


def test_both_tokenizers_are_transformers_own(hub):
    ours, theirs = (
        loading.rag_tokenizer(str(hub / "rag-token-nq")),
        transformers.RagTokenizer.from_pretrained(hub / "rag-token-nq"),
    )
    for text in ("Who is the KING of ice?", "the moon / the river // what is it", "<mask> of"):
        for side in ("question_encoder", "generator"):
            found, expected = (getattr(pair, side)(text)["input_ids"] for pair in (ours, theirs))
            assert found == expected
            assert len(found) > 2


def test_a_rag_model_of_2020_answers_as_transformers_generates(hub, corpus, tmp_path):
    model = hub / "rag-token-nq"
    command = ["answer", "--questions", corpus / "questions.jsonl", "--index", corpus / "index", "--model", model]
    ragbeam(*command, "--output", tmp_path / "answers", "--n_docs", 2, "--max_new_tokens", 6)
    rows = [row for row in answers_of(tmp_path / "answers") if row["error"] is None]
    assert len(rows) == 8
    theirs = transformers.RagTokenForGeneration.from_pretrained(model).eval()
    tokenizer = transformers.RagTokenizer.from_pretrained(model)
    for row in rows:
        contexts = [f"{one['title']} / {one['text']} // {row['question']}".lower() for one in row["passages"]]
        encoded = tokenizer.generator(contexts, padding=True, return_tensors="pt")
        generated = theirs.generate(
            context_input_ids=encoded["input_ids"],
            context_attention_mask=encoded["attention_mask"],
            doc_scores=torch.tensor([[one["score"] for one in row["passages"]]]),
            **{"n_docs": 2, "max_length": 7, "num_beams": 1, "min_length": 1},
        )
        text = tokenizer.batch_decode(generated, skip_special_tokens=True)[0].strip()
        assert "".join(row["answer"].lower().split()) == "".join(text.lower().split())
        assert text


def test_parts_of_2020_are_composed_and_answer(hub, corpus, tmp_path):
    names = ("dpr-question_encoder-single-nq-base", "bart-large", "dpr-ctx_encoder-single-nq-base")
    question_encoder, generator, context_encoder = (hub / name for name in names)
    ragbeam(
        *("compose", "--question_encoder", question_encoder, "--generator", generator),
        *("--context_encoder", context_encoder, "--output", tmp_path / "rag"),
    )
    command = ["answer", "--questions", corpus / "questions.jsonl", "--index", corpus / "index"]
    ragbeam(*command, "--model", tmp_path / "rag", "--output", tmp_path / "a", "--n_docs", 2, "--max_new_tokens", 6)
    ragbeam(*command, "--model", hub / "rag-token-nq", "--output", tmp_path / "b", "--n_docs", 2, "--max_new_tokens", 6)
    ours, theirs = ([(row["answer"], row["error"]) for row in answers_of(tmp_path / name)] for name in "ab")
    assert ours == theirs  # the same weights and tokenizers in another layout


def test_a_rag_model_of_2020_is_fine_tuned(hub, corpus, tmp_path):
    ragbeam(
        *("finetune", "--model", hub / "rag-token-nq", "--index", corpus / "index", "--output", tmp_path / "tuned"),
        *("--train", corpus / "questions.jsonl", "--eval", corpus / "questions.jsonl"),
        *("--max_steps", 1, "--n_docs", 2, "--max_answer_tokens", 4),
    )
    assert len(json.loads((tmp_path / "tuned" / "training.json").read_text())["losses"]) == 1


SEQUENCE = "RagSequenceForGeneration"


def of_another_rule(hub: Path, target: Path, name: str) -> Path:
    """The model as it would be of another class."""
    shutil.copytree(hub / "rag-token-nq", target)
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**config, "architectures": [name]}))
    return target


def test_a_rag_model_without_a_rule_is_refused_by_every_job_before_any_work(hub, corpus, tmp_path, capsys):
    model = of_another_rule(hub, tmp_path / "other", "RagModel")
    files = ["--questions", corpus / "questions.jsonl"]
    context_encoder = hub / "dpr-ctx_encoder-single-nq-base"
    commands = [
        ["answer", *files, "--index", corpus / "index", "--output", tmp_path / "out"],
        ["finetune", "--train", corpus / "questions.jsonl", "--index", corpus / "index", "--output", tmp_path / "out"],
        [
            *("run", "--input", corpus / "articles.jsonl", *files, "--encoder", context_encoder),
            *("--workspace", tmp_path / "out"),
        ],
    ]
    for command in commands:
        code, line = fails(capsys, *command, "--model", model)
        assert code == 2
        assert "(RagModel)" in line
        assert "RagTokenForGeneration or RagSequenceForGeneration" in line
        assert not (tmp_path / "out" / "manifest.json").exists()
        assert not (tmp_path / "out" / "passages").exists()


def test_the_class_takes_a_rag_sequence_model_as_transformers_does_and_says_so(hub, tmp_path, caplog):
    for kind, model in (("", hub / "rag-token-nq"), ("RagSequence", of_another_rule(hub, tmp_path / "s", SEQUENCE))):
        caplog.clear()
        assert RagTokenForGeneration.from_pretrained(model).config.n_docs == 2
        assert ("RagSequenceForGeneration is used" in caplog.text) == bool(kind)


def test_a_generator_whose_tokenizer_is_missing_is_refused_before_its_weights_are_read(hub, tmp_path, monkeypatch):
    shutil.copytree(hub / "bart-large", tmp_path / "bart")
    (tmp_path / "bart" / "vocab.json").unlink()
    monkeypatch.setattr("rag_ops.models.compose.load_generator", lambda directory: pytest.fail("it was read"))
    with pytest.raises(InputError, match="tokenizer"):
        compose(str(hub / "dpr-question_encoder-single-nq-base"), str(tmp_path / "bart"), str(tmp_path / "rag"))
