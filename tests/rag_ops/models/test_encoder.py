"""Vectors against an unbatched loop over the bare models; batches by token budget; errors that name the model."""

import gc
import inspect
import threading

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel, DPRContextEncoder, DPRQuestionEncoder

from rag_ops.compute.attention import UNSEEN, never_look_at_masks
from rag_ops.compute.batching import token_batches
from rag_ops.compute.devices import pick_dtype
from rag_ops.defaults import ENCODER_BATCH_ROWS, ENCODER_BATCH_TOKENS
from rag_ops.errors import InputError, JobError
from rag_ops.models import checkpoints
from rag_ops.models import encoder as encoder_module
from rag_ops.models.encoder import Encoder
from rag_ops.storage.manifests import read_manifest
from rag_ops.storage.parquet import read_parquet
from tests.conftest import make_sentence_encoder, pages_of, write_dump
from tests.pipelines.workspace import ragbeam
from tests.rag_ops.compute.peak_bytes import PeakBytes

TITLES = ["the moon", "river", "", "the king of ice"]
TEXTS = ["ice is on the moon", "the river " * 40, "war", ""]
QUESTIONS = ["Who was the King", "what is ice", "how many moons " * 30]


def one_by_one(model, tokenizer, inputs, *, length, pool, zero_types=False):
    vectors = []
    for arguments in inputs:
        # Lists of one: a bare empty string as second text is taken for no second text.
        encoded = tokenizer(*([text] for text in arguments), truncation=True, max_length=length, return_tensors="pt")
        if zero_types:
            encoded["token_type_ids"] = torch.zeros_like(encoded["input_ids"])
        with torch.inference_mode():
            vectors.append(pool(model(**encoded))[0].numpy())
    return np.stack(vectors)


def mean_normalised(output):
    return torch.nn.functional.normalize(output.last_hidden_state.mean(1), dim=-1)


@pytest.mark.parametrize("batch_tokens", [1, 100, 10_000])
def test_sentence_encoder_gives_what_an_unbatched_loop_gives(sentence_encoder, batch_tokens):
    encoder = Encoder.load(sentence_encoder, role="context")
    vectors, cut = encoder.encode(TITLES, TEXTS, batch_tokens=batch_tokens)
    model, tokenizer = (
        AutoModel.from_pretrained(sentence_encoder).eval(),
        AutoTokenizer.from_pretrained(sentence_encoder),
    )
    pairs = zip(TITLES, TEXTS, strict=True)
    np.testing.assert_allclose(vectors, one_by_one(model, tokenizer, pairs, length=48, pool=mean_normalised), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert cut.tolist() == [False, True, False, False]


def test_dpr_context_encoder_pools_itself_with_segment_zero(dpr_pair):
    encoder = Encoder.load(dpr_pair[0], role="context")
    vectors, _ = encoder.encode(TITLES, TEXTS)
    model, tokenizer = DPRContextEncoder.from_pretrained(dpr_pair[0]).eval(), AutoTokenizer.from_pretrained(dpr_pair[0])
    expected = one_by_one(
        model, tokenizer, zip(TITLES, TEXTS, strict=True), length=64, pool=lambda o: o.pooler_output, zero_types=True
    )
    np.testing.assert_allclose(vectors, expected, atol=1e-5)


def test_dpr_question_encoder(dpr_pair):
    encoder = Encoder.load(dpr_pair[1], role="question")
    vectors, cut = encoder.encode(QUESTIONS)
    model, tokenizer = (
        DPRQuestionEncoder.from_pretrained(dpr_pair[1]).eval(),
        AutoTokenizer.from_pretrained(dpr_pair[1]),
    )
    expected = one_by_one(model, tokenizer, [(q,) for q in QUESTIONS], length=64, pool=lambda o: o.pooler_output)
    np.testing.assert_allclose(vectors, expected, atol=1e-5)
    assert cut.tolist() == [False, False, True]


def test_a_rag_models_question_encoder_is_the_encoder_that_it_was_composed_of(tiny_rag, sentence_encoder):
    of_rag, _ = Encoder.load(tiny_rag, role="question").encode(QUESTIONS)
    alone, _ = Encoder.load(sentence_encoder, role="question").encode(QUESTIONS)
    assert of_rag.tolist() == alone.tolist()


@pytest.mark.parametrize("mode", ["cls_token", "max_tokens"])
def test_other_poolings(tmp_path, tokenizer, tiny_bert_config, mode):
    directory = make_sentence_encoder(tmp_path, tokenizer, tiny_bert_config, seed=5, mode=mode, normalize=False)
    vectors, _ = Encoder.load(directory, role="context").encode(QUESTIONS)
    model = AutoModel.from_pretrained(directory).eval()
    pools = {"cls_token": lambda o: o.last_hidden_state[:, 0], "max_tokens": lambda o: o.last_hidden_state.amax(1)}
    expected = one_by_one(model, tokenizer, [(q,) for q in QUESTIONS], length=48, pool=pools[mode])
    np.testing.assert_allclose(vectors, expected, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_vector_is_the_same_bytes_whatever_is_encoded_beside_it(minilm, excerpt_passages, dtype):
    titles, texts = excerpt_passages
    encoder = Encoder.load(minilm, role="context", threads=2)
    whole, cut = encoder.encode(titles, texts, dtype=np.dtype(dtype))
    assert len({len(encoder.tokenize([title], [text])[0].ids) for title, text in zip(titles, texts, strict=True)}) > 20
    for some in (range(0, 60, 3), [58, 3, 41], list(range(59, -1, -1)), [17]):
        part, part_cut = encoder.encode([titles[n] for n in some], [texts[n] for n in some], dtype=np.dtype(dtype))
        assert part.tobytes() == whole[list(some)].tobytes()
        assert part_cut.tolist() == cut[list(some)].tolist()
    one_thread = Encoder.load(minilm, role="context", threads=1)
    assert one_thread.encode(titles[:20], texts[:20], dtype=np.dtype(dtype))[0].tobytes() == whole[:20].tobytes()


@pytest.fixture(scope="module")
def excerpt_passages(excerpt, tmp_path_factory) -> tuple[list[str], list[str]]:
    """Titles and texts of 60 passages of the real excerpt, some of them cut short."""
    output = tmp_path_factory.mktemp("excerpt") / "passages"
    head, pages = pages_of(excerpt)
    articles = [page for page in pages if "#REDIRECT" not in page]
    dump = write_dump(output.parent / "pages.xml.bz2", head, articles[:3])
    ragbeam("chunk", "--input", dump, "--output", output, "--num_shards", 1)
    shard = read_manifest(str(output), "chunk").shards[0]
    table = read_parquet(f"{output}/{shard.path}", ["title", "text"]).slice(0, 60)
    assert table.num_rows == 60
    texts = [" ".join(text.split()[: 100 - n % 60]) for n, text in enumerate(table["text"].to_pylist())]
    return table["title"].to_pylist(), texts


def test_windows_do_not_change_the_order(sentence_encoder, monkeypatch):
    encoder = Encoder.load(sentence_encoder, role="question")
    texts = [f"moon {number} " * (number % 7 + 1) for number in range(50)]
    whole, _ = encoder.encode(texts)
    monkeypatch.setattr(encoder_module, "WINDOW_ROWS", 8)
    parts, _ = encoder.encode(texts)
    assert parts.tobytes() == whole.tobytes()


def test_no_texts_give_no_vectors(sentence_encoder):
    vectors, cut = Encoder.load(sentence_encoder, role="question").encode([])
    assert vectors.shape == (0, 16)
    assert len(cut) == 0


def test_every_row_comes_in_exactly_one_batch_within_the_budget():
    lengths = np.random.default_rng(0).integers(1, 50, 300).tolist()
    batches = list(token_batches(lengths, 200))
    assert sorted(np.concatenate(batches).tolist()) == list(range(300))
    assert all(len(batch) * max(lengths[row] for row in batch) <= 200 or len(batch) == 1 for batch in batches)
    assert sum(map(len, batches)) / len(batches) > 4


def test_threads_are_put_back(sentence_encoder):
    before = torch.get_num_threads()
    Encoder.load(sentence_encoder, role="question", threads=1).encode(QUESTIONS)
    assert torch.get_num_threads() == before


def test_a_vector_that_is_not_finite_names_its_row(sentence_encoder):
    encoder = Encoder.load(sentence_encoder, role="question")
    with torch.no_grad():
        encoder._model.embeddings.word_embeddings.weight[encoder._tokenizer.convert_tokens_to_ids("war")] = float("inf")
    with pytest.raises(JobError, match="row 1"):
        encoder.encode(["moon", "war"])


def test_a_batch_that_memory_does_not_hold_is_halved(sentence_encoder, monkeypatch):
    encoder = Encoder.load(sentence_encoder, role="question")
    texts = [f"moon {number} " * (number % 7 + 1) for number in range(40)]
    whole, _ = encoder.encode(texts)
    real, sizes = encoder._encode_batch, []

    def small_memory(batch, shape):
        sizes.append(shape[0])
        if shape[0] > 3:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return real(batch, shape)

    monkeypatch.setattr(encoder, "_encode_batch", small_memory)
    found, _ = encoder.encode(texts)
    assert max(sizes) > 3
    np.testing.assert_allclose(found, whole, atol=1e-6)


@pytest.mark.parametrize("window_rows", [8, 4096])
def test_a_text_that_fails_is_told_and_leaves_the_others_as_without_it(sentence_encoder, monkeypatch, window_rows):
    monkeypatch.setattr(encoder_module, "WINDOW_ROWS", window_rows)
    encoder = Encoder.load(sentence_encoder, role="question")
    texts = [f"moon {number} " * (number % 7 + 1) for number in range(8)]
    without, _ = encoder.encode([text for number, text in enumerate(texts) if number != 4], batch_tokens=60)
    real_encode, real_tokenize = encoder._encode_batch, encoder.tokenize
    failures: dict[int, str] = {}

    def fails_in_the_model(batch, shape):
        if any(row.ids == real_tokenize([texts[4]])[0].ids for row in batch):
            raise RuntimeError("boom")
        return real_encode(batch, shape)

    def fails_in_the_tokenizer(given, pairs=None):
        if texts[4] in given:
            raise OverflowError("too long")
        return real_tokenize(given, pairs)

    for name, failing in (("_encode_batch", fails_in_the_model), ("tokenize", fails_in_the_tokenizer)):
        with monkeypatch.context() as patch:
            patch.setattr(encoder, name, failing)
            found, _ = encoder.encode(texts, batch_tokens=60, on_failure=failures.__setitem__)
            with pytest.raises(JobError, match="row 4"):
                encoder.encode(texts)
        assert list(failures) == [4]
        assert not found[4].any()
        assert np.delete(found, 4, 0).tobytes() == without.tobytes()


def test_a_text_on_which_the_model_fails_names_its_row(sentence_encoder, tokenizer):
    encoder = Encoder.load(sentence_encoder, role="question")
    bad = tokenizer.convert_tokens_to_ids("war")

    def refuse(module, arguments):
        if (arguments[0] == bad).any():
            raise RuntimeError("boom")

    encoder._model.embeddings.word_embeddings.register_forward_pre_hook(refuse)
    assert len(encoder.encode(["moon", "sun"])[0]) == 2
    with pytest.raises(JobError, match=r"cannot be encoded \(RuntimeError: boom\): 'row 3: war'") as caught:
        encoder.encode(["moon", "ice", "sun", "war", "king"])
    assert caught.value.row == 3


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_absent_is_an_error(sentence_encoder):
    with pytest.raises(JobError, match="no CUDA device"):
        Encoder.load(sentence_encoder, role="question", device="cuda")


def test_the_wrong_side_of_a_dpr_pair_is_refused(dpr_pair):
    with pytest.raises(InputError, match=r"no context encoder.*DPRQuestionEncoder"):
        checkpoints.encoder_config(dpr_pair[1], "context")


def test_a_model_that_does_not_tell_its_pooling_is_refused(tiny_bart):
    with pytest.raises(InputError, match="pooled"):
        checkpoints.encoder_config(tiny_bart, "context")


def test_a_text_of_megabytes_is_cut_before_it_is_tokenised_and_says_so(sentence_encoder):
    encoder = Encoder.load(sentence_encoder, role="question")
    long = "the river of ice " * 100_000
    vectors, cut = encoder.encode([long, long[:2000], "moon"])
    assert cut.tolist() == [True, True, False]
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-6)
    _, cut = encoder.encode(["moon"], [" " * 100_000])
    assert cut.tolist() == [True]


def test_bfloat16_gives_nearly_the_vectors_of_float32(minilm, excerpt_passages):
    titles, texts = (column[:24] for column in excerpt_passages)
    wide, narrow = (
        Encoder.load(minilm, role="context", device="cpu", dtype=dtype).encode(titles, texts)[0]
        for dtype in ("auto", "bfloat16")
    )
    assert (wide.dtype, narrow.dtype) == (np.float32, np.float32)
    assert ((wide * narrow).sum(1) >= 0.999).all()
    assert (wide != narrow).any(1).all()
    np.testing.assert_allclose(np.linalg.norm(narrow, axis=1), 1, atol=1e-6)  # bfloat16 alone would be off by 2e-3


@pytest.mark.parametrize("kind", ["sentence_encoder", "dpr_pair"])
def test_masks_that_nobody_looks_at_change_nothing(kind, request):
    found = request.getfixturevalue(kind)
    encoder = Encoder.load(found if isinstance(found, str) else found[0], role="context", device="cpu")
    whole, _ = encoder.encode(TITLES, TEXTS)
    never_look_at_masks(encoder._model)
    attending = [part for part in encoder._model.modules() if hasattr(part, "config")]
    assert {part.config._attn_implementation for part in attending} == {UNSEEN}
    np.testing.assert_allclose(encoder.encode(TITLES, TEXTS)[0], whole, atol=1e-6)


@pytest.mark.parametrize("tokens", [16, 136, 512])
def test_a_gpus_largest_batches_of_bert_base_fit_a_card_of_8_gb_and_wait_for_nothing(tokens):
    """On torch's meta device, which has no numbers: whatever looks at one, and so would wait for a GPU, raises."""
    with torch.device("meta"):
        model = BertModel(BertConfig()).to(torch.bfloat16).eval()
    never_look_at_masks(model)
    rows, length = encoder_module.batch_shape(tokens, ENCODER_BATCH_TOKENS["cuda"], 512, ENCODER_BATCH_ROWS["cuda"])
    assert ENCODER_BATCH_TOKENS["cuda"] / 4 <= rows * length <= ENCODER_BATCH_TOKENS["cuda"]
    ids = torch.zeros(rows, length, dtype=torch.long, device="meta")
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    config = checkpoints.EncoderConfig("mean", True, 512, zero_token_types=False)
    weights = [*model.parameters(), *model.buffers()]
    with torch.inference_mode(), PeakBytes(*weights, *given.values()) as memory:
        vectors = encoder_module.pool(model(**given), given["attention_mask"], config)
    assert (vectors.shape, vectors.dtype) == ((rows, 768), torch.float32)
    assert rows * length * 768 * 2 * 4 < memory.peak < 2e9


def test_the_thread_that_tokenises_ahead_ends_with_its_encoder_and_with_an_error(sentence_encoder, monkeypatch):
    monkeypatch.setattr(encoder_module, "WINDOW_ROWS", 4)
    before = set(threading.enumerate())
    encoder = Encoder.load(sentence_encoder, role="question", device="cpu", threads=1)
    windows = []

    def fails(texts, pairs=None):
        windows.append(len(texts))
        raise MemoryError("no memory for a window")

    monkeypatch.setattr(encoder, "tokenize", fails)
    texts = ["who is the king"] * 400
    for _ in range(2):  # the same thread goes on after an error
        with pytest.raises(JobError, match="memory ran out"):
            encoder.encode(texts)
    assert len(windows) <= 2 * 3 * encoder_module.WINDOWS_AHEAD, "windows are tokenised for nobody"
    monkeypatch.undo()
    assert encoder.encode(texts)[0].shape == (400, 16)
    started = set(threading.enumerate()) - before
    assert started
    del encoder
    gc.collect()
    for thread in started:
        thread.join(10)
        assert not thread.is_alive()


def test_an_encoder_computes_in_what_its_device_and_role_ask_for():
    assert inspect.signature(Encoder.load).parameters["dtype"].default == "auto"
    assert pick_dtype("auto", "cpu") == torch.float32
    assert pick_dtype("auto", "cuda") == torch.bfloat16
    assert pick_dtype("float16", "cpu") == pick_dtype("float16", "cuda") == torch.float16


def test_vectors_that_arrive_after_their_batches_were_queued_are_waited_for(sentence_encoder, monkeypatch):
    """As on a GPU, whose copies come later: until then there is anything in their place."""
    encoder = Encoder.load(sentence_encoder, role="question", device="cpu", threads=1)
    texts = [f"moon {number} " * (number % 7 + 1) for number in range(60)]
    whole, _ = encoder.encode(texts, batch_tokens=40)
    real, on_the_way, queued = encoder._encode_batch, [], []

    def queue(batch, shape):
        if shape[0] == 5:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        vectors = real(batch, shape)
        place = np.full_like(vectors, np.nan)
        on_the_way.append((place, vectors))
        return place

    def arrival():
        mine, on_the_way[:] = on_the_way[:], []
        queued.append(len(mine))

        def wait():
            queued.pop()
            for place, vectors in mine:
                place[:] = vectors

        return wait

    monkeypatch.setattr(encoder, "_encode_batch", queue)
    monkeypatch.setattr(encoder, "_arrival", arrival)
    monkeypatch.setattr(encoder, "_queued", 4)
    assert any(encoder_module.batch_shape(len(row.ids), 40, 48)[0] == 5 for row in encoder.tokenize(texts))
    np.testing.assert_allclose(encoder.encode(texts, batch_tokens=40)[0], whole, atol=1e-6)
    assert queued == []


def test_a_gpu_that_fails_while_a_batch_is_on_its_way_ends_the_job(sentence_encoder, monkeypatch):
    class Event:
        def __init__(self, blocking):
            assert blocking

        def record(self):
            pass

        def synchronize(self):
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    encoder = Encoder.load(sentence_encoder, role="question", device="cpu", threads=1)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    arrival = encoder._arrival
    monkeypatch.setattr(encoder, "_device", "cuda")
    wait = arrival()
    with pytest.raises(JobError, match="the device failed"):
        wait()
