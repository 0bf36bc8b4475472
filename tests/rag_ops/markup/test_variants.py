"""Language conversion: one text is kept, by hand-written examples and on hostile markup."""

import time

import pytest

from rag_ops.markup.languages import language
from rag_ops.markup.variants import convert


@pytest.mark.parametrize(
    ("code", "markup", "expected"),
    [
        ("zh", "在-{zh-hans:软件; zh-hant:軟體}-里", "在软件里"),
        ("zh", "-{zh-tw:計程車;zh-cn:出租车;zh-hk:的士;}-", "出租车"),
        ("zh", "2-{}-0年-{乾}-隆", "20年乾隆"),
        ("zh", "-{T|zh-hans:标题;zh-hant:標題}--{H|zh-cn:甲;zh-tw:乙;}-正文", "正文"),
        ("zh", "-{A|zh-cn:甲;zh-tw:乙}-和-{R|丙}-和-{zh-hans;zh-hant|丁}-", "甲和丙和丁"),
        ("zh", "-{zh-hans:[[甲|乙]];zh-hant:{{lang|zh|丙}}}-", "[[甲|乙]]"),
        ("zh", "-{zh-hans:外-{zh-hans:内;zh-hant:裡}-;zh-hant:丙}-", "外内"),
        ("zh", "-{计算机=>zh-tw:電腦;计算机=>zh-cn:计算机}-", "计算机"),
        ("yue", "-{zh-hans:里; zh-hant:裏}-", "里"),
        ("sr", "-{sr-ec:реч; sr-el:reč}-", "реч"),
        ("kk", "-{kk-latn:söz; kk-cyrl:сөз}-", "сөз"),
        ("uz", "-{uz-cyrl:сўз; uz-latn:soʻz}-", "soʻz"),
        ("iu", "-{ike-latn:a; ike-cans:ᐊ}-", "ᐊ"),
        ("zh", "a -{ b {{c|-{d}-}} }- e", "a  b {{c|d}}  e"),
        ("zh", "{{x}-{a", "{{x}-{a"),
        ("zh", "a}- -{zh:b", "a}- -{zh:b"),
        ("de", "x-{a}-", "x-{a}-"),
    ],
)
def test_one_text_is_kept(code, markup, expected):
    assert convert(markup, language(code)) == expected


@pytest.mark.parametrize("piece", ["-{", "}-", "-{a}-", "-{zh:;", "-{{{", "-{;=>", "{{-{"])
def test_hostile_markup_costs_linear_time(piece):
    start = time.process_time()
    convert(piece * 30_000 + "}-" * 30_000, language("zh"))
    assert time.process_time() - start < 3
