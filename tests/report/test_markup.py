from maskaq_jax.report import markup
from maskaq_jax.report.markup import Html, tag


def test_texts_are_escaped_and_html_is_not():
    inner = tag("b", "<script>", title='"<&')
    assert inner == '<b title="&quot;&lt;&amp;">&lt;script&gt;</b>'
    assert tag("p", "a & ", inner) == f"<p>a &amp; {inner}</p>"
    assert markup.join(["<", Html("<br/>")]) == "&lt;<br/>"


def test_attributes_that_are_off_are_left_out():
    assert tag("details", open=True, id_=None, class_="x") == '<details open class="x"></details>'
    assert tag("details", open=False) == "<details></details>"
    assert tag("img", aria_label="a", width=3) == '<img aria-label="a" width="3"/>'


def test_a_table_names_its_rows_and_columns_and_scrolls_by_keyboard():
    table = markup.table("Sizes", ("name", "size"), [("<a>", "1")], numeric=[1])
    assert '<div class="scroll" role="region" aria-label="Sizes" tabindex="0">' in table
    assert '<th scope="col">name</th><th scope="col" class="number">size</th>' in table
    assert '<th scope="row">&lt;a&gt;</th><td class="number">1</td>' in table
