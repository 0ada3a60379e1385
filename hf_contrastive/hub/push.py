"""Sends a model, a checkpoint folder or an adapter to the hub, and nothing that should stay at home."""

from __future__ import annotations

import fnmatch
import json
import os
import shutil
import tempfile
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_contrastive.hub.atomic import WEIGHT_PATTERNS, complete_quietly
from hf_contrastive.hub.cards import write_model_card
from hf_contrastive.hub.loading import check_checkpoint
from hf_contrastive.hub.scrub import local_paths_in_file, scrub_folder


#: what a training run leaves beside a model and a reader of the model does not need: state for resuming (pickles),
#: arguments with local paths (a pickle), inner checkpoints, logs of trackers, hidden files
SAFE_IGNORE_PATTERNS: tuple[str, ...] = (
    "training_args.bin",
    "optimizer*.pt",
    "optimizer*.bin",
    "scheduler*.pt",
    "scaler*.pt",
    "rng_state*.pth",
    "global_step*",
    "latest",
    "zero_to_fp32.py",
    "checkpoint-*",
    "runs",
    "wandb",
    "mlruns",
    "events.out.tfevents*",
    "_*",
    ".*",
)

#: pushed only when asked for by name: what `resume_from_checkpoint` needs. Never `training_args.bin`.
RESUME_PATTERNS: tuple[str, ...] = ("optimizer*.pt", "scheduler*.pt", "scaler*.pt", "rng_state*.pth")

_PICKLE_SUFFIXES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".dill"}


@dataclass(frozen=True)
class PreparedFolder:
    """A folder that may be uploaded.

    Args:
        folder (`Path`): where it is.
        files (`tuple[tuple[str, int], ...]`): name and bytes of every file in it.
        left_out (`tuple[tuple[str, str], ...]`): name and reason of everything that stays at home.
    """

    folder: Path
    files: tuple[tuple[str, int], ...]
    left_out: tuple[tuple[str, str], ...] = ()

    @property
    def total_bytes(self) -> int:
        """Size of all files together."""
        return sum(size for _, size in self.files)

    def listing(self) -> str:
        """The files with their sizes, and what was left out, for the reader of a terminal."""
        width = max((len(name) for name, _ in self.files), default=0)
        lines = [f"  {name:<{width}}  {_size(size):>10}" for name, size in self.files]
        lines.append(f"  {'total':<{width}}  {_size(self.total_bytes):>10}")
        if self.left_out:
            lines.append("left out: " + ", ".join(f"{name} ({reason})" for name, reason in self.left_out))
        return "\n".join(lines)


def _size(size: int) -> str:
    value = float(size)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.2f} GB"


def _matches(name: str, patterns: Sequence[str]) -> bool:
    """A pattern without a slash is compared with every part of the name, one with a slash with the whole name."""
    return any(
        fnmatch.fnmatch(name, pattern) if "/" in pattern else any(fnmatch.fnmatch(p, pattern) for p in name.split("/"))
        for pattern in patterns
    )


def is_pickle(path: str | os.PathLike) -> bool:
    """Whether a file is a pickle, by its name or by its first bytes (also inside torch's and numpy's formats).

    Args:
        path: a file.

    Returns:
        `bool`.
    """
    path = Path(path)
    if path.suffix.lower() in _PICKLE_SUFFIXES:
        return True
    with open(path, "rb") as handle:
        start = handle.read(2**12)
    if _is_array_of_objects(start):
        return True
    if start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return True
    if start[:4] == b"PK\x03\x04":
        try:
            with zipfile.ZipFile(path) as archive:
                if any(name.endswith((".pkl", ".pickle")) for name in archive.namelist()):
                    return True
                arrays = [name for name in archive.namelist() if name.endswith(".npy")]
                return any(_is_array_of_objects(archive.open(name).read(2**12)) for name in arrays)
        except zipfile.BadZipFile:
            return False
    return False


def _is_array_of_objects(start: bytes) -> bool:
    """Whether a file that starts so is an array of numpy that holds python objects, which numpy pickles."""
    return start[:6] == b"\x93NUMPY" and b"|O'" in start.partition(b"\n")[0]


def _copy(source: Path, destination: Path) -> None:
    destination.parent.mkdir(parents=True, exist_ok=True)
    real = source.resolve()
    # Weights are big and never changed here: link them where the file system can.
    if real.stat().st_size > 2**20 and real.suffix == ".safetensors":
        try:
            os.link(real, destination)
            return
        except OSError:
            pass
    shutil.copyfile(real, destination)


def _collect(source: Path, out: Path, allow: Sequence[str]) -> list[tuple[str, str]]:
    """Copy what may leave from `source` to `out`; returns what stays, with reasons."""
    left_out: list[tuple[str, str]] = []
    refused: list[str] = []
    for root, folders, names in os.walk(source):
        inside = Path(root).relative_to(source)
        for name in sorted(folders):
            relative = (inside / name).as_posix()
            if _matches(relative, SAFE_IGNORE_PATTERNS) or name == "__pycache__":
                folders.remove(name)
                left_out.append((relative + "/", "part of the training run"))
        for name in sorted(names):
            relative = (inside / name).as_posix()
            if not _matches(relative, allow):
                if _matches(relative, SAFE_IGNORE_PATTERNS):
                    left_out.append((relative, "part of the training run"))
                    continue
                if is_pickle(source / relative):
                    refused.append(relative)
                    continue
            _copy(source / relative, out / relative)
    if refused:
        raise ValueError(
            f"{source.name} holds pickled files that are not pushed, since whoever loads one runs its code: "
            f"{', '.join(refused)}. Save weights as safetensors (save_pretrained does) and delete them; to push one "
            f"all the same, name it: allow=[{refused[0]!r}]."
        )
    return left_out


def _refuse_local_paths(folder: Path) -> None:
    found = [
        f"{path.relative_to(folder).as_posix()}, line {line}: {local}"
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        for line, local in local_paths_in_file(path)
    ]
    if found:
        more = f" (and {len(found) - 8} more)" if len(found) > 8 else ""
        raise ValueError(
            "these files name places on this machine and are not pushed: "
            + "; ".join(found[:8])
            + more
            + ". Edit the lines, or move the files out of the folder."
        )


def _settle_adapter(folder: Path, base_model: str | None) -> tuple[bool, str | None]:
    """Whether the folder is an adapter, and its base; a base that only this machine has is replaced or warned about."""
    file = folder / "adapter_config.json"
    if not file.is_file():
        return False, base_model
    config = json.loads(file.read_text(encoding="utf-8"))
    if base_model and config.get("base_model_name_or_path") != base_model:
        config["base_model_name_or_path"] = base_model
        file.unlink()
        file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    base = config.get("base_model_name_or_path") or None
    if base is None:
        warnings.warn(
            "the adapter was trained on a local base model, so nobody else can load it: push the base first and name it "
            "with push_to_hub(..., base_model='user/base')"
        )
    return True, base


def _add_card(
    out: Path,
    card: Mapping[str, Any] | str | os.PathLike | bool | None,
    repo_id: str | None,
    system: Any,
    base_model: str | None,
) -> None:
    readme = out / "README.md"
    options: dict[str, Any] = dict(card) if isinstance(card, Mapping) else {}
    is_adapter, base = _settle_adapter(out, base_model or options.get("base_model"))
    if card is False:
        return
    if isinstance(card, (str, os.PathLike)):
        text = Path(card).read_text(encoding="utf-8")
        readme.unlink(missing_ok=True)
        readme.write_text(text, encoding="utf-8")
        return
    if card is None and readme.is_file():
        return
    options.setdefault("repo_id", repo_id)
    options.setdefault("is_adapter", is_adapter)
    if options.get("spec") is None:
        options["spec"] = system
    options["base_model"] = base
    write_model_card(out, **options)


def _system_of(model: Any) -> Any:
    """Registry row of a model that may be wrapped by PEFT."""
    from hf_contrastive.registry import find_by_model_type

    config = getattr(model, "config", None)
    model_type = config.get("model_type") if isinstance(config, Mapping) else getattr(config, "model_type", None)
    return find_by_model_type(str(model_type)) if model_type else None


def prepare_folder(
    model: Any,
    out: str | os.PathLike,
    *,
    processor: Any = None,
    card: Mapping[str, Any] | str | os.PathLike | bool | None = None,
    repo_id: str | None = None,
    base_model: str | None = None,
    allow: Sequence[str] = (),
) -> PreparedFolder:
    """Put into `out` exactly what may be uploaded: safetensors, scrubbed configuration, processor, card.

    Args:
        model: a model, a PEFT model, or the folder of a checkpoint or adapter.
        out: an empty or missing folder.
        processor (*optional*): anything with `save_pretrained`, for example an image processor.
        card: `dict` of arguments for `write_model_card`, the path of a finished card, `False` for none, or `None`: the
            card of the folder is kept, a plain one is written where there is none.
        repo_id (`str`, *optional*): where it will go, for the snippet of the card.
        base_model (`str`, *optional*): hub id of the model it was trained from; for an adapter it is written into
            `adapter_config.json`, which matters when the base was a local folder.
        allow (`Sequence[str]`): patterns of files that are taken although they are pickles or training state.

    Returns:
        `PreparedFolder`.

    Raises:
        ValueError: a pickle that was not allowed, or a text with a local path (file and line are named).
        FileNotFoundError: the folder is no checkpoint.
        FileExistsError: `out` is not empty.

    Example:

    ```python
    >>> import tempfile
    >>> from transformers import ResNetConfig, ResNetModel
    >>> from hf_contrastive.hub import prepare_folder
    >>> model = ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1]))
    >>> [name for name, _ in prepare_folder(model, tempfile.mkdtemp()).files]
    ['README.md', 'config.json', 'model.safetensors']

    ```
    """
    out = Path(out)
    if out.is_dir() and any(out.iterdir()):
        raise FileExistsError(f"argument 'out' must be an empty or missing folder, {out} holds files.")
    out.mkdir(parents=True, exist_ok=True)
    left_out: list[tuple[str, str]] = []
    system = None
    if isinstance(model, (str, os.PathLike)):
        source = Path(model).expanduser()
        complete_quietly(source)
        check_checkpoint(source if source.is_dir() else os.path.abspath(source))
        left_out = _collect(source, out, allow)
    else:
        if not hasattr(model, "save_pretrained"):
            raise TypeError(f"argument 'model' must be a model or a folder, got {type(model).__name__}")
        model.save_pretrained(out)
        (out / "README.md").unlink(missing_ok=True)  # PEFT writes a template that names the local base
        system = _system_of(model)
    if processor is not None:
        if not hasattr(processor, "save_pretrained"):
            raise TypeError(f"argument 'processor' must have save_pretrained, got {type(processor).__name__}")
        processor.save_pretrained(out)
    scrub_folder(out)
    _add_card(out, card, repo_id, system, base_model)
    _refuse_local_paths(out)
    files = [
        (path.relative_to(out).as_posix(), path.stat().st_size) for path in sorted(out.rglob("*")) if path.is_file()
    ]
    return PreparedFolder(out, tuple(files), tuple(left_out))


def _obsolete(existing: Sequence[str], new: Sequence[str], path_in_repo: str) -> list[str]:
    """Weight files on the hub that the new ones replace under other names (shards against one file)."""
    prefix = f"{path_in_repo}/" if path_in_repo else ""
    names = [name[len(prefix) :] for name in existing if name.startswith(prefix)]
    if not any(_matches(name, WEIGHT_PATTERNS) for name in new):
        return []
    gone = [n for n in names if "/" not in n and n not in new and any(fnmatch.fnmatch(n, p) for p in WEIGHT_PATTERNS)]
    return [prefix + name for name in gone]


def upload_prepared(
    prepared: PreparedFolder,
    repo_id: str,
    *,
    revision: str | None = None,
    commit_message: str | None = None,
    commit_description: str | None = None,
    token: str | bool | None = None,
    path_in_repo: str = "",
    create_pr: bool = False,
    keep_remote_card: bool = False,
) -> Any:
    """Upload a prepared folder to an existing repository as one commit, removing weight files it makes obsolete.

    Args:
        prepared (`PreparedFolder`): from `prepare_folder`.
        repo_id (`str`): `user/name`.
        revision, commit_message, commit_description, token, create_pr: as in `push_to_hub`.
        path_in_repo (`str`): folder in the repository.
        keep_remote_card (`bool`): leave a `README.md` that is already there.

    Returns:
        `huggingface_hub.CommitInfo`.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    api = HfApi(token=token)
    branch = revision if revision and not revision.startswith("refs/") else None
    if branch and branch != "main":
        api.create_branch(repo_id, branch=branch, exist_ok=True)
    names = [name for name, _ in prepared.files]
    existing = api.list_repo_files(repo_id, revision=revision)
    if keep_remote_card and "README.md" in existing:
        names = [name for name in names if name != "README.md"]
    prefix = f"{path_in_repo}/" if path_in_repo else ""
    operations: list[Any] = [
        CommitOperationAdd(path_in_repo=prefix + name, path_or_fileobj=str(prepared.folder / name)) for name in names
    ]
    operations += [CommitOperationDelete(path_in_repo=name) for name in _obsolete(existing, names, path_in_repo)]
    return api.create_commit(
        repo_id,
        operations,
        commit_message=commit_message or "Upload model",
        commit_description=commit_description,
        revision=revision,
        create_pr=create_pr,
    )


def push_to_hub(
    model: Any,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
    commit_description: str | None = None,
    token: str | bool | None = None,
    create_pr: bool = False,
    processor: Any = None,
    card: Mapping[str, Any] | str | os.PathLike | bool | None = None,
    tags: Sequence[str] | None = None,
    base_model: str | None = None,
    allow: Sequence[str] = (),
    verbose: bool = True,
) -> Any:
    """Push a model, a PEFT adapter or a checkpoint folder to the hub.

    Uploaded are safetensors, configuration, processor and card, in one commit; the files and their sizes are shown
    first. Local paths in configurations are blanked. State for resuming, `training_args.bin`, inner checkpoints and
    hidden files stay at home; any other pickle, and any text that names a local path, stops the push before a byte is
    sent.

    Args:
        model: a model, a PEFT model, or a folder.
        repo_id (`str`): `user/name` (or `name`, in your own account); made when missing.
        private (`bool`, *optional*): make a new repository private; nothing changes on an existing one.
        revision (`str`, *optional*): branch; made when missing. `main` by default.
        commit_message, commit_description (`str`, *optional*): of the commit.
        token (`str` or `bool`, *optional*): access token; the one of `hf auth login` by default.
        create_pr (`bool`): open a pull request instead of committing.
        processor (*optional*): pushed beside the model.
        card: `dict` of arguments for `write_model_card`, the path of a finished card, or `False` for none. By default a
            folder's own `README.md` goes along; for a model a plain card is written, unless the repository has one
            already, which is then left as it is.
        tags (`Sequence[str]`, *optional*): further tags for a card that is written here.
        base_model (`str`, *optional*): hub id of the model it was trained from, see `prepare_folder`.
        allow (`Sequence[str]`): patterns of files that are pushed although they are pickles, for example
            `["optimizer.pt"]`.
        verbose (`bool`): show the list of files.

    Returns:
        `huggingface_hub.CommitInfo`: the commit; it is also the text of its address.

    Raises:
        ValueError: a pickle or a local path; the message names the file (and line).
        FileNotFoundError: the folder is no checkpoint.

    Example:

    ```python
    >>> from hf_contrastive.hub import push_to_hub
    >>> push_to_hub("out/simclr", "me/simclr-digits", private=True)  # doctest: +SKIP

    ```
    """
    from huggingface_hub import HfApi

    if tags is not None:
        if isinstance(card, (str, os.PathLike)) or card is False:
            raise ValueError("argument 'tags' is for a card that is written here; put the tags into the given card.")
        tags = [tags] if isinstance(tags, str) else list(tags)
        card = {**(card if isinstance(card, Mapping) else {}), "tags": tags}
        keep_remote_card = False
    else:
        keep_remote_card = card is None and not isinstance(model, (str, os.PathLike))
    with tempfile.TemporaryDirectory(prefix="hf_contrastive_push_") as temporary:
        prepared = prepare_folder(
            model,
            Path(temporary) / "upload",
            processor=processor,
            card=card,
            repo_id=repo_id,
            base_model=base_model,
            allow=allow,
        )
        if verbose:
            print(f"pushing to {repo_id}{f' ({revision})' if revision else ''}:\n{prepared.listing()}", flush=True)
        repo_id = HfApi(token=token).create_repo(repo_id, private=private, exist_ok=True).repo_id
        return upload_prepared(
            prepared,
            repo_id,
            revision=revision,
            commit_message=commit_message,
            commit_description=commit_description,
            token=token,
            create_pr=create_pr,
            keep_remote_card=keep_remote_card,
        )
