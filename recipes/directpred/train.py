"""DirectPred: train an image encoder with a predictor that is set, not trained, beside other predictors; measure it, save it.

accelerate launch recipes/directpred/train.py recipes/directpred/digits.yaml
"""

from __future__ import annotations

from hf_contrastive import get_system
from hf_contrastive.recipes import arms


# the predictor is the only difference; the last one is the checkpoint
ARMS = {
    "none": arms.Arm("no predictor", "directpred", {"predictor_mode": "none"}),
    "linear": arms.Arm("trained linear predictor", "directpred", {"predictor_mode": "linear"}),
    "symmetric": arms.Arm("trained symmetric predictor", "directpred", {"predictor_mode": "symmetric"}),
    "byol": arms.Arm("trained two-layer predictor (BYOL)", "directpred", {"predictor_mode": "mlp"}),
    "direct_copy": arms.Arm("DirectCopy", "directpred", {"predictor_mode": "direct_copy"}),
    "simclr": arms.Arm("SimCLR", "simclr"),
    "direct_pred": arms.Arm("DirectPred", "directpred"),
}
EXAMPLE = """accelerate launch recipes/directpred/train.py recipes/directpred/digits.yaml --eps 0.3 --freq 5
accelerate launch recipes/directpred/train.py recipes/directpred/digits.yaml --predictor_mode direct_set --power 1
accelerate launch recipes/directpred/train.py recipes/directpred/small.yaml --dataset_path my_photos --arms linear direct_pred"""


def main() -> None:
    # data, model, training, measuring and saving are the same for all systems of this family: hf_contrastive/recipes/arms.py
    arms.run(
        get_system("directpred"),
        description=(
            "Train DirectPred (https://arxiv.org/abs/2102.06810) on images, alone or beside other predictors, measure the "
            "features, save the encoder."
        ),
        example=EXAMPLE,
        arms=ARMS,
    )


if __name__ == "__main__":
    main()
