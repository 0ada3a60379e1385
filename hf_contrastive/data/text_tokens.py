"""Tokenizers of one's own for small text encoders: words, word pieces or characters."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


KINDS = ("word", "wordpiece", "character")
_PAD, _UNKNOWN, _FIRST, _LAST, _MASK = "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"
#: what the names of brands are made of, after lower case
LATIN_CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789 &.-+'"
_SPECIAL = [_PAD, _UNKNOWN, _FIRST, _LAST, _MASK]


def train_word_tokenizer(
    texts: Iterable[str],
    kind: str = "word",
    *,
    vocab_size: int = 30_000,
    max_length: int = 32,
    lowercase: bool = True,
    mark_ends: bool = False,
) -> Any:
    """A tokenizer learned from texts, for a text encoder that is trained from nothing.

    Texts are brought into one Unicode form first (NFKC). Padding is token 0, whatever was never seen token 1.

    Args:
        texts (iterable of `str`): what to learn from.
        kind (`str`, defaults to `"word"`): `"word"` (words and marks as they stand), `"wordpiece"` (as BERT's, which splits rare
            words) or `"character"` (where spelling is noisy, or words are not separated).
        vocab_size (`int`, defaults to 30000): most tokens; the rarest are left out.
        max_length (`int`, defaults to 32): tokens at which texts are cut, `[CLS]` and `[SEP]` included.
        lowercase (`bool`, defaults to `True`): whether capitals do not matter.
        mark_ends (`bool`, defaults to `False`): put `[CLS]` before and `[SEP]` after every text, as BERT expects.

    Returns:
        `PreTrainedTokenizerFast`.

    Raises:
        ValueError: an unknown kind, a vocabulary without room for a token, or no texts.

    Example:

    ```python
    >>> from hf_contrastive.data import train_word_tokenizer
    >>> tokenizer = train_word_tokenizer(["a red cat", "a blue dog"])
    >>> tokenizer.convert_ids_to_tokens(tokenizer("A red bird")["input_ids"])
    ['a', 'red', '[UNK]']

    ```
    """
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    if kind not in KINDS:
        raise ValueError(f"`kind` is {kind!r}, expected one of {', '.join(KINDS)}.")
    if vocab_size <= len(_SPECIAL):
        raise ValueError(f"`vocab_size` is {vocab_size}, but {len(_SPECIAL)} tokens are special; give more.")
    least = 3 if mark_ends else 1
    if max_length < least:
        raise ValueError(f"`max_length` is {max_length}, but it must be {least} or more.")
    options: dict[str, Any] = {"vocab_size": vocab_size, "special_tokens": _SPECIAL, "show_progress": False}
    if kind == "wordpiece":
        tokenizer = Tokenizer(models.WordPiece(unk_token=_UNKNOWN))
        tokenizer.decoder = decoders.WordPiece()
    else:
        tokenizer = Tokenizer(models.WordLevel(unk_token=_UNKNOWN))
    steps = [normalizers.NFKC(), normalizers.Strip(), *([normalizers.Lowercase()] if lowercase else [])]
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.pre_tokenizer = (
        pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
        if kind == "character"
        else pre_tokenizers.BertPreTokenizer()
    )
    if kind == "character":
        tokenizer.decoder = decoders.Fuse()
    if kind == "wordpiece":
        texts = list(texts)
        # the trainer numbers them in an order that differs from process to process, and breaks ties by their numbers
        options["special_tokens"] = [*_SPECIAL, *_inner_characters(tokenizer, texts)]
    trainer = trainers.WordPieceTrainer(**options) if kind == "wordpiece" else trainers.WordLevelTrainer(**options)
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() == len(_SPECIAL):
        raise ValueError("`texts` hold no word to learn from; give at least one text.")
    if kind == "wordpiece":
        tokenizer = _with_vocabulary(tokenizer, models.WordPiece(tokenizer.get_vocab(), unk_token=_UNKNOWN))
    if mark_ends:
        first, last = tokenizer.token_to_id(_FIRST), tokenizer.token_to_id(_LAST)
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{_FIRST} $A {_LAST}",
            pair=f"{_FIRST} $A {_LAST} $B:1 {_LAST}:1",
            special_tokens=[(_FIRST, first), (_LAST, last)],
        )
    return _wrapped(tokenizer, max_length)


def _inner_characters(tokenizer: Any, texts: Iterable[str]) -> list[str]:
    """The pieces of one character that go on with a word, in the order of the alphabet."""
    found: set[str] = set()
    for text in texts:
        words = tokenizer.pre_tokenizer.pre_tokenize_str(tokenizer.normalizer.normalize_str(text))
        found.update(*(word[1:] for word, _ in words))
    return [f"##{character}" for character in sorted(found)]


def _with_vocabulary(tokenizer: Any, model: Any) -> Any:
    """A tokenizer that works as another one, with tokens of which only the usual ones are special."""
    from tokenizers import Tokenizer

    other = Tokenizer(model)
    for part in ("normalizer", "pre_tokenizer", "decoder"):
        setattr(other, part, getattr(tokenizer, part))
    other.add_special_tokens(_SPECIAL)
    return other


def character_tokenizer(characters: str = LATIN_CHARACTERS, *, max_length: int = 32) -> Any:
    """A tokenizer of single characters that are known beforehand, for short texts that were read in pictures.

    Texts are brought into one Unicode form (NFKC) and lower case first. Padding is token 0, any other character token 1.

    Args:
        characters (`str`, defaults to letters, digits, space and `&.-+'`): what is known.
        max_length (`int`, defaults to 32): characters at which texts are cut.

    Returns:
        `PreTrainedTokenizerFast`.

    Raises:
        ValueError: no character, or no room for one.

    Example:

    ```python
    >>> from hf_contrastive.data import character_tokenizer
    >>> tokenizer = character_tokenizer()
    >>> len(tokenizer), tokenizer.convert_ids_to_tokens(tokenizer("AT&T®")["input_ids"])
    (47, ['a', 't', '&', 't', '[UNK]'])

    ```
    """
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    if not characters:
        raise ValueError("`characters` is empty; give those that texts are made of.")
    if max_length < 1:
        raise ValueError(f"`max_length` is {max_length}, but it must be 1 or more.")
    known = [*_SPECIAL, *dict.fromkeys(characters)]
    tokenizer = Tokenizer(models.WordLevel({token: number for number, token in enumerate(known)}, unk_token=_UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Strip(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return _wrapped(tokenizer, max_length)


def _wrapped(tokenizer: Any, max_length: int) -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=_PAD,
        unk_token=_UNKNOWN,
        cls_token=_FIRST,
        sep_token=_LAST,
        mask_token=_MASK,
        model_max_length=max_length,
        model_input_names=["input_ids", "attention_mask"],
    )


__all__ = ["KINDS", "LATIN_CHARACTERS", "character_tokenizer", "train_word_tokenizer"]
