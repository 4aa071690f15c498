"""Tokens of texts: those of a tokenizer of transformers, or the most frequent words."""

from collections import Counter
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from rasura.errors import InputError, first_line
from rasura.memory import check_room

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")

Tokens = dict[str, Tensor]
Tokenise = Callable[[Sequence[str]], Tokens]


def tokeniser(name: str | None, words: int, length: int, texts: Sequence[str]) -> Tokenise:
    """A function that turns texts into `input_ids` and `attention_mask`, both int64 `[N, length]`.

    Args:
        name: a tokenizer of transformers: a folder, or a name on the Hub; None: whole words, the most frequent ones of
            `texts`, in lower case.
        words: without a name, how many tokens there are, among them four special ones.
        length: tokens per text; longer texts are cut, shorter ones padded.
        texts: the training texts.

    Raises:
        InputError: no such tokenizer, or one that cannot pad.
    """
    return _words(words, length, texts) if name is None else _pretrained(name, length)


def _pretrained(name: str, length: int) -> Tokenise:
    try:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except (ImportError, OSError, ValueError, TypeError, RuntimeError) as error:
        raise InputError(f"tokenizer: {name} does not load ({first_line(error)}); allowed: a folder, a name") from None
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token is None:
        raise InputError(f"tokenizer: {name} has no token to pad with; allowed: one with a pad or an end token")

    def tokenise(texts: Sequence[str]) -> Tokens:
        found = tokenizer(list(texts), padding="max_length", truncation=True, max_length=length)
        return {key: torch.tensor(found[key]) for key in ("input_ids", "attention_mask")}

    return tokenise


def _words(words: int, length: int, texts: Sequence[str]) -> Tokenise:
    try:
        from tokenizers import normalizers, pre_tokenizers
    except ImportError:
        raise InputError("data: texts need transformers; allowed: pip install 'rasura[text]'") from None
    normalizer, splitter = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()

    def split(text: str) -> list[str]:
        return [piece for piece, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text))]

    counts = Counter(piece for text in texts for piece in split(text))
    ordered = sorted(counts, key=lambda piece: (-counts[piece], piece))  # ties by name: the same texts, the same words
    numbers = {piece: number for number, piece in enumerate((*SPECIAL, *ordered[: words - len(SPECIAL)]))}
    pad, unknown, start, end = range(len(SPECIAL))

    def tokenise(texts: Sequence[str]) -> Tokens:
        check_room(f"length: {len(texts)} texts of {length} tokens", 16 * len(texts) * length)  # with their mask
        ids = torch.full((len(texts), length), pad)
        for row, text in enumerate(texts):
            found = [start, *(numbers.get(piece, unknown) for piece in split(text)[: length - 2]), end]
            ids[row, : len(found)] = torch.tensor(found)
        return {"input_ids": ids, "attention_mask": (ids != pad).long()}

    return tokenise
