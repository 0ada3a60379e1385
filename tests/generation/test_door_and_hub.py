"""The friendly door (streamer, stop strings, texts) and the repository that works without this package."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from helpers.text_models import letter_tokenizer, padded, prompts, tiny_model
from transformers import GPT2LMHeadModel, TextIteratorStreamer

from hf_contrastive import contrastive_search
from hf_contrastive.generation import (
    ContrastiveGenerationMixin,
    generate_contrastive,
    save_contrastive_search,
)


@pytest.fixture(scope="module")
def tokenizer():
    return letter_tokenizer()


LENGTH = {"max_new_tokens": 8, "min_new_tokens": 8}


def test_texts_in_texts_out(tokenizer):
    model = tiny_model("gpt2")
    one = generate_contrastive(model, "hello", tokenizer, **LENGTH)
    both = generate_contrastive(model, ["hello", "contrast"], tokenizer, **LENGTH)
    assert isinstance(one, str)
    assert len(one) == 8
    assert both[0] == one
    ids = tokenizer("hello", return_tensors="pt")
    direct = model.generate(**ids, custom_generate=contrastive_search, penalty_alpha=0.6, top_k=4, **LENGTH)
    assert tokenizer.decode(direct[0, 5:]) == one


@pytest.mark.parametrize("name", ["gpt2", "t5"])
def test_ids_and_mappings(name):
    model, rows = tiny_model(name), prompts(6, 4)
    inputs = padded(model, rows)
    expected = model.generate(**inputs, custom_generate=contrastive_search, penalty_alpha=0.4, top_k=3, **LENGTH)
    assert torch.equal(generate_contrastive(model, inputs, penalty_alpha=0.4, top_k=3, **LENGTH), expected)
    row = generate_contrastive(model, rows[0][None], **LENGTH)
    assert torch.equal(row, generate_contrastive(model, padded(model, rows[:1]), **LENGTH))


def test_streamer_gets_every_token(tokenizer):
    model = tiny_model("gpt2")
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True)
    text = generate_contrastive(model, "hello", tokenizer, streamer=streamer, **LENGTH)
    assert "".join(streamer) == text


def test_stop_strings(tokenizer):
    model = tiny_model("gpt2")
    whole = generate_contrastive(model, "hello", tokenizer, max_new_tokens=30, min_new_tokens=30)
    stop = whole[4:6]
    cut = generate_contrastive(model, "hello", tokenizer, max_new_tokens=30, stop_strings=stop)
    assert cut == whole[: whole.index(stop) + 2]


def test_what_the_door_refuses(tokenizer):
    model = tiny_model("gpt2")
    for inputs, options, message in (
        ("hello", {}, "texts need a tokenizer"),
        (prompts(5)[0][None], {"stop_strings": "x"}, "`stop_strings` need a tokenizer"),
        ("", {"tokenizer": tokenizer}, "empty text"),
        ([], {"tokenizer": tokenizer}, "empty"),
        ("hello", {"tokenizer": tokenizer, "custom_generate": contrastive_search}, "`custom_generate` is set by"),
    ):
        with pytest.raises(ValueError, match=message):
            generate_contrastive(model, inputs, max_new_tokens=2, **options)


def test_mixin(tokenizer):
    class Model(ContrastiveGenerationMixin, GPT2LMHeadModel):
        pass

    plain = tiny_model("gpt2")
    model = Model(plain.config).eval()
    model.load_state_dict(plain.state_dict())
    inputs = padded(model, prompts(6, 4))
    expected = plain.generate(**inputs, custom_generate=contrastive_search, penalty_alpha=0.6, top_k=4, **LENGTH)
    assert torch.equal(model.generate(**inputs, penalty_alpha=0.6, top_k=4, **LENGTH), expected)
    # without the setting it is transformers' own generate
    assert torch.equal(model.generate(**inputs, **LENGTH), plain.generate(**inputs, **LENGTH))
    # from the generation config, with a streamer
    model.generation_config.penalty_alpha, model.generation_config.top_k = 0.6, 4
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True)
    found = model.generate(**padded(model, prompts(6)), streamer=streamer, **LENGTH)
    assert "".join(streamer) == tokenizer.decode(found[0, 6:])


SCRIPT = """
import sys
sys.modules["hf_contrastive"] = None  # the package is not there
import torch
from transformers import AutoModelForCausalLM, TextStreamer
model = AutoModelForCausalLM.from_pretrained(sys.argv[1]).eval()
ids = torch.tensor([[5, 6, 7, 8]])
class Seen:
    def __init__(self): self.tokens, self.ended = [], False
    def put(self, value): self.tokens += value.flatten().tolist()
    def end(self): self.ended = True
seen = Seen()
options = dict(attention_mask=torch.ones_like(ids), custom_generate=sys.argv[2], trust_remote_code=True)
out = model.generate(ids, penalty_alpha=0.6, top_k=4, max_new_tokens=8, min_new_tokens=8, streamer=seen, **options)
assert seen.ended and seen.tokens == out[0].tolist(), seen.tokens
print(out[0].tolist())
"""


def test_repository_works_without_the_package(tmp_path):
    model = tiny_model("llama")
    model.save_pretrained(tmp_path / "model")
    save_contrastive_search(tmp_path / "search", "me/search")
    source = (tmp_path / "search" / "custom_generate" / "generate.py").read_text()
    assert not [
        line for line in source.splitlines() if line.startswith(("from hf_contrastive", "import hf_contrastive"))
    ]
    assert "custom_generate" in (tmp_path / "search" / "README.md").read_text()
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "model"), str(tmp_path / "search")],
        capture_output=True, text=True, env=environment, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    ids = torch.tensor([[5, 6, 7, 8]])
    expected = generate_contrastive(model, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, **LENGTH)
    assert done.stdout.strip().splitlines()[-1] == str(expected[0].tolist())


def test_push_to_the_hub(hub_server):
    hub_server.run(
        "from hf_contrastive.generation import push_contrastive_search_to_hub as push\n"
        "push('me/contrastive-search', private=True)"
    )
    files = hub_server.files("me/contrastive-search")
    assert set(files) >= {"README.md", "custom_generate/generate.py"}
    assert b"def generate(model" in files["custom_generate/generate.py"]
    assert hub_server.is_private("me/contrastive-search")
