"""Contexts are what Hugging Face's retriever writes, but where they are cut, the question stays."""

import pytest
from transformers import ByT5Tokenizer, RagConfig, RagRetriever

from rag_ops.generation import contexts
from rag_ops.generation.contexts import ContextFormat, encode_contexts
from schemas.passages import Passage

FORM = ContextFormat(" / ", " // ", "", 40)
LONG = Passage("1:0", "the moon", "ice on the river " * 30)
QUESTION = "who was the king"


def encode_context(tokenizer, form: ContextFormat, passage: Passage, question: str) -> tuple[list[int], bool]:
    """Token ids of one context, and whether it was cut."""
    return encode_contexts(tokenizer, form, [passage], [question])[0]


def hugging_faces(tokenizer, form: ContextFormat, passage: Passage, question: str) -> list[int]:
    """The ids that transformers' retriever gives the generator, without padding."""
    config = RagConfig(
        question_encoder={"model_type": "dpr"},
        generator={"model_type": "bart"},
        max_combined_length=form.max_tokens,
        title_sep=form.title_sep,
        doc_sep=form.doc_sep,
    )
    retriever = RagRetriever.__new__(RagRetriever)
    retriever.config, retriever.generator_tokenizer = config, tokenizer
    docs = [{"title": [passage.title], "text": [passage.text]}]
    ids, mask = retriever.postprocess_docs(docs, [question], form.prefix, 1, "pt")
    return ids[0][mask[0].bool()].tolist()


@pytest.fixture(scope="session")
def byte_level(tmp_path_factory):
    """BART's kind of tokenizer, byte-level BPE without merges: every space and letter is a token, and trims offsets."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = ["<s>", "<pad>", "</s>", *alphabet, "Ġt", "th", "Ġth", "Ġ/"]
    merges = [("Ġ", "t"), ("t", "h"), ("Ġt", "h"), ("Ġ", "/")]
    made = Tokenizer(models.BPE({word: n for n, word in enumerate(words)}, merges))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    made.post_processor = processors.RobertaProcessing(
        ("</s>", 2), ("<s>", 0), trim_offsets=True, add_prefix_space=False
    )
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", pad_token="<pad>", eos_token="</s>")


RUNS = [
    "{}".join(["ice", "on the", "river"]).replace("{}", gap)
    for gap in (" ", "  ", "   ", "    ", "     ", "\t", "\n", " \n ")
]
EDGES = ["", " ", "  ", "   ", "    "]


@pytest.mark.parametrize("title", ["the moon", '"the moon"', '"', "", "the   moon "])
@pytest.mark.parametrize("prefix", ["", "answer: "])
@pytest.mark.parametrize("which", ["tokenizer", "byte_level"])
def test_a_context_that_fits_has_hugging_faces_ids(request, which, title, prefix):
    tokenizer = request.getfixturevalue(which)
    form = ContextFormat(" / ", " // ", prefix, 200)
    for text in RUNS:
        for edge in EDGES:
            passage, question = Passage("1:0", title, text + edge), edge + "where was  the king" + edge
            ids, truncated = encode_context(tokenizer, form, passage, question)
            assert ids == hugging_faces(tokenizer, form, passage, question), (text, edge)
            assert not truncated


@pytest.mark.parametrize("limit", [8, 24, 31, 40])
@pytest.mark.parametrize("question", ["", "where was the king", "   ", "who " * 30])
@pytest.mark.parametrize("which", ["tokenizer", "byte_level"])
def test_hf_truncation_cuts_where_hugging_face_does(request, which, question, limit):
    tokenizer = request.getfixturevalue(which)
    for separator in (" // ", " //"):
        form = ContextFormat(" / ", separator, "", limit, keep_question=False)
        for passage in (LONG, Passage("2:0", "sun", "the ice")):
            ids, truncated = encode_context(tokenizer, form, passage, question)
            assert ids == hugging_faces(tokenizer, form, passage, question)
            assert truncated == (len(tokenizer(form.render(passage, question)[0])["input_ids"]) > limit)


@pytest.mark.parametrize("text", [RUNS[0], *(RUNS[0] + edge for edge in EDGES), "", "  "])
@pytest.mark.parametrize("separator", [" // ", "//", "  // "])
def test_the_part_with_the_question_begins_where_render_says(text, separator):
    form = ContextFormat(" / ", separator, "", 60)
    rendered, start = form.render(Passage("1:0", "the  moon", text), "what is it")
    assert rendered[start:].strip() == f"{separator}what is it".strip().replace("  ", " ")
    assert rendered[:start].rstrip(" ") == f"the moon / {text}".replace("  ", " ").rstrip(" ")


def test_a_question_that_is_nothing_leaves_the_closing_token_alone(byte_level):
    """A byte-level tokenizer gives the space at the end of a context an empty place, as it does to special tokens."""
    for keep in (True, False):
        ids, truncated = encode_context(byte_level, ContextFormat(" / ", " // ", "", 24, keep), LONG, "")
        assert truncated
        assert len(ids) == 24
        assert ids[-1] == byte_level.eos_token_id
        assert byte_level.convert_tokens_to_ids("Ġ") not in ids[-2 - keep : -1 - keep]


class Slow:
    """A tokenizer that does not tell where its tokens stand."""

    is_fast = False

    def __init__(self, tokenizer):
        self._tokenizer = tokenizer

    def __call__(self, texts, **settings):
        assert "return_offsets_mapping" not in settings
        return self._tokenizer(texts, **settings)

    def __getattr__(self, name):
        return getattr(self._tokenizer, name)


@pytest.mark.parametrize("limit", [10, 24, 40, 200])
@pytest.mark.parametrize("keep", [True, False])
def test_a_slow_tokenizer_cuts_as_a_fast_one_does(tokenizer, limit, keep):
    form = ContextFormat(" / ", " // ", "", limit, keep)
    for question in ("", QUESTION, "who " * 60):
        for passage in (LONG, Passage("2:0", "sun", "ice")):
            assert encode_context(Slow(tokenizer), form, passage, question) == encode_context(
                tokenizer, form, passage, question
            )


def test_a_tokenizer_that_transformers_has_only_slow_keeps_the_question():
    tokenizer = ByT5Tokenizer()
    assert not tokenizer.is_fast
    ids, truncated = encode_context(tokenizer, ContextFormat(" / ", " // ", "", 80), LONG, QUESTION)
    assert truncated
    assert len(ids) == 80
    assert tokenizer.decode(ids).startswith("the moon / ice on the river")
    assert tokenizer.decode(ids).endswith("// who was the king</s>")


def test_the_question_survives_a_long_passage(tokenizer):
    ids, truncated = encode_context(tokenizer, FORM, LONG, QUESTION)
    assert truncated
    assert len(ids) == FORM.max_tokens
    text = tokenizer.decode(ids)
    assert text.endswith("/ / who was the king [SEP]")
    assert text.startswith("[CLS] the moon / ice on the river")


def test_a_question_that_is_too_long_itself_keeps_its_beginning_and_some_passage(tokenizer):
    ids, truncated = encode_context(tokenizer, FORM, LONG, "how many " + "war " * 100)
    assert truncated
    assert len(ids) == FORM.max_tokens
    text = tokenizer.decode(ids)
    assert text.startswith("[CLS] the moon / ice")
    assert "how many war" in text
    assert text.endswith("war [SEP]")


@pytest.mark.parametrize("limit", range(6, 60, 3))
def test_no_limit_is_ever_passed(tokenizer, limit):
    form = ContextFormat(" / ", " // ", "", limit)
    for text in ("", "ice", "ice " * 200):
        for question in ("", "who", "who " * 200):
            ids, _ = encode_context(tokenizer, form, Passage("1:0", "moon", text), question)
            assert len(ids) <= limit


def test_many_at_once_are_what_they_are_one_by_one(tokenizer):
    passages = [LONG, Passage("2:0", "sun", "ice"), Passage("3:0", "", "")]
    questions = [QUESTION, "what", "who " * 60]
    together = contexts.encode_contexts(tokenizer, FORM, passages, questions)
    assert together == [encode_context(tokenizer, FORM, p, q) for p, q in zip(passages, questions, strict=True)]
