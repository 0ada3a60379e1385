"""`hf-contrastive env`: what a bug report needs, and nothing private."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from hf_contrastive.cli.common import examples, print_json, print_table


EXAMPLES = examples("hf-contrastive env", "hf-contrastive env --json")
PACKAGES = (
    "hf-contrastive",
    "torch",
    "torchvision",
    "transformers",
    "datasets",
    "accelerate",
    "peft",
    "huggingface-hub",
    "evaluate",
    "safetensors",
    "scikit-learn",
    "faiss-cpu",
)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _extras() -> dict[str, list[str]]:
    """The extras of the installed package and the packages each brings."""
    found: dict[str, list[str]] = {}
    try:
        distribution = importlib.metadata.distribution("hf-contrastive")
    except importlib.metadata.PackageNotFoundError:
        return found
    for extra in distribution.metadata.get_all("Provides-Extra") or ():
        found[extra] = []
    for requirement in distribution.requires or ():
        name, _, marker = requirement.partition(";")
        for extra in found:
            if f'extra == "{extra}"' in marker.replace("'", '"'):
                package = name.strip()
                for stop in "<>=!~ [":
                    package = package.partition(stop)[0]
                found[extra].append(package)
    return found


def _extra_state(extra: str, packages: list[str]) -> str:
    missing = [package for package in packages if package != "hf-contrastive" and _version(package) is None]
    if not missing:
        return "installed"
    return f'missing {", ".join(missing)}; type: pip install "hf-contrastive[{extra}]"'


def _memory() -> str:
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return "unknown"
    return f"{total / 2**30:.1f} GiB"


def _cores() -> str:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{usable} usable of {os.cpu_count()}"


def _devices() -> str:
    import torch

    if not torch.cuda.is_available():
        return "none; MPS usable" if torch.backends.mps.is_available() else "none"
    names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return f"{torch.version.cuda}: {', '.join(names)}"


def _cache() -> tuple[str, str]:
    """Where the hub's files are kept, without names of users or machines, and whether it can be written to."""
    given = os.environ.get("HF_HOME")
    folder = Path(given or "~/.cache/huggingface").expanduser()
    home = Path.home()
    if folder.is_relative_to(home):
        shown = str(Path("~") / folder.relative_to(home))
    else:
        shown = "a folder outside the home folder"
    shown += " (set by HF_HOME)" if given else ""
    existing = folder
    while not existing.exists():
        existing = existing.parent
    try:
        with tempfile.TemporaryFile(dir=existing):
            writable = "yes"
    except OSError as error:
        writable = f"no ({error.strerror}); set HF_HOME to a folder that can be written to"
    else:
        writable += f", {shutil.disk_usage(existing).free / 2**30:.1f} GiB free"
    return shown, writable


def collect() -> dict[str, dict[str, str]]:
    """Everything the command prints, by group."""
    cache, writable = _cache()
    ffmpeg = "found" if shutil.which("ffmpeg") else "not found"
    codec = _version("torchcodec")
    codec_text = (
        codec or "not installed (needed for datasets' Audio and Video columns only); type: pip install torchcodec"
    )
    return {
        "packages": {name: _version(name) or f"not installed; type: pip install {name}" for name in PACKAGES},
        "machine": {
            "python": platform.python_version(),
            "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
            "cores": _cores(),
            "memory": _memory(),
            "CUDA": _devices(),
        },
        "extras": {extra: _extra_state(extra, packages) for extra, packages in sorted(_extras().items())},
        "audio and video": {"torchcodec": codec_text, "FFmpeg program": ffmpeg},
        "hub": {
            "cache": cache,
            "cache writable": writable,
            "offline": "yes (HF_HUB_OFFLINE)" if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0") else "no",
        },
    }


def command(as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False) -> None:
    """Print versions, devices and settings for a bug report; no names, no secrets, no network."""
    found = collect()
    if as_json:
        print_json(found)
        return
    rows = []
    for group, facts in found.items():
        rows += [[group if number == 0 else "", name, value] for number, (name, value) in enumerate(facts.items())]
    print_table(None, rows)
