"""NPID: every view finds the memory-bank row of its own image among those of other images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch.nn.functional import normalize

from hf_contrastive.families.siamese.modeling_siamese import SiameseForPreTraining, SiameseModel
from hf_contrastive.losses import memory_bank_nce
from hf_contrastive.models.npid.configuration_npid import NPIDConfig
from hf_contrastive.modules.bank_sampling import draw_other_rows
from hf_contrastive.modules.memory_bank import MemoryBank
from hf_contrastive.outputs import ViewsOutput


class NPIDModel(SiameseModel):
    """NPID's backbone and projection head for inference; `encode` gives the features.

    Args:
        config ([`NPIDConfig`]): backbone and head.

    Example:

    ```python
    >>> import torch
    >>> from hf_contrastive import ConvEncoderConfig, NPIDConfig, NPIDModel
    >>> model = NPIDModel(NPIDConfig(backbone_config=ConvEncoderConfig(channels=[8, 16]), projection_dims=[8]))
    >>> model.encode(torch.rand(2, 3, 32, 32), readout="projection").shape
    torch.Size([2, 8])

    ```
    """

    config: NPIDConfig


class NPIDForPreTraining(SiameseForPreTraining):
    """NPID with its objective: InfoNCE of a view against a memory bank (https://arxiv.org/abs/1805.01978, equation 2, with
    the sum over drawn rows instead of all).

    The paper has one view of each image. With several each is compared with the bank, the loss is the mean over them, and
    the image's row moves towards the mean of their unit projections. Call `after_optimizer_step()` in a loop of your own: it
    updates the bank.

    Args:
        config ([`NPIDConfig`]): backbone, head, bank and temperature.

    Example:

    ```python
    >>> import torch
    >>> from hf_contrastive import ConvEncoderConfig, NPIDConfig, NPIDForPreTraining
    >>> backbone = ConvEncoderConfig(channels=[8, 16])
    >>> config = NPIDConfig(backbone_config=backbone, projection_dims=[8], num_samples=10, num_negatives=4)
    >>> model = NPIDForPreTraining(config)
    >>> model(torch.rand(4, 1, 3, 32, 32), index=torch.tensor([3, 0, 9, 5])).loss.backward()
    >>> model.after_optimizer_step()
    >>> int(model.memory_bank.num_updates)
    1

    ```
    """

    config: NPIDConfig
    objective_formula = (
        "InfoNCE: -log softmax(cosine / {temperature:g}) at the image's own row of a memory bank of {num_samples}, among "
        "{num_negatives} drawn rows"
    )
    min_views: ClassVar[int] = 1

    def build_training_parts(self) -> None:
        """The memory bank."""
        config = self.config
        self.memory_bank = MemoryBank(config.num_samples, (config.projection_dims or [0])[-1], config.bank_momentum)

    def compute_objective(
        self,
        embeds: dict[str, torch.Tensor],
        sample_ids: torch.Tensor | None = None,
        return_loss: bool = True,
        index: torch.Tensor | None = None,
        negative_index: torch.Tensor | None = None,
    ) -> ViewsOutput:
        """The objective over the views of the batch against the bank.

        Args:
            embeds (`dict`): what `embed_views` returns, for the whole batch.
            sample_ids (`torch.LongTensor` `[batch]`, *optional*): rows with the same id are never negatives.
            return_loss (`bool`, defaults to `True`): compute the loss.
            index (`torch.LongTensor` `[batch]`, *optional*): the images' numbers in the training set; needed for the loss.
            negative_index (`torch.LongTensor` `[batch, negatives]`, *optional*): the bank rows that are negatives; drawn
                among the other images' rows by default.

        Returns:
            [`ViewsOutput`].
        """
        terms: dict[str, torch.Tensor] = {}
        if return_loss:
            self.check_views(embeds, sample_ids)
            terms = self._terms(embeds["projections"], sample_ids, index, negative_index)
        return self.make_output(embeds, terms)

    def _terms(
        self,
        projections: torch.Tensor,
        sample_ids: torch.Tensor | None,
        index: torch.Tensor | None,
        negative_index: torch.Tensor | None,
    ) -> dict[str, torch.Tensor]:
        batch, views = projections.shape[:2]
        bank = self.memory_bank
        index = bank.check_index(index, batch)
        rows = index.repeat_interleave(views)
        if negative_index is None:
            draws = bank.draws(rows, torch.arange(views, device=rows.device).repeat(batch))
            negatives = draw_other_rows(bank.length, rows, self.config.num_negatives, draws)
        else:
            negatives = negative_index.repeat_interleave(views, 0)
        loss = memory_bank_nce(
            projections.flatten(0, 1),
            bank.features,
            rows,
            negatives,
            temperature=self.config.temperature,
            sample_ids=None if sample_ids is None else sample_ids.repeat_interleave(views),
            bank_ids=None if sample_ids is None else bank.ids,
        )
        if self.training:
            bank.stage(index, normalize(projections.detach(), dim=-1).mean(1), sample_ids)
        return {"loss": loss}

    def count_positives(self, views: int) -> int:
        """The image's own row."""
        return 1

    def count_negatives(self, rows: int, views: int) -> int:
        """Drawn rows of the bank."""
        return self.config.num_negatives

    def chance_loss(self, rows: int, views: int) -> float | None:
        """All rows alike: the log of the number of candidates."""
        return math.log(self.config.num_negatives + 1)

    def forward(
        self,
        pixel_values: torch.Tensor | Sequence[torch.Tensor],
        sample_ids: torch.Tensor | None = None,
        return_loss: bool = True,
        index: torch.Tensor | None = None,
        negative_index: torch.Tensor | None = None,
    ) -> ViewsOutput:
        """Embed views and compare them with the bank.

        Args:
            pixel_values (`torch.FloatTensor` `[batch, views, channels, height, width]`, or a sequence of one tensor
                `[batch, channels, height, width]` per view): the views; one of each image in the paper.
            sample_ids (`torch.LongTensor` `[batch]`, *optional*): rows with the same id are never negatives of each
                other (exact false-negative mask); the bank keeps the ids it has seen.
            return_loss (`bool`, defaults to `True`): compute the loss.
            index (`torch.LongTensor` `[batch]`, *optional*): the images' numbers in the training set (a MultiViewCollator
                hands them on); needed for the loss.
            negative_index (`torch.LongTensor` `[batch, negatives]`, *optional*): the bank rows that are negatives; drawn
                among the other images' rows by default.

        Returns:
            [`ViewsOutput`] with `loss`, `embeds` and `projections`.

        Raises:
            ValueError: a wrong shape, no `index`, or a number outside the bank.
        """
        if not isinstance(pixel_values, torch.Tensor):
            pixel_values = torch.stack(list(pixel_values), dim=1)
        return self.compute_objective(self.embed_views(pixel_values), sample_ids, return_loss, index, negative_index)


__all__ = ["NPIDForPreTraining", "NPIDModel"]
