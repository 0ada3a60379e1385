"""Settings for the whole suite: no network, few threads, quiet."""

from __future__ import annotations

import os


# Before anything from Hugging Face is imported: tests never reach a hub.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

from helpers.gloo import gloo_pool  # noqa: F401
from helpers.hub_server import hub_server  # noqa: F401
