"""Pages that are partly written by commands are up to date, and what they name exists."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from hf_contrastive.registry import REGISTRY


ROOT = Path(__file__).resolve().parents[1]
PAGES = ["README.md", "CONTRIBUTING.md", "docs/ARCHITECTURE.md", *(row.card for row in REGISTRY.values())]


def updater():
    spec = importlib.util.spec_from_file_location("docs_update", ROOT / "docs" / "update.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_pages_are_up_to_date():
    stale = [path.name for path, text in updater().pages().items() if path.read_text(encoding="utf-8") != text]
    assert not stale, f"run python docs/update.py; out of date: {stale}"


def test_stale_page_is_found(tmp_path, monkeypatch):
    module = updater()
    readme = (ROOT / "README.md").read_text(encoding="utf-8").replace("SimCLR](", "SimCRL](")
    (tmp_path / "README.md").write_text(readme, encoding="utf-8")
    for row in REGISTRY.values():
        (tmp_path / row.recipe).mkdir(parents=True)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr("sys.argv", ["update.py", "--check"])
    with pytest.raises(SystemExit, match=r"out of date: README\.md, model_cards/simclr\.md.*docs/update\.py"):
        module.main()
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == readme
    monkeypatch.setattr("sys.argv", ["update.py"])
    module.main()
    assert "[SimCLR](model_cards/simclr.md)" in (tmp_path / "README.md").read_text(encoding="utf-8")
    assert (tmp_path / "model_cards" / "gsimclr.md").is_file()


def test_yaml_without_a_first_sentence_is_refused(tmp_path, monkeypatch):
    module = updater()
    row = REGISTRY["simclr"]
    (tmp_path / row.recipe).mkdir(parents=True)
    (tmp_path / row.recipe / "x.yaml").write_text("data:\n  dataset_path: digits\n", encoding="utf-8")
    monkeypatch.setattr(module, "ROOT", tmp_path)
    with pytest.raises(SystemExit, match=r"x\.yaml must start with a comment"):
        module.settings_of(row)


@pytest.mark.parametrize("page", PAGES)
def test_links_and_paths_exist(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#]+)\)", text)
    here = [link for link in links if "://" not in link]
    missing = [link for link in here if not ((ROOT / page).parent / link).exists() and not (ROOT / link).exists()]
    # files of the repository that the text names; those of the example system do not exist
    named = re.findall(r"`((?:hf_contrastive|tests|recipes|docs|benchmarks|model_cards)/[\w./]+)`", text)
    missing += [path for path in named if "mymethod" not in path and not (ROOT / path).exists()]
    assert not missing, f"{page} names what is not there: {missing}"
