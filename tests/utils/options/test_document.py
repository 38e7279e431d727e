"""The document docs/flags.md."""

from tests.support.helpers import REPOSITORY
from utils.options.document import document
from utils.options.flags import FIELDS


def test_the_document_of_the_flags_is_current():
    written = (REPOSITORY / "docs" / "flags.md").read_text()
    assert written == document(), "make docs writes it anew"


def test_it_has_a_row_for_every_flag():
    rows = [line for line in document().splitlines() if line.startswith("| `-")]
    assert len(rows) == len(FIELDS)
    assert all(line.replace("\\|", "").count("|") == 5 for line in rows)
