"""The model card's snippets, and transformers' retriever interface over our index."""

import copy
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from rag_ops import AutoTokenizer, RagRetriever, RagTokenForGeneration, RagTokenizer
from rag_ops.errors import InputError
from rag_ops.interop.model_card import INDEX_VARIABLE, RagbeamIndex
from rag_ops.models.compose import compose
from rag_ops.retrieval.passage_index import PassageIndex
from rag_ops.storage import store
from rag_ops.storage.manifests import read_manifest
from rag_ops.storage.parquet import read_parquet
from tests.pipelines.workspace import ragbeam, write_articles


@pytest.fixture(scope="module")
def indexes(tmp_path_factory, dpr_pair) -> dict[str, str]:
    """A small index of one shard, "exact", and the same passages in three shards, "legacy"; by the tiny DPR encoder."""
    directory = tmp_path_factory.mktemp("indexes")
    articles = directory / "articles.jsonl"
    write_articles(articles)
    run = [
        ["chunk", "--input", articles, "--output", directory / "passages", "--passage_words", 8, "--num_shards", 4],
        ["embed", "--passages", directory / "passages", "--encoder", dpr_pair[0], "--output", directory / "embeddings"],
        ["index", "--embeddings", directory / "embeddings", "--output", directory / "exact", "--num_shards", 1],
        ["index", "--embeddings", directory / "embeddings", "--output", directory / "legacy", "--num_shards", 3],
    ]
    for command in run:
        ragbeam(*command)
    return {name: str(directory / name) for name in ("exact", "legacy", "passages", "embeddings")}


def stored_vectors(indexes: dict[str, str]) -> np.ndarray:
    """All vectors as embed stored them, in row order, read without our own readers."""
    url = indexes["embeddings"]
    tables = [read_parquet(store.join(url, shard.path)) for shard in read_manifest(url, "embed").shards]
    return np.array([row for table in tables for row in table["vector"].to_pylist()], np.float32)


def stored_passages(indexes: dict[str, str]) -> list[dict]:
    url = indexes["passages"]
    shards = read_manifest(url, "chunk").shards
    return [row for shard in shards for row in read_parquet(store.join(url, shard.path)).to_pylist()]


@pytest.fixture(scope="module")
def card_model(tmp_path_factory, dpr_pair, tiny_bart, indexes) -> str:
    """What the card's first snippet saves."""
    directory = str(tmp_path_factory.mktemp("card"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(INDEX_VARIABLE, indexes["exact"])
        # The card, with our names of models and directory:
        model = RagTokenForGeneration.from_pretrained_question_encoder_generator(dpr_pair[1], tiny_bart)
        question_encoder_tokenizer = AutoTokenizer.from_pretrained(dpr_pair[1])
        generator_tokenizer = AutoTokenizer.from_pretrained(tiny_bart)
        tokenizer = RagTokenizer(question_encoder_tokenizer, generator_tokenizer)
        model.config.use_dummy_dataset = True
        model.config.index_name = "exact"
        retriever = RagRetriever(model.config, question_encoder_tokenizer, generator_tokenizer)
        model.save_pretrained(directory)
        tokenizer.save_pretrained(directory)
        retriever.save_pretrained(directory)
    return directory


def test_the_cards_second_snippet(card_model, indexes, monkeypatch):
    monkeypatch.setenv(INDEX_VARIABLE, indexes["exact"])
    tokenizer = RagTokenizer.from_pretrained(card_model)
    retriever = RagRetriever.from_pretrained(card_model)
    model = RagTokenForGeneration.from_pretrained(card_model, retriever=retriever)
    input_dict = tokenizer.prepare_seq2seq_batch("who is the king of ice", "the moon", return_tensors="pt")
    outputs = model(input_dict["input_ids"], labels=input_dict["labels"])
    loss = outputs.loss
    loss.mean().backward()
    assert loss.item() > 0
    for part in (model.rag.question_encoder, model.rag.generator):
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in part.parameters()), "no gradient"
    generated = model.generate(input_ids=input_dict["input_ids"], max_new_tokens=5)
    assert isinstance(tokenizer.batch_decode(generated, skip_special_tokens=True)[0], str)


def test_the_cards_legacy_index_is_the_full_one(card_model, indexes):
    config = transformers.RagConfig.from_pretrained(card_model)
    config.index_name, config.use_dummy_dataset, config.index_path = "legacy", False, indexes["legacy"]
    retriever = RagRetriever.from_pretrained(card_model, config=config)
    assert len(retriever.index.passages.shards) == 3


def test_the_index_is_an_argument_too(card_model, indexes):
    retriever = RagRetriever.from_pretrained(card_model, index_path=indexes["legacy"])
    assert len(retriever.index.passages.shards) == 3


def test_questions_are_uncased(card_model, indexes, monkeypatch):
    monkeypatch.setenv(INDEX_VARIABLE, indexes["exact"])
    retriever = RagRetriever.from_pretrained(card_model)
    tokens = retriever.question_encoder_tokenizer(["WHO is the King"], return_tensors="pt")["input_ids"]
    found = retriever(tokens, np.zeros((1, 16), np.float32), n_docs=2, return_tensors="pt")
    texts = retriever.generator_tokenizer.batch_decode(found["context_input_ids"], skip_special_tokens=True)
    assert all(text.endswith("/ / who is the king") for text in texts)


def test_a_long_context_keeps_the_question(card_model, indexes, monkeypatch):
    monkeypatch.setenv(INDEX_VARIABLE, indexes["exact"])
    config = transformers.RagConfig.from_pretrained(card_model)
    config.max_combined_length = 15
    retriever = RagRetriever.from_pretrained(card_model, config=config)
    tokens = retriever.question_encoder_tokenizer(["who is the king"], return_tensors="pt")["input_ids"]
    found = retriever(tokens, np.zeros((1, 16), np.float32), n_docs=2, return_tensors="pt")
    assert found["context_input_ids"].shape[1] == 15
    texts = retriever.generator_tokenizer.batch_decode(found["context_input_ids"], skip_special_tokens=True)
    assert all(text.endswith("who is the king") for text in texts)


@pytest.mark.parametrize("name", ["exact", "legacy"])
def test_rows_scores_and_texts_are_brute_forces(indexes, name):
    index = RagbeamIndex(indexes[name])
    index.init_index()
    vectors, passages = stored_vectors(indexes), stored_passages(indexes)
    questions = np.random.default_rng(3).standard_normal((7, vectors.shape[1])).astype(np.float32)
    scores = questions @ vectors.T
    expected = np.argsort(-scores, axis=1, kind="stable")[:, :5]
    rows, found = index.get_top_docs(questions, 5)
    np.testing.assert_array_equal(rows, expected)
    np.testing.assert_array_equal(found, vectors[expected])
    for question, columns in enumerate(index.get_doc_dicts(rows)):
        assert columns["text"] == [passages[row]["text"] for row in expected[question]]
        assert columns["title"] == [passages[row]["title"] for row in expected[question]]


def test_theirs_loads_what_we_save_and_ours_what_they_save(card_model, tmp_path, dpr_pair, tiny_bart):
    ids = torch.tensor([[2, 9, 8, 3]])
    inputs = {"context_input_ids": ids.repeat(2, 1), "context_attention_mask": torch.ones((2, 4), dtype=torch.long)}
    inputs |= {"doc_scores": torch.tensor([[1.0, 2.0]]), "decoder_input_ids": ids, "n_docs": 2}
    theirs, ours = (
        kind.from_pretrained(card_model).eval() for kind in (transformers.RagTokenForGeneration, RagTokenForGeneration)
    )
    with torch.inference_mode():
        torch.testing.assert_close(theirs(**inputs).logits, ours(**inputs).logits)
    assert isinstance(transformers.RagTokenizer.from_pretrained(card_model), transformers.RagTokenizer)
    made = transformers.RagTokenForGeneration.from_pretrained_question_encoder_generator(dpr_pair[1], tiny_bart)
    made.save_pretrained(tmp_path)
    with torch.inference_mode():
        expected = made.eval()(**inputs).logits
        torch.testing.assert_close(RagTokenForGeneration.from_pretrained(tmp_path).eval()(**inputs).logits, expected)


def test_a_sentence_encoder_gives_one_vector_a_question(tmp_path, sentence_encoder, tiny_bart):
    from rag_ops.models.encoder import Encoder

    compose(sentence_encoder, tiny_bart, str(tmp_path))
    model, tokenizer = RagTokenForGeneration.from_pretrained(tmp_path).eval(), RagTokenizer.from_pretrained(tmp_path)
    questions = ["who is the king of ice", "where is the moon"]
    encoded = tokenizer(questions, return_tensors="pt", padding=True)
    with torch.inference_mode():
        found = model.question_encoder(encoded["input_ids"], attention_mask=encoded["attention_mask"])[0].numpy()
    expected, _ = Encoder.load(str(tmp_path), role="question", device="cpu").encode(questions)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.fixture
def hub_style(indexes, tmp_path) -> dict[str, str]:
    """The passages of the index as a `datasets` directory and a FAISS file, made by those libraries."""
    import faiss
    from datasets import Dataset

    vectors, passages = stored_vectors(indexes), stored_passages(indexes)
    columns = {name: [row[name] for row in passages] for name in ("title", "text")}
    dataset = Dataset.from_dict({**columns, "embeddings": vectors.tolist()})
    dataset.save_to_disk(tmp_path / "dataset")
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    faiss.write_index(index, str(tmp_path / "index.faiss"))
    where = {"passages_path": str(tmp_path / "dataset"), "index_path": str(tmp_path / "index.faiss")}
    return {"index_name": "custom", **where}


def test_score_scale_reaches_the_scores_whatever_the_index(indexes, hub_style, tmp_path, dpr_pair, tiny_bart):
    compose(dpr_pair[1], tiny_bart, str(tmp_path / "rag"), score_scale=7.0)
    questions = np.random.default_rng(2).standard_normal((2, 16)).astype(np.float32)
    vectors = stored_vectors(indexes)
    best = -np.sort(-questions @ vectors.T, axis=1)[:, :3]  # rows may differ: some passages are alike
    for where in ({"index_path": indexes["exact"]}, {"index_path": indexes["legacy"]}, hub_style):
        retriever = RagRetriever.from_pretrained(tmp_path / "rag", **where)
        found, rows, _ = retriever.retrieve(questions, 3)
        np.testing.assert_allclose(found, 7 * vectors[rows], rtol=1e-6)
        np.testing.assert_allclose((questions[:, None] * found).sum(-1), 7 * best, rtol=1e-4)
    from datasets import load_from_disk

    dataset = load_from_disk(hub_style["passages_path"])
    dataset.load_faiss_index("embeddings", hub_style["index_path"])
    retriever = RagRetriever.from_pretrained(tmp_path / "rag", dataset)
    found, rows, _ = retriever.retrieve(questions, 3)
    np.testing.assert_allclose(found, 7 * vectors[rows], rtol=1e-6)


@pytest.mark.parametrize("kind", [transformers.RagTokenForGeneration, RagTokenForGeneration])
def test_parts_are_given_as_transformers_has_them(kind, dpr_pair, tiny_bart):
    question_encoder = transformers.DPRQuestionEncoder.from_pretrained(dpr_pair[1])
    generator = transformers.AutoModelForSeq2SeqLM.from_pretrained(tiny_bart)
    names = {
        "question_encoder_pretrained_model_name_or_path": dpr_pair[1],
        "generator_pretrained_model_name_or_path": tiny_bart,
    }
    make = kind.from_pretrained_question_encoder_generator
    made = [
        make(**names),
        make(Path(dpr_pair[1]), Path(tiny_bart)),
        make(dpr_pair[1], tiny_bart, None),
        make(question_encoder_model=question_encoder, generator_model=generator),
        make(dpr_pair[1], generator_model=generator, n_docs=3),
        make(dpr_pair[1], tiny_bart, question_encoder_hidden_dropout_prob=0.3),
    ]
    inputs = {"input_ids": torch.tensor([[2, 9, 3]]), "attention_mask": torch.ones((1, 3), dtype=torch.long)}
    with torch.inference_mode():
        expected = question_encoder.eval()(**inputs)[0]
        for model in made:
            torch.testing.assert_close(model.eval().question_encoder(**inputs)[0], expected)
            torch.testing.assert_close(dict(model.generator.state_dict()), dict(generator.state_dict()))
    assert made[4].config.n_docs == 3
    assert made[5].question_encoder.config.hidden_dropout_prob == 0.3


def test_a_loaded_sentence_encoder_pools_as_its_directory_says(sentence_encoder, tiny_bart):
    from rag_ops.models.encoder import Encoder

    loaded = transformers.AutoModel.from_pretrained(sentence_encoder)
    model = RagTokenForGeneration.from_pretrained_question_encoder_generator(
        question_encoder_model=loaded,
        generator_pretrained_model_name_or_path=tiny_bart,
    )
    ids = AutoTokenizer.from_pretrained(sentence_encoder)(["who is the king"], return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        found = model.eval().question_encoder(ids)[0].numpy()
    expected, _ = Encoder.load(sentence_encoder, role="question").encode(["who is the king"])
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_model_with_a_sentence_encoder_is_pickled_copied_and_saved_whole(tiny_rag, tmp_path):
    model = RagTokenForGeneration.from_pretrained(tiny_rag).eval()
    torch.save(model, tmp_path / "whole.pt")
    ids = torch.tensor([[2, 9, 8, 3]])
    with torch.inference_mode():
        expected = model.question_encoder(ids)[0]
        assert expected.shape == (1, 16)
        for other in (
            pickle.loads(pickle.dumps(model)),  # noqa: S301 - our own
            copy.deepcopy(model),
            torch.load(tmp_path / "whole.pt", weights_only=False),  # as a user of transformers would
        ):
            assert torch.equal(other.question_encoder(ids)[0], expected)


def test_the_tokenizer_of_a_rag_model_is_ours_by_each_name(tiny_rag, tiny_bart):
    for found in (AutoTokenizer.from_pretrained(tiny_rag), RagTokenizer.from_pretrained(Path(tiny_rag))):
        assert isinstance(found, RagTokenizer)
        expected = found.question_encoder("the moon")["input_ids"]
        assert found.prepare_seq2seq_batch(["the moon"])["input_ids"] == [expected]
    one = AutoTokenizer.from_pretrained(tiny_rag, subfolder="generator_tokenizer")
    assert one("ice")["input_ids"] == transformers.AutoTokenizer.from_pretrained(tiny_bart)("ice")["input_ids"]
    assert not isinstance(AutoTokenizer.from_pretrained(tiny_bart), transformers.RagTokenizer)


def test_a_generator_of_bytes_whose_tokenizer_is_slow_gets_transformers_contexts(hub_style, dpr_pair, tmp_path):
    torch.manual_seed(0)
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2, "vocab_size": 384}
    config = transformers.T5Config(**sizes, decoder_start_token_id=0, eos_token_id=1, pad_token_id=0)
    transformers.T5ForConditionalGeneration(config).save_pretrained(tmp_path / "byt5")
    slow = transformers.ByT5Tokenizer()
    assert not slow.is_fast
    slow.save_pretrained(tmp_path / "byt5")
    compose(dpr_pair[1], str(tmp_path / "byt5"), str(tmp_path / "rag"))
    ours, theirs = (
        kind.from_pretrained(tmp_path / "rag", **hub_style) for kind in (RagRetriever, transformers.RagRetriever)
    )
    ids = ours.question_encoder_tokenizer(["who is the king"])["input_ids"]
    vectors = np.random.default_rng(4).standard_normal((1, 16)).astype(np.float32)
    found, expected = (one(ids, vectors, n_docs=2, return_tensors="pt") for one in (ours, theirs))
    for row, other in zip(found["context_input_ids"], expected["context_input_ids"], strict=True):
        assert row[row != 0].tolist() == other[other != 0].tolist()
        assert len(row[row != 0]) > 20


def test_tokenizers_without_a_model_load_by_a_configuration_that_is_given(tiny_rag, tmp_path):
    config = transformers.RagConfig.from_pretrained(tiny_rag)
    transformers.RagTokenizer.from_pretrained(tiny_rag).save_pretrained(tmp_path)
    found, expected = RagTokenizer.from_pretrained(tmp_path, config=config), RagTokenizer.from_pretrained(tiny_rag)
    assert found("who is the king")["input_ids"] == expected("who is the king")["input_ids"]
    with pytest.raises(InputError, match=r"config\.json"):
        RagTokenizer.from_pretrained(tmp_path)


def test_dprs_own_files_are_refused_with_what_reads_them(card_model, tmp_path):
    (tmp_path / "psgs_w100.tsv.pkl").write_bytes(b"a pickle")
    with pytest.raises(InputError, match="ragbeam import"):
        RagRetriever.from_pretrained(card_model, index_name="legacy", index_path=str(tmp_path))


def test_no_index_is_one_clear_error(card_model, monkeypatch):
    monkeypatch.delenv(INDEX_VARIABLE, raising=False)
    config = transformers.RagConfig.from_pretrained(card_model)
    config.use_dummy_dataset = False
    with pytest.raises(InputError, match="names no index"):
        RagRetriever.from_pretrained(card_model, config=config)


def test_tokenizers_that_lie_without_a_model_do_for_a_retriever_with_a_configuration(card_model, indexes, tmp_path):
    RagTokenizer.from_pretrained(card_model).save_pretrained(tmp_path)
    assert not (tmp_path / "config.json").exists()
    config = transformers.RagConfig.from_pretrained(card_model, index_path=indexes["exact"])
    assert RagRetriever.from_pretrained(tmp_path, config=config).index.passages.shards


def test_an_index_of_another_encoder_is_one_clear_error(indexes, tmp_path, dpr_pair, tiny_bart, sentence_encoder):
    compose(dpr_pair[1], tiny_bart, str(tmp_path / "rag"), context_encoder=sentence_encoder)
    for given in ({"index_path": indexes["exact"]}, {"index_name": "legacy", "index_path": indexes["legacy"]}):
        with pytest.raises(InputError, match="context encoder's digest differs"):
            RagRetriever.from_pretrained(tmp_path / "rag", **given)


def test_more_passages_than_there_are_or_another_dimension_is_one_clear_error(indexes):
    index = PassageIndex(indexes["exact"])
    with pytest.raises(InputError, match="more passages"):
        index.search(np.zeros((1, 16), np.float32), index.rows + 1)
    with pytest.raises(InputError, match="does not go with the index"):
        index.search(np.zeros((1, 8), np.float32), 1)
