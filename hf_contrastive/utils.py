"""Small helpers that every room may use and that import nothing heavy."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType


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
