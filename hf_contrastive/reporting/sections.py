"""Pages that people and commands write together: a command owns what stands between its two markers."""

from __future__ import annotations

from pathlib import Path


def _markers(name: str) -> tuple[str, str]:
    return f"<!-- begin: {name} -->", f"<!-- end: {name} -->"


def replace_section(page: str, name: str, text: str) -> str:
    """Put `text` between the markers `name` of a page; at the end, with markers, where the page has none.

    Args:
        page (`str`): the whole page, in Markdown.
        name (`str`): of the section, in the markers.
        text (`str`): what the section says.

    Returns:
        `str`: the page with the section; everything outside the markers is as it was.

    Raises:
        ValueError: one of the two markers is missing, or they stand in the wrong order.

    Example:

    ```python
    >>> from hf_contrastive.reporting import replace_section
    >>> print(replace_section("# Page", "numbers", "42"))
    # Page
    <BLANKLINE>
    <!-- begin: numbers -->
    42
    <!-- end: numbers -->
    <BLANKLINE>

    ```
    """
    begin, end = _markers(name)
    section = f"{begin}\n{text.strip()}\n{end}"
    start, stop = page.find(begin), page.find(end)
    if start < 0 and stop < 0:
        return f"{page.rstrip()}\n\n{section}\n".lstrip()
    if start < 0 or stop < start:
        raise ValueError(f"the page must hold {begin!r} and, after it, {end!r}; mend the markers by hand.")
    return page[:start] + section + page[stop + len(end) :]


def write_section(path: str | Path, name: str, text: str, new_page: str = "") -> None:
    """[`replace_section`] on a file, which is made where it does not exist.

    Args:
        path (`str` or `Path`): the Markdown file.
        name (`str`): of the section.
        text (`str`): what the section says.
        new_page (`str`, defaults to `""`): what a new file starts with.

    Raises:
        ValueError: as [`replace_section`].

    Example:

    ```python
    >>> import tempfile
    >>> from pathlib import Path
    >>> from hf_contrastive.reporting import write_section
    >>> page = Path(tempfile.mkdtemp(), "page.md")
    >>> write_section(page, "numbers", "41", "# Page")
    >>> write_section(page, "numbers", "42")
    >>> page.read_text().splitlines()[2:4]
    ['<!-- begin: numbers -->', '42']

    ```
    """
    path = Path(path)
    page = path.read_text(encoding="utf-8") if path.exists() else new_page
    new = replace_section(page, name, text)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(new, encoding="utf-8")


__all__ = ["replace_section", "write_section"]
