"""Small helpers that every room may use and that import nothing heavy."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any


def require_package(name: str, extra: str | None = None, *, purpose: str | None = None) -> ModuleType:
    """Import an optional package, or say what to type to get it.

    Args:
        name (`str`): the module to import, for example `"matplotlib"` or `"matplotlib.figure"`.
        extra (`str`, *optional*): the extra of this library that brings it (`pip install "hf-contrastive[plots]"`). Without
            it the hint names the package itself.
        purpose (`str`, *optional*): what needs the package, for the message: `"drawing pictures"`.

    Returns:
        The imported module.

    Raises:
        ImportError: the package is missing (the message holds the command that installs it), or it is installed but
            does not import (the message says so, and the original error is chained).

    Example:

    ```python
    >>> from hf_contrastive.utils import require_package
    >>> require_package("math").sqrt(9)
    3.0

    ```
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        subject = f"{purpose} needs the package `{package}`" if purpose else f"the package `{package}` is needed here"
        if importlib.util.find_spec(package) is not None:
            raise ImportError(f"{subject}; it is installed but `import {name}` fails: {error}") from error
        # umap is the one optional package whose name on the index differs from its module
        wanted = f'"hf-contrastive[{extra}]"' if extra else {"umap": "umap-learn"}.get(package, package)
        raise ImportError(f"{subject}, which is not installed; type: pip install {wanted}") from error


@contextmanager
def evaluation_mode(*models: Any) -> Generator[None]:
    """Put every submodule in eval mode and restore each one's own mode afterwards.

    Args:
        *models (`torch.nn.Module`, or None): what is read.
    """
    training = [module for model in models if model is not None for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def import_later(package: str, home: Mapping[str, str]) -> Callable[[str], Any]:
    """The `__getattr__` of a package whose public names are imported on first use.

    Args:
        package (`str`): its `__name__`.
        home (`Mapping[str, str]`): public name to the module that defines it, in full or as a module of the package.

    Returns:
        `Callable`: gives the value of a name, and leaves it in the package for the next time.

    Example:

    ```python
    >>> from hf_contrastive.utils import import_later
    >>> import_later("hf_contrastive", {"__version__": "version"})("__version__").count(".")
    2

    ```
    """

    def get(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = home[name] if "." in home[name] else f"{package}.{home[name]}"
        value = getattr(importlib.import_module(module), name)
        vars(sys.modules[package])[name] = value
        return value

    return get
