"""What the common suite must know about the library's backbones."""

from __future__ import annotations

from typing import Any

from helpers.programs import code_backbones, code_inputs
from helpers.testers import ModelTester, Refusal, image_backbones, random_images


class _BackboneTester(ModelTester):
    def configs(self) -> dict[str, Any]:
        return {"tiny": image_backbones()[self.model_type]}

    def inputs(self, config: Any, batch: int, seed: int) -> dict[str, Any]:
        return {"pixel_values": random_images(batch, config.num_channels, 16, 16, seed=seed)}

    single_inputs = inputs

    def readout_sizes(self, config: Any) -> dict[str, int]:
        return {"backbone": config.hidden_size}


class ConvEncoderTester(_BackboneTester):
    """Stages of convolution and pooling."""

    model_type = "conv_encoder"
    can_freeze = ("stages",)
    refusals = (
        Refusal({"channels": []}, "channels", "positive numbers"),
        Refusal({"channels": [8, -1]}, "channels", "positive numbers"),
        Refusal({"kernel_size": 4}, "kernel_size", "odd"),
        Refusal({"num_channels": 0}, "num_channels", "1 or more"),
        Refusal({"batch_norm_eps": 0.0}, "batch_norm_eps", "above 0"),
    )

    def output_shapes(self, config: Any, batch: int) -> dict[str, tuple[int, ...]]:
        return {"last_hidden_state": (batch, 12, 4, 4), "pooler_output": (batch, 12)}


class CifarResNetTester(_BackboneTester):
    """Bottleneck blocks."""

    model_type = "cifar_resnet"
    can_freeze = ("stem", "groups")
    refusals = (
        Refusal({"widths": [8, 8]}, "expansions", "2 groups"),
        Refusal({"widths": [0, 8, 8]}, "widths", "at least 1"),
        Refusal({"strides": [1, 2]}, "strides", "3 groups"),
        Refusal({"num_identity_blocks": [1, 1, -1]}, "num_identity_blocks", "at least 0"),
        Refusal({"stem_channels": 0}, "stem_channels", "1 or more"),
        Refusal({"num_channels": -3}, "num_channels", "1 or more"),
        Refusal({"padding": "valid"}, "padding", "'keras_same' or 'symmetric'"),
        Refusal({"batch_norm_eps": 0.0}, "batch_norm_eps", "above 0"),
    )

    def output_shapes(self, config: Any, batch: int) -> dict[str, tuple[int, ...]]:
        return {"last_hidden_state": (batch, 12, 8, 8), "pooler_output": (batch, 12)}


class SmallAlexNetTester(_BackboneTester):
    """Convolutions and wide linear layers for images of one size."""

    model_type = "small_alexnet"
    can_freeze = ("stages", "layers")
    refusals = (
        Refusal({"channels": [8, 8, 8]}, "channels", "five positive numbers"),
        Refusal({"hidden_size": 0}, "hidden_size", "1 or more"),
        Refusal({"image_size": 14}, "image_size", "15 or more"),
        Refusal({"num_channels": 0}, "num_channels", "1 or more"),
        Refusal({"initializer_range": 0.0}, "initializer_range", "above 0"),
    )

    def configs(self) -> dict[str, Any]:
        # wider first weights than the paper's: so small a network would hardly tell images apart
        sizes = {"channels": [6, 8, 8, 8, 6], "hidden_size": 12, "image_size": 16}
        return {"tiny": self.spec.config_class()(**sizes, initializer_range=0.3)}

    def output_shapes(self, config: Any, batch: int) -> dict[str, tuple[int, ...]]:
        return {"last_hidden_state": (batch, 12, 1, 1), "pooler_output": (batch, 12)}


class _CodeEncoderTester(ModelTester):
    kind: str

    def configs(self) -> dict[str, Any]:
        return {"tiny": code_backbones()[self.kind]}

    def inputs(self, config: Any, batch: int, seed: int) -> dict[str, Any]:
        return code_inputs(self.kind, config, (batch,), seed)

    single_inputs = inputs

    def readout_sizes(self, config: Any) -> dict[str, int]:
        return {"backbone": 10 if self.kind != "text" else 12}

    def output_shapes(self, config: Any, batch: int) -> dict[str, tuple[int, ...]]:
        return {"pooler_output": (batch, self.readout_sizes(config)["backbone"])}


class CodeTransformerTester(_CodeEncoderTester):
    """Tokens of a program."""

    model_type = "code_transformer"
    kind = "text"
    can_freeze = ("token_embedding", "layers")
    refusals = (
        Refusal({"vocab_size": 0}, "vocab_size", "1 or more"),
        Refusal({"num_attention_heads": 0}, "num_attention_heads", "1 or more"),
        Refusal({"hidden_size": 12}, "hidden_size", "a multiple of the 8 heads"),
        Refusal({"dropout": 1.0}, "dropout", "from 0 to below 1"),
    )


class CodePathsTester(_CodeEncoderTester):
    """Paths of the syntax tree."""

    model_type = "code_paths"
    kind = "ast"
    can_freeze = ("path_lstm",)
    refusals = (
        Refusal({"rnn_size": 0}, "rnn_size", "1 or more"),
        Refusal({"classifier_layers": -1}, "classifier_layers", "0 or more"),
        Refusal({"output_size": 0}, "output_size", "1 or more"),
        Refusal({"dropout": -0.1}, "dropout", "from 0 to below 1"),
    )


class CodeGraphTester(_CodeEncoderTester):
    """Graphs."""

    model_type = "code_graph"
    kind = "graph"
    can_freeze = ("convolutions",)
    refusals = (
        Refusal({"num_conv_layers": 0}, "num_conv_layers", "1 or more"),
        Refusal({"message_eps": -1.0}, "message_eps", "0 or more"),
        Refusal({"softmax_temperature": 0.0}, "softmax_temperature", "above 0"),
    )


TESTERS = (
    ConvEncoderTester,
    CifarResNetTester,
    SmallAlexNetTester,
    CodeTransformerTester,
    CodePathsTester,
    CodeGraphTester,
)
