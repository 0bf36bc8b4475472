"""Tests of rag_ops.interop.exports: what transformers' RagRetriever opens and finds."""

import numpy as np
import pytest
import transformers

from rag_ops.retrieval.passage_index import PassageIndex
from tests.pipelines.workspace import fails, ragbeam, write_corpus

ROWS, DIMENSION = 700, 16


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    """Of different length."""
    generator = np.random.default_rng(0)
    return generator.standard_normal((ROWS, DIMENSION)).astype(np.float32) * generator.uniform(1, 2, (ROWS, 1))


@pytest.mark.parametrize("spec", ["Flat", "SQ8", "IVF8,SQ8"])
def test_an_export_opens_in_ragretriever_and_finds_what_our_search_finds(tmp_path, vectors, spec, tokenizer, capsys):
    write_corpus(tmp_path, np.array_split(vectors.astype(np.float32), 3), normalize=False)
    ragbeam(
        *("index", "--embeddings", tmp_path / "embeddings", "--output", tmp_path / "index"),
        *("--spec", spec, "--num_shards", 3, "--recall_queries", 0),
    )
    ragbeam("export", "--index", tmp_path / "index", "--output", tmp_path / "out")
    assert "RagRetriever.from_pretrained" in capsys.readouterr().out
    config = transformers.RagConfig(
        question_encoder={"model_type": "dpr"},
        generator={"model_type": "bart"},
        index_name="custom",
        retrieval_vector_size=DIMENSION,
        passages_path=str(tmp_path / "out" / "dataset"),
        index_path=str(tmp_path / "out" / "index.faiss"),
    )
    retriever = transformers.RagRetriever(config, tokenizer, tokenizer)
    questions = np.random.default_rng(2).standard_normal((20, DIMENSION)).astype(np.float32)
    embeds, rows, documents = retriever.retrieve(questions, 5)
    hits = PassageIndex(str(tmp_path / "index")).search(questions, 5)
    np.testing.assert_array_equal(rows, hits.rows)
    np.testing.assert_allclose(np.einsum("qd,qkd->qk", questions, embeds), hits.scores, atol=0.2)
    assert documents[0]["text"] == [f"passage {row}" for row in hits.rows[0]]


def test_a_graph_is_not_exported(tmp_path, vectors, capsys):
    write_corpus(tmp_path, [vectors.astype(np.float32)], normalize=False)
    ragbeam(
        *("index", "--embeddings", tmp_path / "embeddings", "--output", tmp_path / "index"),
        *("--spec", "HNSW16", "--recall_queries", 0),
    )
    code, line = fails(capsys, "export", "--index", tmp_path / "index", "--output", tmp_path / "out")
    assert code == 2
    assert "a graph index cannot be exported: 'HNSW16'" in line


def test_vectors_cut_to_dimensions_are_not_exported_and_a_prompt_is_told(tmp_path, vectors, capsys, caplog):
    """The layout names neither; a model of transformers gives whole vectors, but may have the prompt."""
    for name, more in (("cut", {"encoder_dimension": 2 * DIMENSION}), ("told", {"prompt": "passage: "})):
        write_corpus(tmp_path / name, [vectors.astype(np.float32)], normalize=False, **more)
        ragbeam(
            *("index", "--embeddings", tmp_path / name / "embeddings", "--output", tmp_path / name / "index"),
            *("--spec", "Flat", "--recall_queries", 0),
        )
    code, line = fails(capsys, "export", "--index", tmp_path / "cut" / "index", "--output", tmp_path / "out")
    assert code == 2
    assert "cut to --dimensions cannot be exported" in line
    assert f"'{DIMENSION} of {2 * DIMENSION} numbers'" in line
    assert "run embed without --dimensions" in line
    assert not (tmp_path / "out").exists()
    ragbeam("export", "--index", tmp_path / "told" / "index", "--output", tmp_path / "out")
    assert "encoded behind 'passage: '" in caplog.text
