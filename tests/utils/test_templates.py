"""What all templates share."""

import jinja2
import pytest

from utils.templates import read_template


@pytest.mark.parametrize(
    ("name", "text"),
    [("a.html", "&lt;b&gt;\n"), ("a.html.jinja", "&lt;b&gt;\n"), ("a.md.jinja", "<b>\n")],
)
def test_html_is_escaped_and_blocks_leave_no_lines(name, text, tmp_path):
    (tmp_path / name).write_text(
        "{% if word %}\n  {% if word %}\n{{ word | low }}\n{% endif %}{% endif %}"
    )
    assert read_template(tmp_path / name, {"low": str.lower}).render(word="<B>") == text


def test_a_variable_that_is_not_given_is_an_error(tmp_path):
    (tmp_path / "a.md.jinja").write_text("{{ word }}")
    with pytest.raises(jinja2.UndefinedError, match="word"):
        read_template(tmp_path / "a.md.jinja").render()
