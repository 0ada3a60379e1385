"""Configurations of the encoders of programs."""

from huggingface_hub.dataclasses import strict

from hf_contrastive.configuration_utils import ContrastiveConfig, require


@strict
class CodeTransformerConfig(ContrastiveConfig):
    r"""
    Configuration of [`CodeTransformerModel`]: a transformer over the tokens of a program (https://arxiv.org/abs/2206.08726,
    section 3.2; sizes from the official code).

    Args:
        vocab_size (`int`, defaults to 20000): tokens (official code).
        hidden_size (`int`, defaults to 128): size of the states and of the output (official code).
        num_attention_heads (`int`, defaults to 8): heads, which divide `hidden_size` (official code; 2 for SwAV on POJ-104).
        num_hidden_layers (`int`, defaults to 4): layers (official code; 2 for SwAV on POJ-104).
        intermediate_size (`int`, defaults to 1024): hidden size of the feed-forward part (official code).
        max_position_embeddings (`int`, defaults to 384): longest program in tokens, the first one included (official code).
        embedding_dropout (`float`, defaults to 0.5): dropout after the sum of token and position (official code).
        dropout (`float`, defaults to 0.1): dropout inside the layers (official code).
        pad_token_id (`int`, defaults to 0): the id that fills up (official code).
        bos_token_id (`int`, defaults to 2): the first token, whose state is the output (official code).
        eos_token_id (`int`, defaults to 3): end of a program (official code).

    Example:

    ```python
    >>> from hf_contrastive import CodeTransformerConfig
    >>> CodeTransformerConfig(num_hidden_layers=2).hidden_size
    128

    ```
    """

    model_type = "code_transformer"

    vocab_size: int = 20000
    hidden_size: int = 128
    num_attention_heads: int = 8
    num_hidden_layers: int = 4
    intermediate_size: int = 1024
    max_position_embeddings: int = 384
    embedding_dropout: float | int = 0.5
    dropout: float | int = 0.1
    pad_token_id: int | None = 0
    bos_token_id: int | None = 2
    eos_token_id: int | list[int] | None = 3

    def validate_architecture(self) -> None:
        """Refuse sizes that no network has."""
        for name in ("vocab_size", "num_hidden_layers", "intermediate_size", "max_position_embeddings"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        heads = self.num_attention_heads
        require(heads >= 1, "num_attention_heads", heads, "1 or more")
        good = self.hidden_size >= 2 and self.hidden_size % 2 == 0 and self.hidden_size % heads == 0
        require(good, "hidden_size", self.hidden_size, f"even and a multiple of the {heads} heads")
        for name in ("embedding_dropout", "dropout"):
            require(0 <= getattr(self, name) < 1, name, getattr(self, name), "from 0 to below 1")


@strict
class CodePathsConfig(ContrastiveConfig):
    r"""
    Configuration of [`CodePathsModel`], "code2class": paths between the leaves of a syntax tree
    (https://arxiv.org/abs/2206.08726, section 3.2; sizes from the official code).

    Args:
        token_vocab_size (`int`, defaults to 10000): parts of the names and numbers at the leaves; id 0 fills up.
        node_vocab_size (`int`, defaults to 512): types of the nodes; id 0 fills up.
        embedding_size (`int`, defaults to 128): size of the embeddings of both (official code).
        rnn_size (`int`, defaults to 128): size of each direction of the LSTM over a path (official code).
        classifier_size (`int`, defaults to 128): size of a path's vector and of the hidden layers (official code).
        classifier_layers (`int`, defaults to 2): hidden layers after the attention (official code).
        output_size (`int`, defaults to 128): size of the output (official code).
        dropout (`float`, defaults to 0.25): dropout of the parts of a path (official code).
        output_softmax (`bool`, defaults to `False`): softmax over the output, as the official code's classifier has it since a
            later version of its library; embeddings are then no longer free in sign.

    Example:

    ```python
    >>> from hf_contrastive import CodePathsConfig
    >>> CodePathsConfig(output_size=64).hidden_size
    64

    ```
    """

    model_type = "code_paths"

    token_vocab_size: int = 10000
    node_vocab_size: int = 512
    embedding_size: int = 128
    rnn_size: int = 128
    classifier_size: int = 128
    classifier_layers: int = 2
    output_size: int = 128
    dropout: float | int = 0.25
    output_softmax: bool = False

    @property
    def hidden_size(self) -> int:
        """Size of the output."""
        return self.output_size

    def validate_architecture(self) -> None:
        """Refuse sizes that no network has."""
        for name in ("token_vocab_size", "node_vocab_size", "embedding_size", "rnn_size", "classifier_size"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        require(self.classifier_layers >= 0, "classifier_layers", self.classifier_layers, "0 or more")
        require(self.output_size >= 1, "output_size", self.output_size, "1 or more")
        require(0 <= self.dropout < 1, "dropout", self.dropout, "from 0 to below 1")


@strict
class CodeGraphConfig(ContrastiveConfig):
    r"""
    Configuration of [`CodeGraphModel`]: graph convolution with softmax aggregation (GENConv of DeeperGCN,
    https://arxiv.org/abs/2006.07739) over a graph of a program (https://arxiv.org/abs/2206.08726, section 3.2; sizes from the
    official code).

    Args:
        node_vocab_size (`int`, defaults to 512): types of nodes.
        edge_vocab_size (`int`, defaults to 16): types of edges.
        embedding_size (`int`, defaults to 128): size of the nodes' states (official code).
        conv_mlp_layers (`int`, defaults to 6): linear layers of the network inside a convolution (the official code's
            `num_layers`, which is no number of message passing rounds).
        num_conv_layers (`int`, defaults to 1): rounds of message passing; 1 in the official code, more in the paper it names
            (further ones are residual, with layer norm and ReLU before).
        hidden_size (`int`, defaults to 128): hidden layer after the pooling (official code).
        output_size (`int`, defaults to 128): size of the output (official code).
        message_eps (`float`, defaults to 1e-7): added to every message (official code).
        softmax_temperature (`float`, defaults to 1.0): factor of the messages inside the softmax (official code).

    Example:

    ```python
    >>> from hf_contrastive import CodeGraphConfig
    >>> CodeGraphConfig(num_conv_layers=3).conv_mlp_layers
    6

    ```
    """

    model_type = "code_graph"

    node_vocab_size: int = 512
    edge_vocab_size: int = 16
    embedding_size: int = 128
    conv_mlp_layers: int = 6
    num_conv_layers: int = 1
    hidden_size: int = 128
    output_size: int = 128
    message_eps: float = 1e-7
    softmax_temperature: float | int = 1.0

    def validate_architecture(self) -> None:
        """Refuse sizes that no network has."""
        names = ("node_vocab_size", "edge_vocab_size", "embedding_size", "conv_mlp_layers", "num_conv_layers")
        for name in (*names, "hidden_size", "output_size"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        require(self.message_eps >= 0, "message_eps", self.message_eps, "0 or more")
        require(self.softmax_temperature > 0, "softmax_temperature", self.softmax_temperature, "above 0")


__all__ = ["CodeGraphConfig", "CodePathsConfig", "CodeTransformerConfig"]
