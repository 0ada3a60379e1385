"""Sections that commands write into pages."""

from __future__ import annotations

import pytest

from hf_contrastive.reporting import replace_section, write_section


PAGE = "# Page\n\nby hand\n\n<!-- begin: one -->\nold\n<!-- end: one -->\n\nby hand too\n"


def test_only_what_stands_between_the_markers_changes():
    new = replace_section(PAGE, "one", "\nnew\nlines\n")
    assert new == PAGE.replace("old", "new\nlines")
    assert replace_section(new, "one", "old") == PAGE


def test_new_section_goes_to_the_end():
    new = replace_section(PAGE, "two", "text")
    assert new == PAGE + "\n<!-- begin: two -->\ntext\n<!-- end: two -->\n"
    assert replace_section("", "two", "text").startswith("<!-- begin: two -->")


@pytest.mark.parametrize(
    "page",
    ["<!-- begin: one -->\ntext", "text\n<!-- end: one -->", "<!-- end: one -->\n<!-- begin: one -->"],
    ids=["no end", "no begin", "order"],
)
def test_broken_markers_are_refused(page):
    with pytest.raises(ValueError, match="begin: one"):
        replace_section(page, "one", "text")


def test_file(tmp_path):
    path = tmp_path / "new" / "page.md"
    write_section(path, "one", "é", "# Page")
    assert path.read_text(encoding="utf-8") == "# Page\n\n<!-- begin: one -->\né\n<!-- end: one -->\n"
    path.write_text("<!-- begin: one -->", encoding="utf-8")
    with pytest.raises(ValueError, match="mend the markers"):
        write_section(path, "one", "text")
    assert path.read_text(encoding="utf-8") == "<!-- begin: one -->"
