"""Folders that are written completely or not at all: a kill or a full disk never costs the previous checkpoint."""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import json
import os
import shutil
import socket
import uuid
import warnings
import zlib
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Any

from hf_contrastive.hub.scrub import scrub_folder


# Weight files of an earlier save that a new save makes obsolete. A left-over `model.safetensors` would be loaded in
# preference to newly written shards.
WEIGHT_PATTERNS: tuple[str, ...] = (
    "model.safetensors",
    "model-*-of-*.safetensors",
    "model.safetensors.index.json",
    "adapter_model.safetensors",
)

_MANIFEST = ".manifest.json"


def _host() -> str:
    return f"{zlib.crc32(socket.gethostname().encode()):08x}"


def _sync(path: Path) -> None:
    # Directories cannot be opened for syncing on every system; the data files matter most and always can.
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF, errno.EROFS):
            raise
    finally:
        os.close(handle)


def _files_below(folder: Path) -> list[str]:
    found = (path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if not path.is_dir())
    return [name for name in found if name != _MANIFEST]


def _is_disk_full(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    # safetensors reports the system's error as text
    text = str(error).lower()
    return "no space left" in text or "os error 28" in text or "quota exceeded" in text


def _remove_leftovers(target: Path) -> None:
    """Delete temporary folders of saves into `target` whose process died on this machine."""
    for path in target.parent.glob(f".{target.name}.saving-{_host()}-*"):
        try:
            pid = int(path.name.split("-")[-2])
            os.kill(pid, 0)
        except ProcessLookupError:
            shutil.rmtree(path, ignore_errors=True)
        except (ValueError, OSError):
            continue


def _ready_folder(target: Path) -> Path:
    return target.parent / f".{target.name}.ready"


def finish_interrupted_save(path: str | os.PathLike) -> bool:
    """Complete a save that was written in full but killed while its files were being moved into place.

    Args:
        path: the checkpoint folder.

    Returns:
        `bool`: whether there was such a save.
    """
    target = Path(path).resolve()
    ready = _ready_folder(target)
    if not (ready / _MANIFEST).is_file():
        return False
    manifest = json.loads((ready / _MANIFEST).read_text(encoding="utf-8"))
    for name in manifest["files"]:
        destination = target / name
        destination.parent.mkdir(parents=True, exist_ok=True)
        # A file that is no longer here was moved before the interruption.
        with contextlib.suppress(FileNotFoundError):
            os.replace(ready / name, destination)
    for name in manifest["remove"]:
        with contextlib.suppress(FileNotFoundError):
            os.remove(target / name)
    _sync(target)
    shutil.rmtree(ready, ignore_errors=True)
    return True


def _publish(written: Path, target: Path, stale: Iterable[str]) -> None:
    files = _files_below(written)
    for name in files:
        _sync(written / name)
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        # One rename: the folder appears complete or not at all.
        with contextlib.suppress(FileNotFoundError):
            target.rmdir()
        os.rename(written, target)
        _sync(target.parent)
        return
    patterns = tuple(stale) if any(fnmatch.fnmatch(name, p) for name in files for p in stale) else ()
    old = [path.name for path in target.iterdir() if path.is_file()]
    remove = [name for name in old if name not in files and any(fnmatch.fnmatch(name, p) for p in patterns)]
    # From the rename to `.ready` on, the save counts as done: an interruption is completed by the next save or load.
    (written / _MANIFEST).write_text(json.dumps({"files": files, "remove": remove}), encoding="utf-8")
    _sync(written / _MANIFEST)
    os.rename(written, _ready_folder(target))
    _sync(target.parent)
    finish_interrupted_save(target)


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike, *, stale: Iterable[str] = WEIGHT_PATTERNS) -> Generator[Path, None, None]:
    """Write files into a temporary folder that takes the place of `path` only when the block ends well.

    The temporary folder lies beside the target (same file system). When the block ends, all files are flushed to the
    disk; a target that did not exist appears by one rename, files of an existing target are replaced one by one, and
    a kill during that step is completed by the next save or load (`finish_interrupted_save`). Other files of an
    existing target stay. When the block raises, the temporary folder is removed and the target is as before. While
    saving, old and new files exist together: keep room for two checkpoints.

    Args:
        path (`str` or `os.PathLike`): the folder to write.
        stale (`Iterable[str]`): file patterns; old files of the target that match one and were not written again are
            removed, when the new save holds at least one file that matches. Default: weight files.

    Yields:
        `pathlib.Path`: the folder to write into.

    Raises:
        NotADirectoryError: `path` is a file.
        OSError: the disk is full or the folder cannot be written; the message says what was kept.

    Example:

    ```python
    >>> import pathlib, tempfile
    >>> from hf_contrastive.hub import atomic_folder
    >>> root = pathlib.Path(tempfile.mkdtemp())
    >>> with atomic_folder(root / "checkpoint") as folder:
    ...     _ = (folder / "config.json").write_text("{}")
    >>> [file.name for file in (root / "checkpoint").iterdir()]
    ['config.json']

    ```
    """
    target = Path(path).resolve()
    if target.exists() and not target.is_dir():
        raise NotADirectoryError(f"cannot save to {path}: it is a file; give a folder (it is made when missing)")
    stale = tuple(stale)
    target.parent.mkdir(parents=True, exist_ok=True)
    finish_interrupted_save(target)
    _remove_leftovers(target)
    written = target.parent / f".{target.name}.saving-{_host()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    existed = target.is_dir() and any(target.iterdir())
    try:
        written.mkdir()
        yield written
        _publish(written, target, stale)
    except BaseException as error:
        shutil.rmtree(written, ignore_errors=True)
        if _is_disk_full(error):
            free = shutil.disk_usage(target.parent).free / 2**20
            kept = "the previous files there are unchanged" if existed else "nothing was left there"
            raise OSError(
                errno.ENOSPC,
                f"the disk is full: saving to {path} was given up, {kept} and the temporary files were removed "
                f"({free:.0f} MB free now). Make room (an old checkpoint? set save_total_limit) and save again",
            ) from error
        raise


def safe_save_pretrained(model: Any, folder: str | os.PathLike, **kwargs: Any) -> None:
    """`model.save_pretrained(folder)`, atomically and without local paths in the configuration.

    Args:
        model: anything with `save_pretrained`: a model, a PEFT model, a processor.
        folder: where to. An existing checkpoint there stays loadable whatever happens during the save.
        kwargs: passed to `save_pretrained`.

    Raises:
        TypeError: `model` has no `save_pretrained`.
        OSError: the disk is full or the folder cannot be written.

    Example:

    ```python
    >>> import tempfile
    >>> from transformers import ViTConfig
    >>> from hf_contrastive.hub import safe_save_pretrained
    >>> safe_save_pretrained(ViTConfig(), tempfile.mkdtemp())

    ```
    """
    if not hasattr(model, "save_pretrained"):
        raise TypeError(f"argument 'model' must have save_pretrained, got {type(model).__name__}")
    with atomic_folder(folder) as written:
        model.save_pretrained(written, **kwargs)
        scrub_folder(written)


def complete_quietly(folder: str | os.PathLike) -> None:
    """`finish_interrupted_save` for readers: a folder that cannot be written is read as it is, with a warning."""
    try:
        finish_interrupted_save(folder)
    except OSError as error:
        warnings.warn(f"a save into {folder} was interrupted and cannot be completed ({error}); reading what is there")
