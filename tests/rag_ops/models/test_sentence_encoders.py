"""Vectors of sentence-transformers directories of every layout, beside those of sentence-transformers itself."""

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import transformers
from tokenizers import ByteLevelBPETokenizer

from rag_ops.compute import processor
from rag_ops.errors import InputError
from rag_ops.interop.model_card import RagbeamIndex
from rag_ops.models import checkpoints, prompting
from rag_ops.models.compose import compose
from rag_ops.models.dense_layers import DenseLayer
from rag_ops.models.encoder import Encoder
from rag_ops.models.sentence_encoders import EncoderChanges, EncoderConfig
from rag_ops.storage.manifests import read_manifest
from tests.conftest import LETTERS, WORDS, make_sentence_encoder
from tests.pipelines.workspace import fails, ragbeam, write_articles

PASSAGES = [("The Moon", "Ice is on the MOON"), ("River", "the river " * 40), ("", "War"), ("King of Ice", "")]
QUESTIONS = ["Who was the King", "what is ice", "how many moons " * 30, ""]
SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "initializer_range": 0.5,
}


def write_json(path: Path, value) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def cased_tokenizer():
    """A WordPiece tokenizer that knows capital letters."""
    letters = LETTERS + LETTERS[:26].upper()
    pieces = [*letters, *(f"##{letter}" for letter in letters), *WORDS, *".,/?!-'\"():"]
    vocabulary = {piece: n for n, piece in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *pieces])}
    return transformers.BertTokenizerFast(vocab=vocabulary, do_lower_case=False, model_max_length=64)


def byte_tokenizer(directory: Path):
    """A byte-level BPE tokenizer as RoBERTa's; the padding's id is 1."""
    directory.mkdir()
    bpe = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    bpe.train_from_iterator([" ".join(WORDS)] * 3, vocab_size=320, min_frequency=1, special_tokens=special)
    bpe.save_model(str(directory))
    (directory / "config.json").write_text(json.dumps({"model_type": "roberta"}))  # by which AutoTokenizer knows it
    return transformers.AutoTokenizer.from_pretrained(directory, model_max_length=32)


def saved_by_the_library(
    directory: Path, model, tokenizer, *, pooling="mean", normalize=True, dense=(), **options
) -> None:
    """Writes a directory by sentence-transformers' own `save`; `dense` are sizes and activations of Dense modules."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Dense
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    plain = directory.with_name("plain")
    model.save_pretrained(plain)
    tokenizer.save_pretrained(plain)
    layers = [Dense(*sizes, activation_function=activation) for *sizes, activation in dense]
    modules = [
        Transformer(str(plain)),
        Pooling(16, pooling_mode=pooling),
        *layers,
        *([Normalize()] if normalize else []),
    ]
    SentenceTransformer(modules=modules, device="cpu", **options).save(str(directory))


def current(tmp_path, tokenizer, bert):
    make_sentence_encoder(tmp_path / "encoder", tokenizer, bert, seed=1)


def saved_today(tmp_path, tokenizer, bert):
    torch.manual_seed(2)
    saved_by_the_library(tmp_path / "encoder", transformers.BertModel(transformers.BertConfig(**bert)), tokenizer)
    settings = json.loads((tmp_path / "encoder" / "1_Pooling" / "config.json").read_text())
    assert settings["pooling_mode"] == "mean", "the layout that this is about"


def limit_in_the_tokenizer(tmp_path, tokenizer, bert):
    saved_today(tmp_path, tokenizer, bert)
    path = tmp_path / "encoder" / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_max_length": 20}))


def folders_of_version_1(tmp_path, tokenizer, bert):
    directory = tmp_path / "encoder"
    make_sentence_encoder(directory, tokenizer, bert, seed=3, normalize=False)
    (directory / "0_Transformer").mkdir()
    for path in [path for path in directory.iterdir() if path.is_file() and path.name != "modules.json"]:
        path.rename(directory / "0_Transformer" / path.name)
    modules = json.loads((directory / "modules.json").read_text())
    write_json(directory / "modules.json", [{**modules[0], "path": "0_Transformer"}, modules[1]])
    write_json(directory / "config.json", {"__version__": "1.0.0"})


def lower_case_asked_for(tmp_path, tokenizer, bert):
    cased = cased_tokenizer()
    make_sentence_encoder(tmp_path / "encoder", cased, {**bert, "vocab_size": len(cased)}, seed=4)
    write_json(tmp_path / "encoder" / "sentence_bert_config.json", {"max_seq_length": 48, "do_lower_case": True})


def prompts(tmp_path, tokenizer, bert):
    make_sentence_encoder(tmp_path / "encoder", tokenizer, bert, seed=5)
    registered = {"query": "who is - ", "document": "ice of the ", "passage": "war"}
    library = {"prompts": registered, "default_prompt_name": "passage"}
    write_json(tmp_path / "encoder" / "config_sentence_transformers.json", library)


def a_prompt_that_the_library_leaves_out(tmp_path, tokenizer, bert):
    make_sentence_encoder(tmp_path / "encoder", tokenizer, bert, seed=5)
    library = {"prompts": {"query": "who is - ", "passage": "ice: "}}
    write_json(tmp_path / "encoder" / "config_sentence_transformers.json", library)


def lengths_by_side(tmp_path, tokenizer, bert):
    make_sentence_encoder(tmp_path / "encoder", tokenizer, bert, seed=6)
    lengths = {"max_seq_length": 48, "query_length": 9, "document_length": 21}
    write_json(tmp_path / "encoder" / "sentence_bert_config.json", lengths)


def roberta(tmp_path, tokenizer, bert):
    torch.manual_seed(7)
    pieces = byte_tokenizer(tmp_path / "bytes")
    config = transformers.RobertaConfig(vocab_size=len(pieces), max_position_embeddings=34, pad_token_id=1, **SIZES)
    saved_by_the_library(
        tmp_path / "encoder", transformers.RobertaModel(config), pieces, prompts={"query": "who: ", "document": "ice: "}
    )


def mpnet(tmp_path, tokenizer, bert):
    torch.manual_seed(8)
    config = transformers.MPNetConfig(vocab_size=len(tokenizer), max_position_embeddings=66, pad_token_id=1, **SIZES)
    saved_by_the_library(tmp_path / "encoder", transformers.MPNetModel(config), tokenizer, pooling="cls")


def distilbert(tmp_path, tokenizer, bert):
    torch.manual_seed(9)
    config = transformers.DistilBertConfig(
        vocab_size=len(tokenizer), dim=16, n_layers=2, n_heads=2, hidden_dim=32, max_position_embeddings=64
    )
    model = transformers.DistilBertModel(config)
    saved_by_the_library(tmp_path / "encoder", model, tokenizer, pooling="max", normalize=False)


def qwen(tmp_path, tokenizer, bert):
    torch.manual_seed(10)
    config = transformers.Qwen3Config(
        vocab_size=len(tokenizer), num_key_value_heads=1, head_dim=8, max_position_embeddings=64, **SIZES
    )
    saved_by_the_library(tmp_path / "encoder", transformers.Qwen3Model(config), tokenizer, pooling="lasttoken")


def weighted(tmp_path, tokenizer, bert):
    make_sentence_encoder(tmp_path / "encoder", tokenizer, bert, seed=11, normalize=False)
    write_json(
        tmp_path / "encoder" / "1_Pooling" / "config.json",
        {"pooling_mode_weightedmean_tokens": True},
    )


def root_of_the_length(tmp_path, tokenizer, bert):
    make_sentence_encoder(tmp_path / "encoder", tokenizer, bert, seed=12, normalize=False)
    write_json(tmp_path / "encoder" / "1_Pooling" / "config.json", {"pooling_mode_mean_sqrt_len_tokens": True})


def dense(tmp_path, tokenizer, bert):
    torch.manual_seed(13)
    layers = [(16, 24, False, torch.nn.Identity()), (24, 12, True, torch.nn.Tanh())]
    model = transformers.BertModel(transformers.BertConfig(**{**bert, "hidden_size": 16}))
    saved_by_the_library(tmp_path / "encoder", model, tokenizer, dense=layers)
    assert [layer.activation for layer in checkpoints.encoder_config(str(tmp_path / "encoder")).dense] == [
        *("Identity", "Tanh")
    ]


def cut_by_the_model(tmp_path, tokenizer, bert):
    torch.manual_seed(14)
    model = transformers.BertModel(transformers.BertConfig(**{**bert, "hidden_size": 16}))
    saved_by_the_library(tmp_path / "encoder", model, tokenizer, normalize=False, truncate_dim=10)
    assert checkpoints.dimension(str(tmp_path / "encoder")) == 10


LAYOUTS = [
    *(current, saved_today, limit_in_the_tokenizer, folders_of_version_1, lower_case_asked_for, prompts),
    *(a_prompt_that_the_library_leaves_out, lengths_by_side, roberta, mpnet, distilbert, qwen, weighted),
    *(root_of_the_length, dense, cut_by_the_model),
]


def library_of(directory: Path):
    from sentence_transformers import SentenceTransformer

    pooling = directory / "1_Pooling" / "config.json"
    values = json.loads(pooling.read_text())  # 6.2 wants the width, which the oldest files name otherwise
    pooling.write_text(json.dumps({"word_embedding_dimension": 16, **values}))
    return SentenceTransformer(str(directory), device="cpu")


def assert_same(found, expected) -> None:
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    assert ((found * expected).sum(1) / lengths).min() > 0.99999
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_vectors_are_the_librarys(layout, tmp_path, tokenizer, tiny_bert_config):
    layout(tmp_path, tokenizer, {**tiny_bert_config, "initializer_range": 0.5})
    directory = tmp_path / "encoder"
    library = library_of(directory)
    of_passages, of_questions = library.encode_document(PASSAGES), library.encode_query(QUESTIONS)
    titles, texts = map(list, zip(*PASSAGES, strict=True))
    assert_same(Encoder.load(str(directory), role="context").encode(titles, texts)[0], of_passages)
    assert_same(Encoder.load(str(directory), role="question").encode(QUESTIONS)[0], of_questions)
    asks = {lower_case_asked_for: "sentence_bert_config.json", prompts: "config_sentence_transformers.json"}
    if layout in asks:  # without what the layout asks for the vectors are others, so this test can fail
        write_json(directory / asks[layout], {})
        plain = Encoder.load(str(directory), role="context").encode(titles, texts)[0]
        assert np.abs(plain - of_passages).max() > 0.01


def test_minilm_saved_anew_by_the_library_gives_the_same_vectors(minilm, tmp_path):
    from sentence_transformers import SentenceTransformer

    texts = ["The king of the river", "Who wrote Animal Farm?", "word " * 400]
    library = SentenceTransformer(minilm, device="cpu")
    library.save(str(tmp_path / "saved"))
    assert checkpoints.encoder_config(str(tmp_path / "saved")) == EncoderConfig("mean", True, 256, False)
    for directory in (minilm, str(tmp_path / "saved")):
        assert_same(Encoder.load(directory, role="context").encode(texts)[0], library.encode_document(texts))


def test_a_passage_prompt_that_is_not_used_is_warned_of(tmp_path, tokenizer, tiny_bert_config, caplog):
    a_prompt_that_the_library_leaves_out(tmp_path, tokenizer, tiny_bert_config)
    with caplog.at_level(logging.WARNING, "ragbeam"):
        assert checkpoints.encoder_config(str(tmp_path / "encoder"), "context").prompt == ""
        assert checkpoints.encoder_config(str(tmp_path / "encoder"), "question").prompt == "who is - "
    assert "'passage'" in caplog.text


@pytest.mark.parametrize(
    "layout", [lower_case_asked_for, prompts, folders_of_version_1, roberta, dense, cut_by_the_model]
)
def test_a_composed_model_encodes_questions_as_the_library_does(
    layout, tmp_path, tokenizer, tiny_bert_config, tiny_bart
):
    layout(tmp_path, tokenizer, {**tiny_bert_config, "initializer_range": 0.5})
    compose(str(tmp_path / "encoder"), tiny_bart, str(tmp_path / "rag"))
    expected = library_of(tmp_path / "encoder").encode_query(QUESTIONS)
    assert_same(Encoder.load(str(tmp_path / "rag"), role="question").encode(QUESTIONS)[0], expected)
    if layout is roberta:
        return  # token ids alone do not do: see the next tests
    from rag_ops import RagTokenForGeneration, RagTokenizer

    made = RagTokenForGeneration.from_pretrained_question_encoder_generator(str(tmp_path / "encoder"), tiny_bart)
    loaded = RagTokenForGeneration.from_pretrained(tmp_path / "rag")
    longest = checkpoints.encoder_config(str(tmp_path / "rag"), "question").max_tokens
    encoded = RagTokenizer.from_pretrained(tmp_path / "rag")(
        QUESTIONS, padding=True, truncation=True, max_length=longest, return_tensors="pt"
    )
    for model in (made.eval(), loaded.eval()):
        with torch.inference_mode():
            found = model.question_encoder(encoded["input_ids"], attention_mask=encoded["attention_mask"])[0].numpy()
        assert_same(found, expected)


@pytest.mark.parametrize("layout", [prompts, dense])
def test_a_prefix_and_dimensions_give_the_librarys_vectors(layout, tmp_path, tokenizer, tiny_bert_config):
    layout(tmp_path, tokenizer, {**tiny_bert_config, "initializer_range": 0.5})
    library = library_of(tmp_path / "encoder")
    changes = EncoderChanges("war of the ", 7)
    encoder = Encoder.load(str(tmp_path / "encoder"), role="context", changes=changes)
    expected = library.encode(
        PASSAGES, prompt="war of the ", truncate_dim=7, normalize_embeddings=encoder.config.normalize
    )
    titles, texts = map(list, zip(*PASSAGES, strict=True))
    found = encoder.encode(titles, texts)[0]
    assert found.shape == (4, 7) == (4, encoder.dimension)
    assert_same(found, expected)
    whole = library.encode(PASSAGES, normalize_embeddings=encoder.config.normalize)
    assert np.abs(whole[:, :7] - found).max() > 0.01, "the prefix and the cut decide, or this could not fail"
    own = checkpoints.dimension(str(tmp_path / "encoder"))
    all_of_them = checkpoints.encoder_config(str(tmp_path / "encoder"), changes=EncoderChanges(None, own))
    assert all_of_them == checkpoints.encoder_config(str(tmp_path / "encoder"))
    with pytest.raises(InputError, match=f"--dimensions .*expected 1 to {own}"):
        checkpoints.encoder_config(str(tmp_path / "encoder"), changes=EncoderChanges(None, own + 1))


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"activation_function": "own_code.Swish"}, "own_code.Swish"),
        ({"in_features": 17}, "(12, 17)"),
        ({"out_features": 1 << 40}, "out_features 1099511627776"),
        ({"out_features": None}, "out_features None"),
        ({"out_features": 11}, "(2.weight: (12, 24))"),
        ({"use_residual": True}, "use_residual"),
        ({"module_input_name": "token_embeddings"}, "module_input_name"),
    ],
)
def test_a_dense_module_that_cannot_be_applied_is_refused_in_one_line(
    tmp_path, tokenizer, tiny_bert_config, change, names
):
    dense(tmp_path, tokenizer, tiny_bert_config)
    path = tmp_path / "encoder" / "3_Dense" / "config.json"
    values = json.loads(path.read_text())
    write_json(path, {**values, **change})
    with pytest.raises(InputError) as caught:
        Encoder.load(str(tmp_path / "encoder"), role="context")
    assert names in str(caught.value)
    assert "\n" not in str(caught.value)
    write_json(path, values)
    (path.parent / "model.safetensors").unlink()
    with pytest.raises(InputError, match="no weights"):
        Encoder.load(str(tmp_path / "encoder"), role="context")


@pytest.mark.skipif(not processor.computes("bfloat16"), reason="needs instructions for bfloat16")
def test_dense_modules_stay_in_float32_when_the_encoder_is_in_bfloat16(tmp_path, tokenizer, tiny_bert_config):
    dense(tmp_path, tokenizer, {**tiny_bert_config, "initializer_range": 0.5})
    encoder = Encoder.load(str(tmp_path / "encoder"), role="context", device="cpu", dtype="bfloat16")
    assert {parameter.dtype for parameter in encoder._head.parameters()} == {torch.float32}
    expected = library_of(tmp_path / "encoder").encode_document(QUESTIONS[:3])
    found = encoder.encode(QUESTIONS[:3])[0]
    assert (found * expected).sum(1).min() > 0.99


def test_a_prompt_that_joins_the_text_is_refused_where_there_are_token_ids_alone(
    tmp_path, tokenizer, tiny_bert_config, tiny_bart
):
    from rag_ops import RagTokenForGeneration

    roberta(tmp_path, tokenizer, tiny_bert_config)
    compose(str(tmp_path / "encoder"), tiny_bart, str(tmp_path / "rag"))
    ours = checkpoints.read_config(str(tmp_path / "rag"))["ragbeam"]
    with pytest.raises(InputError, match="prompt cannot be put among token ids"):
        prompting.check_question_prompt(ours)
    with pytest.raises(InputError, match="prompt cannot be put among token ids"):
        RagTokenForGeneration.from_pretrained(tmp_path / "rag").question_encoder(torch.tensor([[0, 5, 2]]))


def test_a_record_without_the_new_settings_is_what_it_was(sentence_encoder):
    config = checkpoints.encoder_config(sentence_encoder)
    assert config.as_dict() == {"pooling": "mean", "normalize": True, "max_tokens": 48, "zero_token_types": False}
    with_prompt = EncoderConfig("cls", False, 12, False, prompt="query: ", lower_case=True)
    with_layers = EncoderConfig("cls", False, 12, False, dense=(DenseLayer(8, 4), DenseLayer(4, 2)), dimensions=2)
    for one in (with_prompt, with_layers):
        assert EncoderConfig.from_dict(json.loads(json.dumps(one.as_dict()))) == one
    with pytest.raises(InputError, match="says more"):
        EncoderConfig.from_dict({**config.as_dict(), "colour": "red"})
    with pytest.raises(InputError, match="incomplete"):
        EncoderConfig.from_dict({"pooling": "cls"})


@pytest.mark.parametrize(
    ("file", "value", "names"),
    [
        ("1_Pooling/config.json", {"pooling_mode": ["mean", "cls"]}, "mean and cls"),
        ("1_Pooling/config.json", {"pooling_mode": "pooler"}, "pooler"),
        ("1_Pooling/config.json", {}, "none"),
        ("1_Pooling/config.json", [1], "no JSON object"),
        ("2_Normalize/config.json", {"module_input_name": "token_embeddings"}, "module_input_name"),
        ("config_sentence_transformers.json", {"model_type": "SparseEncoder"}, "SparseEncoder"),
        ("config_sentence_transformers.json", {"prompts": ["query: "]}, "prompts"),
        ("sentence_bert_config.json", {"transformer_task": "fill-mask"}, "fill-mask"),
        ("sentence_bert_config.json", {"query_expansion": {"length": 32}}, "query_expansion"),
        ("sentence_bert_config.json", {"model_args": {"subfolder": "x"}}, "model_args"),
        ("sentence_bert_config.json", {"modality_config": {"message": {}}}, "modality_config"),
        ("config_sentence_transformers.json", {"prompts": {"document": 5}}, "prompts"),
        ("sentence_bert_config.json", {"max_seq_length": "many"}, "many"),
        ("sentence_bert_config.json", {"modality_config": [1]}, "not as sentence-transformers writes them"),
        ("1_Pooling/config.json", {"pooling_mode": 5}, "not as sentence-transformers writes them"),
        ("modules.json", [{"path": "../x", "type": "sentence_transformers.models.Transformer"}], "modules.json"),
        ("modules.json", {"path": ""}, "modules.json"),
        ("modules.json", [{"path": "", "type": "sentence_transformers.models.Transformer"}], "modules"),
        ("modules.json", [{"path": "", "type": "own_code.Transformer"}], "own_code.Transformer"),
        ("modules.json", [], "modules"),
    ],
)
def test_what_would_change_a_vector_and_is_not_known_is_refused_by_name(sentence_encoder, tmp_path, file, value, names):
    shutil.copytree(sentence_encoder, tmp_path / "encoder")
    write_json(tmp_path / "encoder" / file, value)
    with pytest.raises(InputError) as caught:
        checkpoints.encoder_config(str(tmp_path / "encoder"))
    assert names in str(caught.value)
    assert "\n" not in str(caught.value)


def test_settings_that_change_nothing_are_no_reason_to_refuse(sentence_encoder, tmp_path):
    shutil.copytree(sentence_encoder, tmp_path / "encoder")
    settings = {"max_seq_length": 48, "model_args": {"trust_remote_code": True}, "unpad_inputs": None}
    write_json(tmp_path / "encoder" / "sentence_bert_config.json", settings)
    pooling = {"pooling_mode": "mean", "include_prompt": False}  # there is no prompt
    write_json(tmp_path / "encoder" / "1_Pooling" / "config.json", pooling)
    assert checkpoints.encoder_config(str(tmp_path / "encoder")) == checkpoints.encoder_config(sentence_encoder)
    write_json(tmp_path / "encoder" / "config_sentence_transformers.json", {"prompts": {"query": "who: "}})
    with pytest.raises(InputError, match="include_prompt"):
        checkpoints.encoder_config(str(tmp_path / "encoder"), "question")


def test_an_adapter_and_an_encoder_with_a_decoder_are_refused(sentence_encoder, tiny_bart, tmp_path):
    shutil.copytree(sentence_encoder, tmp_path / "encoder")
    write_json(tmp_path / "encoder" / "adapter_config.json", {})
    with pytest.raises(InputError, match="adapter"):
        Encoder.load(str(tmp_path / "encoder"), role="context")
    shutil.copytree(tiny_bart, tmp_path / "bart")
    for name in ("modules.json", "1_Pooling", "sentence_bert_config.json"):
        source, target = Path(sentence_encoder, name), tmp_path / "bart" / name
        shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
    with pytest.raises(InputError, match="is_encoder_decoder"):
        Encoder.load(str(tmp_path / "bart"), role="context")


def test_embed_and_answer_use_the_prompts_and_say_so(tmp_path, tokenizer, tiny_bert_config, tiny_bart):
    prompts(tmp_path, tokenizer, {**tiny_bert_config, "initializer_range": 0.5})
    encoder, rag = tmp_path / "encoder", tmp_path / "rag"
    write_articles(tmp_path / "articles.jsonl", count=6)
    write_json(tmp_path / "questions.jsonl", {"question": "who is the king of ice"})
    ragbeam("chunk", "--input", tmp_path / "articles.jsonl", "--output", tmp_path / "passages", "--num_shards", 1)
    ragbeam(
        *("embed", "--passages", tmp_path / "passages", "--encoder", encoder, "--output", tmp_path / "embeddings"),
        *("--dtype", "float32", "--compute_dtype", "float32"),
    )
    ragbeam("index", "--embeddings", tmp_path / "embeddings", "--output", tmp_path / "index", "--spec", "Flat")
    ragbeam("compose", "--question_encoder", encoder, "--generator", tiny_bart, "--output", rag)
    ragbeam(
        *("answer", "--questions", tmp_path / "questions.jsonl", "--index", tmp_path / "index", "--model", rag),
        *("--output", tmp_path / "answers", "--n_docs", 3, "--max_new_tokens", 2, "--compute_dtype", "float32"),
    )
    passages = rows_of(tmp_path / "passages", "chunk")
    library = library_of(encoder)
    vectors = library.encode_document([(row["title"], row["text"]) for row in passages])
    assert_same(np.array([row["vector"] for row in rows_of(tmp_path / "embeddings", "embed")]), vectors)
    scores = library.encode_query(["who is the king of ice"])[0] @ vectors.T
    (answer,) = rows_of(tmp_path / "answers", "answer")
    np.testing.assert_allclose([one["score"] for one in answer["passages"]], sorted(scores)[:-4:-1], atol=1e-5)
    manifest = read_manifest(str(tmp_path / "embeddings"), "embed")
    assert manifest.info["prompt"] == manifest.config["encoder"]["prompt"] == "ice of the "
    noted = checkpoints.read_config(str(rag))["ragbeam"]
    assert noted["question_encoder"]["prompt"] == "who is - "
    assert tokenizer.decode(noted["question_prompt_ids"]["ids"]).replace(" ", "") == "whois-"
    # A training that leaves the question encoder as it is finds the same passages with it, before and after.
    question = {"question": "who is the king of ice " * 20, "answer": "king"}  # longer than the encoder takes
    write_json(tmp_path / "train.jsonl", question)
    ragbeam(
        *("finetune", "--model", rag, "--index", tmp_path / "index", "--output", tmp_path / "tuned"),
        *("--train", tmp_path / "train.jsonl", "--eval", tmp_path / "train.jsonl"),
        *("--max_steps", 1, "--n_docs", 3, "--max_answer_tokens", 2, "--freeze", "rag.question_encoder."),
    )
    assert checkpoints.read_config(str(tmp_path / "tuned"))["ragbeam"] == noted
    ragbeam(
        *("answer", "--questions", tmp_path / "questions.jsonl", "--index", tmp_path / "index"),
        *("--model", tmp_path / "tuned", "--output", tmp_path / "after", "--n_docs", 3, "--max_new_tokens", 2),
        *("--compute_dtype", "float32"),
    )
    (after,) = rows_of(tmp_path / "after", "answer")
    assert [one["score"] for one in after["passages"]] == [one["score"] for one in answer["passages"]]


def test_prefixes_and_dimensions_from_embed_to_answer(tmp_path, tokenizer, tiny_bert_config, tiny_bart, capsys):
    dense(tmp_path, tokenizer, {**tiny_bert_config, "initializer_range": 0.5})
    encoder, rag = tmp_path / "encoder", tmp_path / "rag"
    write_articles(tmp_path / "articles.jsonl", count=6)
    write_json(tmp_path / "questions.jsonl", {"question": "who is the king of ice"})
    ragbeam("chunk", "--input", tmp_path / "articles.jsonl", "--output", tmp_path / "passages", "--num_shards", 1)
    embed = ["embed", "--passages", tmp_path / "passages", "--encoder", encoder, "--dtype", "float32"]
    embed += ["--compute_dtype", "float32", "--passage_prefix", "ice of the ", "--output", tmp_path / "embeddings"]
    code, line = fails(capsys, *embed, "--dimensions", 13)
    assert code == 2
    assert "--dimensions is more than the encoder gives: 13; expected 1 to 12" in line
    ragbeam(*embed, "--dimensions", 5)
    ragbeam("index", "--embeddings", tmp_path / "embeddings", "--output", tmp_path / "index", "--spec", "Flat")
    ragbeam("compose", "--question_encoder", encoder, "--generator", tiny_bart, "--output", rag)
    answer = ["answer", "--questions", tmp_path / "questions.jsonl", "--index", tmp_path / "index", "--model", rag]
    answer += ["--n_docs", 3, "--max_new_tokens", 2, "--compute_dtype", "float32"]
    code, line = fails(capsys, *answer, "--output", tmp_path / "none")
    assert code == 2
    assert "'ice of the '" in line
    assert "--query_prefix" in line
    library = library_of(encoder)
    passages = rows_of(tmp_path / "passages", "chunk")
    options = {"truncate_dim": 5, "normalize_embeddings": True}
    vectors = library.encode([(row["title"], row["text"]) for row in passages], prompt="ice of the ", **options)
    assert_same(np.array([row["vector"] for row in rows_of(tmp_path / "embeddings", "embed")]), vectors)
    for prefix in ("war: ", ""):
        ragbeam(*answer, "--output", tmp_path / f"answers {prefix}", "--query_prefix", prefix)
        scores = library.encode(["who is the king of ice"], prompt=prefix, **options)[0] @ vectors.T
        (row,) = rows_of(tmp_path / f"answers {prefix}", "answer")
        np.testing.assert_allclose([one["score"] for one in row["passages"]], sorted(scores)[:-4:-1], atol=1e-5)
        config = read_manifest(str(tmp_path / f"answers {prefix}"), "answer").config
        assert config.get("query_prefix") == (prefix or None), "the empty one is the model's own"
    search = ["search", "--questions", tmp_path / "questions.jsonl", "--index", tmp_path / "index", "--n_docs", 3]
    search += ["--question_encoder", encoder, "--compute_dtype", "float32", "--output", tmp_path / "hits"]
    code, line = fails(capsys, *search)
    assert code == 2
    assert "--query_prefix" in line
    ragbeam(*search, "--query_prefix", "")
    hits = rows_of(tmp_path / "hits", "search")
    assert [hit["score"] for hit in hits] == [one["score"] for one in row["passages"]]
    for stage in ("embed", "index"):
        info = read_manifest(str(tmp_path / {"embed": "embeddings", "index": "index"}[stage]), stage).info
        assert (info["dimension"], info["encoder_dimension"], info["passage_prefix"]) == (5, 12, "ice of the ")
        assert info["prompt"] == "ice of the "
    code, line = fails(
        *(capsys, "finetune", "--model", rag, "--index", tmp_path / "index", "--output", tmp_path / "tuned"),
        *("--train", tmp_path / "questions.jsonl", "--max_steps", 1),
    )
    assert code == 2
    assert "what stands before a question" in line
    with pytest.raises(InputError, match="first dimensions"):
        RagbeamIndex(str(tmp_path / "index"))


def rows_of(directory: Path, stage: str) -> list[dict]:
    shards = read_manifest(str(directory), stage).shards
    return [row for shard in shards for row in pq.read_table(directory / shard.path).to_pylist()]
