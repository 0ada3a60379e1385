"""Settings for the whole suite: no network, few threads, quiet."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile


# Before anything from Hugging Face is imported: tests never reach a hub.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
# Modules that `evaluate` and transformers copy, and tables of metrics: not in the user's caches, and each test process its own.
CACHES = tempfile.mkdtemp(prefix="hf-contrastive-tests-")
atexit.register(shutil.rmtree, CACHES, ignore_errors=True)
for _name in ("HF_MODULES_CACHE", "HF_METRICS_CACHE", "HF_EVALUATE_CACHE"):
    os.environ[_name] = os.path.join(CACHES, _name.lower())

from helpers.gloo import gloo_pool  # noqa: E402, F401
from helpers.hub_server import hub_server  # noqa: E402, F401
