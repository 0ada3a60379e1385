"""State that only training needs."""

from __future__ import annotations

from typing import Any

from torch import nn

from hf_contrastive.distributed import broadcast_from_first, is_distributed


#: names of the parts that only classes with an objective have; an inference model leaves them aside, and they start anew
#: where a checkpoint lacks them
TRAINING_PARTS = (
    r"^(momentum_encoder|queue|memory_bank|predictor|running_correlation|prototypes|inter_head|entity_head)\."
)


class TrainingState(nn.Module):
    """Base of parts that training builds and nothing else needs: momentum encoders, queues, banks.

    Such a part has no trained weights. It is saved with a pre-training checkpoint and with the checkpoints of a run (so that
    a resumed run is the uninterrupted one), the inference class ignores it, adapters (LoRA) leave it out, and where a
    checkpoint does not hold it, it starts anew: see `init_state`.
    """

    #: whether it grows with the data or the queue: `save_pretrained(save_memory=False)` leaves it out
    is_memory: bool = False
    _synchronised: bool = False

    def init_state(self, model: Any) -> None:
        """Fill with start values; tensors that a checkpoint brought stay (use `transformers.initialization`).

        Args:
            model (`ContrastivePreTrainedModel`): the model this is a part of; its other parts are initialised.
        """

    def synchronise(self) -> None:
        """Take the first process's buffers, once: the processes may have been seeded differently, and
        DistributedDataParallel leaves memory alone. To be called before the buffers are read.
        """
        if is_distributed() and not self._synchronised:
            for buffer in self.buffers():
                broadcast_from_first(buffer)
        self._synchronised = True

    def after_step(self, model: Any) -> None:
        """What has to happen after each real optimiser step.

        Args:
            model (`ContrastivePreTrainedModel`): the model this is a part of.
        """


__all__ = ["TRAINING_PARTS", "TrainingState"]
