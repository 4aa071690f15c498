"""Small text encoders of known shapes, built from a configuration and trained from scratch."""

from typing import Any

from torch import Tensor, nn

from rasura.data import Data
from rasura.errors import InputError


def distilbert(
    classes: int, vocabulary: int = 30522, width: int = 128, depth: int = 2, heads: int = 2, length: int = 512
) -> nn.Module:
    """A text encoder in DistilBERT's shape (Sanh et al., 2019), untrained.

    Args:
        vocabulary: number of tokens; what is left out is taken from the data.
        width: features per token; a multiple of `heads`.
        depth: number of blocks. 1 or more.
        heads: attention heads per block. 1 or more.
        length: tokens of the longest text. 1 or more.
    """
    _check(width, depth, heads, vocabulary, length)
    from transformers import DistilBertConfig, DistilBertForSequenceClassification

    shape: dict[str, Any] = {"dim": width, "n_layers": depth, "n_heads": heads, "hidden_dim": 4 * width}
    shape |= {"vocab_size": vocabulary, "max_position_embeddings": length, "num_labels": classes}
    return DistilBertForSequenceClassification(DistilBertConfig(**shape))


def bert(
    classes: int, vocabulary: int = 30522, width: int = 128, depth: int = 2, heads: int = 2, length: int = 512
) -> nn.Module:
    """A text encoder in BERT's shape (Devlin et al., 2019), untrained.

    Args:
        vocabulary: number of tokens; what is left out is taken from the data.
        width: features per token; a multiple of `heads`.
        depth: number of blocks. 1 or more.
        heads: attention heads per block. 1 or more.
        length: tokens of the longest text. 1 or more.
    """
    _check(width, depth, heads, vocabulary, length)
    from transformers import BertConfig, BertForSequenceClassification

    shape: dict[str, Any] = {
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "intermediate_size": 4 * width,
    }
    shape |= {"vocab_size": vocabulary, "max_position_embeddings": length, "num_labels": classes}
    return BertForSequenceClassification(BertConfig(**shape))


TEXT_ZOO = {"distilbert": distilbert, "bert": bert}
"""The encoders by name."""


def for_data(architecture: str, data: Data) -> str:
    """The architecture with the data's number of tokens, where it is an encoder of `TEXT_ZOO` that names none."""
    name = architecture.partition(",")[0].strip()
    if name not in TEXT_ZOO or "vocabulary=" in architecture:
        return architecture
    source = data.train.source
    ids = source.get("input_ids") if isinstance(source, dict) else None
    if not isinstance(ids, Tensor):
        raise InputError(f"data: {data.name} holds no texts; allowed: tokens (input_ids) for {name}")
    highest = max(int(part.source["input_ids"].max()) for part in (data.train, data.test))
    return f"{architecture},vocabulary={highest + 1}"


def _check(width: int, depth: int, heads: int, vocabulary: int, length: int) -> None:
    for name, value in (("depth", depth), ("heads", heads), ("vocabulary", vocabulary), ("length", length)):
        if value < 1:
            raise InputError(f"{name}: {value}; allowed: 1 or more")
    if width < heads or width % heads:
        raise InputError(f"width: {width} is no multiple of heads {heads}; allowed: a multiple of {heads}")
