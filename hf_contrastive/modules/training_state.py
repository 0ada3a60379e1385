"""State that only training needs."""

from __future__ import annotations

from typing import Any

from torch import nn


class TrainingState(nn.Module):
    """Base of parts that training builds and nothing else needs: momentum encoders, queues, banks.

    Such a part has no trained weights. It is saved with a pre-training checkpoint and with the checkpoints of a run (so that
    a resumed run is the uninterrupted one), the inference class ignores it, adapters (LoRA) leave it out, and where a
    checkpoint does not hold it, it starts anew: see `init_state`.
    """

    #: whether it grows with the data or the queue: `save_pretrained(save_memory=False)` leaves it out
    is_memory: bool = False

    def init_state(self, model: Any) -> None:
        """Fill with start values; tensors that a checkpoint brought stay (use `transformers.initialization`).

        Args:
            model (`ContrastivePreTrainedModel`): the model this is a part of; its other parts are initialised.
        """

    def after_step(self, model: Any) -> None:
        """What has to happen after each real optimiser step.

        Args:
            model (`ContrastivePreTrainedModel`): the model this is a part of.
        """


__all__ = ["TrainingState"]
