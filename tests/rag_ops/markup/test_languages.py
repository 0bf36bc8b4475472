"""The tables of languages: each rule in the languages of the largest Wikipedias, by examples of other pages."""

import pytest

from rag_ops.markup import tables
from rag_ops.markup.languages import language
from rag_ops.markup.pages import is_disambiguation, is_redirect
from rag_ops.markup.siteinfo import SiteInfo
from rag_ops.markup.wikitext import to_text

# The largest Wikipedias by articles, in 2024.
LARGEST = (
    *("en ceb de fr sv nl ru es it arz pl ja zh vi war uk ar pt fa ca".split()),
    *("sr id ko no tr cs hu fi ro eu eo he hy da bg et sk el".split()),
)


@pytest.mark.parametrize("code", LARGEST)
def test_the_largest_wikis_have_names_of_files_closing_sections_and_numbers(code):
    own = language(code)
    assert own.code == code
    assert {"file", "image", "category"} <= {name for name, number in own.namespaces.items() if number in (6, 14)}
    assert code == "en" or len(own.closing_sections - language("en").closing_sections) >= 3
    assert code in ("en", "ceb", "war", "it") or own.redirects - {"redirect"}
    assert code in ("ceb", "war", "en") or own.disambiguation


@pytest.mark.parametrize(
    ("code", "page", "expected"),
    [
        ("de", "[[Bild:Dom.jpg|mini|Der [[Dom]]]]Köln liegt am Rhein.[[Kategorie:Ort]]", "Köln liegt am Rhein."),
        ("fr", "[[Image:Pont.jpg|vignette]]Lyon a deux fleuves. [[catégorie:Ville]]", "Lyon a deux fleuves."),
        ("es", "[[Archivo:Mar.jpg|thumb|El mar]]Vigo es un puerto.\n[[Categoría:Puertos]]", "Vigo es un puerto."),
        ("pt", "[[Ficheiro:A.jpg|A]][[Imagem:B.png]]O Porto. [[Categoria:X]]", "O Porto."),
        ("ru", "[[Изображение:Ока.jpg|мини]]Ока течёт.[[Категория:Реки]]", "Ока течёт."),
        ("uk", "[[Зображення:Дон.jpg]]Дон тече. [[Категорія:Річки]]", "Дон тече."),
        ("ja", "[[ファイル:川.jpg|サムネイル]]川は流れる。[[カテゴリ:川]]", "川は流れる。"),
        ("zh", "[[檔案:河.jpg|縮圖]]河流。[[分類:河]]", "河流。"),
        ("ar", "[[صورة:نهر.jpg|تصغير]]النهر طويل.[[تصنيف:أنهار]]", "النهر طويل."),
        ("fa", "[[پرونده:رود.jpg]]رود بلند است.[[رده:رودها]]", "رود بلند است."),
        ("he", "[[תמונה:נהר.jpg|ממוזער]]הנהר ארוך.[[קטגוריה:נהרות]]", "הנהר ארוך."),
        ("ko", "[[그림:강.jpg|섬네일]]강은 길다.[[분류:강]]", "강은 길다."),
        ("sv", "[[Bild:Å.jpg|miniatyr]]Ån är lång.[[Kategori:Åar]]", "Ån är lång."),
        ("it", "Il Po è lungo.[[Immagine:Po.jpg]][[Categoria:Fiumi]]", "Il Po è lungo."),
    ],
)
def test_files_and_categories_show_no_words(code, page, expected):
    assert to_text(page, SiteInfo(code=code)) == expected


@pytest.mark.parametrize(
    ("code", "heading"),
    [
        ("de", "Weblinks"),
        ("de", "Literatur"),
        ("fr", "Notes et références"),
        ("es", "Véase también"),
        ("it", "Voci correlate"),
        ("pt", "Ligações externas"),
        ("ru", "Примечания"),
        ("uk", "Див. також"),
        ("pl", "Przypisy"),
        ("nl", "Externe link"),
        ("sv", "Källor"),
        ("ja", "脚注"),
        ("zh", "參考文獻"),
        ("vi", "Liên kết ngoài"),
        ("ar", "انظر أيضًا"),
        ("fa", "منابع"),
        ("ca", "Referències"),
        ("sr", "Спољашње везе"),
        ("id", "Pranala luar"),
        ("ko", "같이 보기"),
        ("nb", "Eksterne lenker"),
        ("fi", "Lähteet"),
        ("hu", "Források"),
        ("tr", "Kaynakça"),
        ("cs", "Externí odkazy"),
        ("ro", "Legături externe"),
        ("eu", "Kanpo estekak"),
        ("eo", "Eksteraj ligiloj"),
        ("he", "לקריאה נוספת"),
        ("hy", "Ծանոթագրություններ"),
        ("da", "Eksterne henvisninger"),
        ("ltg", "Verīs taipoš"),
        ("ltg", "References"),
    ],
)
def test_closing_sections_go(code, heading):
    assert to_text(f"A\n== {heading} ==\n* b\n=== c ===\nd", SiteInfo(code=code)) == "A"


def test_closing_sections_of_another_language_stay():
    assert to_text("A\n== Note ==\nb", SiteInfo(code="en")) == "A\nb"


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        (
            "A\n== X ==\n* B. ''C''. ISBN 978-0\n* [http://c.example D]\n* {{cite|x}}\n{{Bottom}}\n[[Category:E]]",
            "A",
        ),
        ("A\n== B ==\n# C, ISSN 1234\n== D ==\n* https://e.example", "A"),
        ("A\n== B ==\n* C. ISBN 978-0\n* a dog", "A\nC. ISBN 978-0\na dog"),
        ("A\n== B ==\nProse, ISBN 978-0", "A\nProse, ISBN 978-0"),
        ("A\n== Works ==\n* C. ISBN 978-0\n== References ==\nx", "A\nC. ISBN 978-0"),
        ("A\n== B ==\n* [[C]]\n* [[D]]", "A\nC\nD"),
        ("* A, ISBN 978-0", "A, ISBN 978-0"),
    ],
)
def test_a_last_section_of_sources_alone_goes_whatever_its_heading(page, expected):
    assert to_text(page) == expected


@pytest.mark.parametrize(
    ("code", "page"),
    [
        ("de", "#Weiterleitung [[Rhein]]"),
        ("ru", "#ПЕРЕНАПРАВЛЕНИЕ [[Рейн]]"),
        ("fr", "#REDIRECTION[[Rhin]]"),
        ("ja", "#転送 [[川]]"),
        ("zh", "＃重定向 [[河]]"),
        ("ar", "#تحويل [[نهر]]"),
        ("pl", "#PATRZ: [[Ren]]"),
        ("ko", "#넘겨주기 [[강]]"),
        ("nl", "#REDIRECT [[Rijn]]"),
    ],
)
def test_redirects_in_the_wikis_own_words(code, page):
    assert is_redirect(page, SiteInfo(code=code))


def test_a_word_of_another_language_and_a_list_are_no_redirects():
    assert not is_redirect("#PATRZ [[Ren]]", SiteInfo(code="de"))
    assert not is_redirect("#Weiterleitung von Wasser", SiteInfo(code="de"))


@pytest.mark.parametrize(
    ("code", "title", "text"),
    [
        ("de", "Bank", "Bank steht für {{Begriffsklärung}}"),
        ("it", "Po", "{{Disambigua}}"),
        ("fr", "Lyon", "{{homonymie}}"),
        ("ru", "Лук", "{{неоднозначность|тип=x}}"),
        ("uk", "Лук", "{{Шаблон:Неоднозначність}}"),
        ("es", "Vela", "{{desambiguación}}"),
        ("pl", "Zamek", "{{Ujednoznacznienie}}"),
        ("nl", "Bank", "{{dp}}"),
        ("sv", "Fil", "{{Förgrening\n|x}}"),
        ("ja", "橋", "{{aimai}}"),
        ("zh", "桥", "{{消歧義}}"),
        ("ko", "배", "{{동음이의}}"),
        ("tr", "Yüz", "{{Anlam ayrımı}}"),
        ("pl", "Zamek (ujednoznacznienie)", ""),
        ("ru", "Лук (значения)", ""),
        ("ja", "橋（曖昧さ回避）", ""),
        ("ltg", "X", "{{disambig}}"),
    ],
)
def test_disambiguation_pages_in_the_wikis_own_words(code, title, text):
    assert is_disambiguation(title, text, SiteInfo(code=code))


def test_a_hatnote_is_no_disambiguation():
    assert not is_disambiguation("Лук", "{{значения}} Лук растёт", SiteInfo(code="ru"))
    assert not is_disambiguation("Bank", "{{Disambigua}}", SiteInfo(code="de"))


@pytest.mark.parametrize("name", ["closing_sections.tsv", "redirects.tsv", "disambiguation.tsv"])
def test_words_are_each_once_and_in_lower_case(name):
    rows = list(tables.rows(name, 3 if name == "disambiguation.tsv" else 2))
    assert len({tuple(row) for row in rows}) == len(rows) >= 50
    assert all(row[-1] == row[-1].lower().strip() != "" for row in rows)


def test_codes_of_languages_are_each_once():
    rows = list(tables.rows("languages.tsv", 7))
    codes = [code for own, same, alike, *_ in rows for code in [own, *same.split(), *alike.split()]]
    assert len(codes) == len(set(codes))
    assert all(row[3] and row[4] and (not row[5] or row[5].isdecimal()) for row in rows)
