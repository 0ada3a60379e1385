"""The queue beside the assignment to prototypes."""

from __future__ import annotations

import torch

from hf_contrastive.modules.assignment_queue import AssignmentQueue


def test_newest_first_and_any_size():
    queue = AssignmentQueue(num_views=2, size=5, dim=1)
    assert not queue.is_full
    for start in (1.0, 3.0, 5.0):
        queue.stage(torch.tensor([[[start], [start + 1]], [[-start], [-start - 1]]], requires_grad=True))
        before = queue.features.clone()
        assert torch.equal(before, queue.features)  # the forward pass changes nothing
        queue.after_step(None)
    assert queue.features[0].flatten().tolist() == [5, 6, 3, 4, 1]
    assert queue.features[1].flatten().tolist() == [-5, -6, -3, -4, -1]
    assert queue.is_full
    again = AssignmentQueue(2, 5, 1)
    again.load_state_dict(queue.state_dict())
    assert torch.equal(again.features, queue.features)
