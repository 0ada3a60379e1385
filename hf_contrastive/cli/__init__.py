"""The command line `hf-contrastive`: one file per command; nothing heavy is imported before a command needs it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the console script `hf-contrastive` and `python -m hf_contrastive.cli` call it.

    Args:
        argv (`Sequence[str]`, *optional*): the arguments; those of the process by default.

    Returns:
        `int`: the exit code: 0 fine, 1 the work failed, 2 wrong usage, 130 stopped by Ctrl-C.

    Example:

    ```python
    >>> from hf_contrastive.cli import main
    >>> main(["list"])  # doctest: +SKIP

    ```
    """
    from hf_contrastive.cli.app import build_app, split_debug
    from hf_contrastive.cli.common import print_error

    arguments, debug = split_debug(list(sys.argv[1:] if argv is None else argv))
    debug = debug or os.environ.get("HF_CONTRASTIVE_DEBUG", "") not in ("", "0")
    try:
        build_app()(args=arguments, prog_name="hf-contrastive")
    except SystemExit as stop:
        if stop.code is None or isinstance(stop.code, int):
            return stop.code or 0
        print(stop.code, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if debug:
            import traceback

            traceback.print_exception(error)
        return print_error(error)
    return 0
