"""A pool of two processes joined by gloo, started once a test session: `gloo_pool.run(function, *args)`.

The function must be importable (top level of a test or helper file); it is called in both processes with the same
arguments and the two results come back in rank order. An exception in a process is raised again in the test, with the
process's traceback; a call that takes too long ends the pool, and the next call starts a new one.
"""

from __future__ import annotations

import contextlib
import importlib.util
import multiprocessing
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest


WORLD_SIZE = 2


def fresh_accelerator() -> None:
    """A process of the pool has one group and many trainers: accelerate forgets the last one, and is told what it asks for."""
    import torch.distributed as dist
    from accelerate.state import AcceleratorState, GradientState

    if dist.is_initialized():
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29500", LOCAL_WORLD_SIZE=str(dist.get_world_size()))
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


class RemoteError(AssertionError):
    """What went wrong in a process of the pool."""


def _load(path: str, name: str) -> Callable[..., Any]:
    """The function by file and name: test files are no packages, so the name of their module means nothing here."""
    key = "gloo_job_" + path.replace(os.sep, "_").replace(".", "_")
    module = sys.modules.get(key)
    if module is None:
        spec = importlib.util.spec_from_file_location(key, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[key] = module
        spec.loader.exec_module(module)
    function: Any = module
    for part in name.split("."):
        function = getattr(function, part)
    return function


def _worker(rank: int, rendezvous: str, paths: list[str], pipe: Connection) -> None:
    sys.path[:0] = [path for path in paths if path not in sys.path]
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(WORLD_SIZE))
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    try:
        dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=WORLD_SIZE)
        pipe.send((True, None))
    except BaseException:
        pipe.send((False, traceback.format_exc()))
        return
    while True:
        try:
            job = pipe.recv()
        except EOFError:
            return
        if job is None:
            dist.destroy_process_group()
            return
        path, name, args = job
        try:
            pipe.send((True, _load(path, name)(*args)))
        except BaseException:
            pipe.send((False, traceback.format_exc()))


class GlooPool:
    """Two processes of one gloo group that wait for work."""

    def __init__(self, timeout: float = 120.0) -> None:
        self.timeout = timeout
        self.processes: list[Any] = []
        self.pipes: list[Connection] = []

    def start(self) -> None:
        # tensors travel by pickle through a pipe: by value, so that no file handle outlives its process
        context = multiprocessing.get_context("spawn")
        self.folder = tempfile.TemporaryDirectory(prefix="gloo_")
        rendezvous = str(Path(self.folder.name) / "rendezvous")
        for rank in range(WORLD_SIZE):
            ours, theirs = context.Pipe()
            process = context.Process(target=_worker, args=(rank, rendezvous, list(sys.path), theirs), daemon=True)
            process.start()
            theirs.close()
            self.processes.append(process)
            self.pipes.append(ours)
        self._results("start of the pool", self.timeout)

    def run(self, function: Callable[..., Any], *args: Any, timeout: float | None = None) -> list[Any]:
        """Call the function in both processes; the results in rank order. `timeout` in seconds."""
        if not all(process.is_alive() for process in self.processes) or not self.processes:
            self.kill()
            self.start()
        path = sys.modules[function.__module__].__file__
        assert path is not None
        for pipe in self.pipes:
            pipe.send((path, function.__qualname__, args))
        return self._results(function.__qualname__, self.timeout if timeout is None else timeout)

    def _results(self, what: str, timeout: float) -> list[Any]:
        deadline = time.monotonic() + timeout
        answers: list[Any] = []
        failed = None
        for rank, pipe in enumerate(self.pipes):
            try:
                # a failed process leaves the other one waiting in a collective: do not wait long for that
                wait = max(0.0, deadline - time.monotonic()) if failed is None else 5.0
                if not pipe.poll(wait):
                    others = self._early_failure(rank)
                    self.kill()
                    raise RemoteError(others or failed or f"{what}: rank {rank} gave no result within {timeout:.0f} s")
                good, value = pipe.recv()
            except (EOFError, ConnectionError):
                self.kill()
                raise RemoteError(failed or f"{what}: the process of rank {rank} died") from None
            if not good and failed is None:
                failed = f"{what}, rank {rank}:\n{value}"
            answers.append(value)
        if failed is not None:
            raise RemoteError(failed)
        return answers

    def _early_failure(self, waiting: int) -> str | None:
        """The traceback of a later rank that failed while an earlier one kept waiting for it."""
        for rank in range(waiting + 1, len(self.pipes)):
            if self.pipes[rank].poll(0):
                good, value = self.pipes[rank].recv()
                if not good:
                    return f"rank {rank}:\n{value}"
        return None

    def stop(self) -> None:
        """Let the processes end by themselves; kill those that do not."""
        for pipe in self.pipes:
            with contextlib.suppress(OSError):
                pipe.send(None)
        for process in self.processes:
            process.join(5)
        self.kill()

    def kill(self) -> None:
        for process in self.processes:
            if process.is_alive():
                process.kill()
            process.join()
        for pipe in self.pipes:
            pipe.close()
        self.processes, self.pipes = [], []
        if hasattr(self, "folder"):
            self.folder.cleanup()


@pytest.fixture(scope="session")
def gloo_pool() -> Iterator[GlooPool]:
    pool = GlooPool()
    yield pool
    pool.stop()
