"""Two processes of batch B train as one process of batch 2B."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.gloo import GlooPool
from training import gloo_training_jobs as jobs


pytestmark = pytest.mark.distributed


def _close(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor], tolerance: float) -> None:
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(
            one[name], two[name], rtol=0, atol=tolerance, msg=lambda text, n=name: f"{n}: {text}"
        )


@pytest.mark.parametrize(
    "options",
    [{}, {"gradient_cache_chunk_size": 3}, {"gradient_accumulation_steps": 2, "gradient_cache_chunk_size": 2}],
    ids=["plain", "cache", "accumulation and cache"],
)
def test_two_processes_equal_one_of_twice_the_batch(
    gloo_pool: GlooPool, tmp_path: Path, options: dict[str, Any]
) -> None:
    options = {"train_sampling_strategy": "sequential", **options}
    ranks = gloo_pool.run(_train, str(tmp_path / "two"), 4, options)
    one = jobs.train(str(tmp_path / "one"), 8, **options)
    _close(ranks[0]["state"], ranks[1]["state"], 0.0)
    _close(ranks[0]["state"], one["state"], 1e-9)
    assert ranks[0]["losses"] == pytest.approx(one["losses"], rel=1e-6)
    assert ranks[0]["norms"] == pytest.approx(one["norms"], rel=1e-6)
    assert bool(one["state"]["queue"].any())


def test_cached_gradients_of_two_processes_equal_one_big_batch(gloo_pool: GlooPool) -> None:
    expected = jobs.plain_gradients()
    for chunk_size in (1, 3, 4):
        for gradients in gloo_pool.run(jobs.cached_gradients, chunk_size, True):
            _close(gradients, expected, 1e-12)


def test_the_cache_shares_buffers_as_ddp_does(gloo_pool: GlooPool) -> None:
    for queue in gloo_pool.run(jobs.cached_buffers):
        assert bool((queue == 1).all())


def test_resume_is_exact_on_two_processes(gloo_pool: GlooPool, tmp_path: Path) -> None:
    for rank in gloo_pool.run(jobs.resume, str(tmp_path)):
        _close(rank["whole"]["state"], rank["resumed"]["state"], 0.0)
        assert rank["whole"]["losses"] == rank["resumed"]["losses"]


def test_a_global_batch_has_distinct_labels(gloo_pool: GlooPool, tmp_path: Path) -> None:
    one, two = gloo_pool.run(jobs.seen_batches, str(tmp_path))
    for mine, theirs in zip(one, two, strict=True):
        assert len({row // 2 for row in mine + theirs}) == 6


def test_evaluation_sees_every_row_once(gloo_pool: GlooPool, tmp_path: Path) -> None:
    ranks = gloo_pool.run(jobs.evaluate, str(tmp_path / "two"))
    one = jobs.evaluate(str(tmp_path / "one"))
    assert len(one["embeds"]) == 11
    for rank in ranks:
        torch.testing.assert_close(rank["embeds"], one["embeds"])
        assert torch.equal(rank["labels"], one["labels"])
        assert rank["numbers"] == pytest.approx(one["numbers"], rel=1e-6)


def test_streamed_rows_are_not_evaluated_by_several_processes(gloo_pool: GlooPool, tmp_path: Path) -> None:
    for text in gloo_pool.run(jobs.streamed_evaluation, str(tmp_path), timeout=60):
        assert "only data with a length" in text


def test_a_metric_that_fails_stops_all_processes(gloo_pool: GlooPool, tmp_path: Path) -> None:
    for text in gloo_pool.run(jobs.broken_metric, str(tmp_path), timeout=60):
        assert "no_such_thing" in text


def test_all_processes_stop_together_and_say_which_one_broke(gloo_pool: GlooPool, tmp_path: Path) -> None:
    for text in gloo_pool.run(jobs.non_finite, str(tmp_path)):
        assert "the loss is not finite at step 2" in text
        assert "rank 1: input values" in text
        assert "rank 0" not in text
        assert "finite weights: True" in text


def _train(folder: str, batch_size: int, options: dict[str, Any]) -> dict[str, Any]:
    return jobs.train(folder, batch_size, **options)
