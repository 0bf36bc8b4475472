"""Words of scripts without spaces: passages of some 100 words, cut at sentence ends, that together are the text."""

import base64
import importlib.util
import itertools
import json
import time
from pathlib import Path

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from rag_ops.articles.splitting import split_words
from rag_ops.articles.words import count_words, is_spaced

CHINESE = "安培是国际单位制中电流的基本单位，以法国物理学家安德烈·玛丽·安培命名。它的符号是大写字母A！为什么？"
JAPANESE = (
    "アンペアは電流の単位である。名称は、フランスの物理学者アンドレ＝マリ・アンペールに由来する。"
    "「国際単位系」の基本単位の一つ。"
)
THAI = "แอมแปร์เป็นหน่วยวัดกระแสไฟฟ้า ตั้งชื่อตามนักฟิสิกส์ชาวฝรั่งเศส อ็องเดร-มารี อ็องแปร์ และเป็นหน่วยฐานหนึ่งในเจ็ดหน่วยของระบบเอสไอ "
LAO = "ນະຄອນຫຼວງວຽງຈັນເປັນເມືອງຫຼວງຂອງປະເທດລາວ "
KHMER = "ភ្នំពេញជារាជធានីនៃព្រះរាជាណាចក្រកម្ពុជា។ "
BURMESE = "ရန်ကုန်မြို့သည် မြန်မာနိုင်ငံ၏ အကြီးဆုံးမြို့ဖြစ်သည်။ "
TIBETAN = "ལྷ་ས་ནི་བོད་ཀྱི་རྒྱལ་ས་ཡིན། "
UNSPACED = {"zh": CHINESE, "ja": JAPANESE, "th": THAI, "lo": LAO, "km": KHMER, "my": BURMESE, "bo": TIBETAN}
ALPHABET = "安培国の。！アｱ、เก็ปี ກ་ང །ម្ព an1 .()\n\u00a0"


def without_spaces(text):
    return "".join(text.split())


@pytest.mark.parametrize("language", UNSPACED)
def test_an_article_without_spaces_becomes_passages_of_100_words_each(language):
    text = UNSPACED[language] * 200
    passages = list(split_words(text, 100))
    limit = 170 if language in ("zh", "ja") else 450
    assert all(len(without_spaces(passage)) <= limit + 10 for passage in passages)
    assert all(len(without_spaces(passage)) >= 0.7 * limit for passage in passages[:-1])
    assert without_spaces("".join(passages)) == without_spaces(text)


@pytest.mark.parametrize("language", ["zh", "ja", "km", "bo", "my"])
def test_passages_end_with_sentences(language):
    passages = list(split_words(UNSPACED[language] * 100, 100))
    assert all(passage[-1] in "。！？།។။" for passage in passages)


def test_thai_passages_end_at_spaces():
    text = " ".join((THAI * 50).split())
    position = 0
    for passage in split_words(text, 100):
        assert text.startswith(passage, position)
        position += len(passage)
        assert text[position : position + 1] in (" ", "")
        position += 1


def test_a_text_without_any_sentence_end_is_cut_hard_at_170_characters():
    assert {len(passage) for passage in split_words("柏林" * 850, 100)} == {170}
    assert {len(passage) for passage in split_words("กขคง" * 900, 100)} == {450}


def test_no_vowel_or_tone_mark_is_parted_from_its_letter():
    for passage in split_words("ที่เมืองนี้" * 500, 10):
        assert passage[0] not in "ิี่้"
        assert passage[-1] not in "เแโใไ"


@settings(deadline=None)  # the machine may be busy
@given(st.text(alphabet="abc  \n.()한국어русский", max_size=300), st.integers(1, 9))
def test_a_text_of_scripts_with_spaces_is_cut_between_its_words(text, words):
    tokens = text.split()
    blocks = [" ".join(tokens[start : start + words]) for start in range(0, len(tokens), words)]
    assert list(split_words(text, words)) == blocks
    assert is_spaced(text)


@settings(deadline=None)  # the machine may be busy
@given(st.text(alphabet=ALPHABET, max_size=300), st.integers(1, 9))
def test_passages_are_the_text_and_none_has_too_many_words(text, words):
    passages = list(split_words(text, words))
    assert without_spaces("".join(passages)) == without_spaces(text)
    for passage in passages:
        assert passage == " ".join(passage.split()) != ""
        assert count_words(passage) <= words + 6  # marks stay with their letter


@settings(deadline=None)  # the machine may be busy
@given(st.text(alphabet=ALPHABET, max_size=300), st.integers(1, 9), st.data())
def test_overlapping_passages_cover_the_text_and_each_has_something_new(text, words, data):
    overlap = data.draw(st.integers(0, words - 1))
    whole, reached, begun = " ".join(text.split()), 0, -1
    for passage in split_words(text, words, overlap):
        start = whole.index(passage, max(begun, 0))
        while start + len(passage) <= reached:  # the same words may stand there twice
            start = whole.index(passage, start + 1)
        assert start <= reached + 1
        begun, reached = start, start + len(passage)
    assert not whole or reached >= len(whole.rstrip())


def test_an_overlap_repeats_words_of_the_same_measure():
    passages = list(split_words("柏林" * 850, 100, 20))
    for before, after in itertools.pairwise(passages):
        assert before[-34:] == after[:34]


def test_words_between_spaces_and_characters_add_up():
    mixed = "The Ampere (安培) is named after him. " * 40
    passages = list(split_words(mixed, 50))
    assert without_spaces("".join(passages)) == without_spaces(mixed)
    # 6 words between spaces and 2 / 1.7 characters' words; the brackets beside them are none.
    assert count_words("The Ampere (安培) is named after him.") == pytest.approx(6 + 2 / 1.7)
    assert all(42 < count_words(passage) <= 50 for passage in passages[:-1])


def test_brackets_stay_with_their_words():
    for passage in split_words("He is an (投げ) and a “技”, so ever. " * 100, 7):
        assert passage[-1] not in "(“"
        assert passage[0] not in ")”"


def test_a_long_text_takes_linear_time():
    text = CHINESE * 2000
    times = []
    for times_over in (1, 8):
        started = time.process_time()
        count = sum(1 for _ in split_words(text * times_over, 100))
        times.append((time.process_time() - started) / count)
    assert times[1] < 4 * times[0]


class Tekken:
    """Counts tokens of the multilingual tokenizer that the package mistral-common carries: byte pairs by rank."""

    def __init__(self, path):
        content = json.loads(path.read_text(encoding="utf-8"))
        config = content["config"]
        used = config["default_vocab_size"] - config["default_num_special_tokens"]
        self._ranks = {base64.b64decode(entry["token_bytes"]): entry["rank"] for entry in content["vocab"][:used]}
        self._pattern = regex.compile(config["pattern"])

    def count(self, text):
        return sum(self._count_piece(piece.encode()) for piece in self._pattern.findall(text))

    def _count_piece(self, piece):
        parts = [piece[n : n + 1] for n in range(len(piece))]
        while len(parts) > 1:
            ranks = [self._ranks.get(a + b, len(self._ranks)) for a, b in itertools.pairwise(parts)]
            best = min(ranks)
            if best == len(self._ranks):
                break
            place = ranks.index(best)
            parts[place : place + 2] = [parts[place] + parts[place + 1]]
        return len(parts)


@pytest.fixture(scope="module")
def tekken():
    spec = importlib.util.find_spec("mistral_common")
    if spec is None:
        pytest.skip("mistral-common is not installed: make install")
    return Tekken(next(Path(next(iter(spec.submodule_search_locations))).glob("data/tekken_240911.json")))


@pytest.mark.parametrize("language", ["zh", "ja", "th"])  # of the others it has no words, and each byte is a token
def test_no_passage_has_more_than_512_tokens_of_a_multilingual_tokenizer(language, tekken):
    text = UNSPACED[language] * 30
    passages = list(split_words(text, 100))
    assert len(passages) > 2
    assert max(map(tekken.count, passages)) <= 512
    assert tekken.count(text) > 1000  # as one passage it would be cut
    assert tekken.count("The tokenizer knows these words.") == 6
