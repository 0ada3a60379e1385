"""Tokenizers that are learned: the same in every process, or several processes and resumed runs would read texts differently."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest


LEARN = """
import json
from hf_contrastive.data import train_word_tokenizer
texts = [" ".join(f"{a}{b}{c}ing" for b in "abcdefgh" for c in "stuvwxyz") for a in "klmnopqr"]
print(json.dumps(train_word_tokenizer(texts, KIND, vocab_size=120).get_vocab(), sort_keys=True))
"""


@pytest.mark.parametrize("kind", ["word", "wordpiece", "character"])
def test_every_process_learns_the_same(kind):
    made = [
        subprocess.run(
            [sys.executable, "-c", LEARN.replace("KIND", repr(kind))],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        ).stdout
        for _ in range(3)
    ]
    assert len(set(made)) == 1
    vocabulary = json.loads(made[0])
    assert sorted(vocabulary.values()) == list(range(len(vocabulary)))
    assert [vocabulary[token] for token in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")] == [0, 1, 2, 3, 4]


def test_only_the_usual_tokens_are_special():
    from hf_contrastive.data import train_word_tokenizer

    tokenizer = train_word_tokenizer(["retract the retractor", "a red trocar"], "wordpiece", vocab_size=60)
    assert not [token for token in tokenizer.all_special_tokens if token.startswith("##")]
    # what looks like a piece in a text is text
    assert "##r" not in tokenizer.tokenize("##r")
    assert (
        tokenizer.decode(tokenizer("retract the trocar")["input_ids"], skip_special_tokens=True)
        == "retract the trocar"
    )
