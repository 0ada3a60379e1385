"""The one guard of optional packages."""

from __future__ import annotations

import sys

import pytest

from hf_contrastive.reporting import plot_training_curves
from hf_contrastive.utils import require_package


def test_a_package_that_is_there():
    assert require_package("json") is sys.modules["json"]


def test_a_missing_package_names_the_command():
    with pytest.raises(
        ImportError,
        match=r'reading reads needs the package `no_such_pkg`, which is not installed; type: pip install "hf-contrastive\[plots\]"',
    ):
        require_package("no_such_pkg.part", "plots", purpose="reading reads")
    with pytest.raises(ImportError, match=r"type: pip install no_such_pkg$"):
        require_package("no_such_pkg")


def test_a_broken_package_is_not_called_missing(tmp_path, monkeypatch):
    (tmp_path / "broken_pkg.py").write_text("import a_library_that_is_missing")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ImportError, match="it is installed but `import broken_pkg` fails: No module named 'a_library"):
        require_package("broken_pkg", "plots")


def test_pictures_without_matplotlib_say_what_to_type(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        ImportError, match=r'drawing pictures needs the package `matplotlib`.*"hf-contrastive\[plots\]"'
    ):
        plot_training_curves([{"step": 1, "loss": 1.0}], tmp_path / "x.png")
