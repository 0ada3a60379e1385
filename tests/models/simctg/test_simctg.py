"""What is SimCTG's own: the objective against a plain one, padding, generation, starting from a trained model."""

from __future__ import annotations

import json

import pytest
import torch
from helpers.text_models import letter_tokenizer, tiny_model
from huggingface_hub.errors import StrictDataclassError
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, GenerationConfig, GPT2Config, GPT2LMHeadModel, TextStreamer, pipeline

from hf_contrastive import SimCTGConfig, SimCTGForCausalLM, contrastive_search, get_system
from hf_contrastive.hub import export_backbone, write_model_card
from hf_contrastive.losses import next_token_loss, simctg_loss
from hf_contrastive.modules.lora import add_lora, lora_targets


def wrapped(name: str = "gpt2", **fields) -> SimCTGForCausalLM:
    return SimCTGForCausalLM.from_backbone(tiny_model(name), **fields).eval()


def batch(lengths=(7, 4)):
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(3, 61, (len(lengths), max(lengths)), generator=generator)
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    return ids * mask, mask


def naive(model, ids, mask, margin):
    """Loop over texts and pairs."""
    outputs = model.backbone(input_ids=ids, attention_mask=mask, output_hidden_states=True)
    losses, hinges = [], []
    for row in range(len(ids)):
        length = int(mask[row].sum())
        hidden = F.normalize(outputs.hidden_states[-1][row, :length], dim=-1)
        for i in range(length):
            if i + 1 < length:
                losses.append(-outputs.logits[row, i].log_softmax(-1)[ids[row, i + 1]])
            for j in range(length):
                if i != j:
                    hinges.append((margin - 1 + hidden[i] @ hidden[j]).clamp_min(0))
    return torch.stack(losses).mean(), torch.stack(hinges).mean()


@pytest.mark.parametrize("weight", [1.0, 0.3, 0.0])
def test_losses_are_those_of_the_paper(weight):
    model = wrapped(margin=0.6, contrastive_weight=weight).double()
    ids, mask = batch()
    outputs = model(ids, mask, labels=ids.masked_fill(mask == 0, -100))
    mle, contrastive = naive(model, ids, mask, 0.6)
    torch.testing.assert_close(outputs.mle_loss, mle)
    torch.testing.assert_close(outputs.contrastive_loss, contrastive)
    torch.testing.assert_close(outputs.loss, mle + weight * contrastive)
    found = torch.autograd.grad(outputs.loss, list(model.parameters()))
    expected = torch.autograd.grad(mle + weight * contrastive, list(model.parameters()))
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    # the usual loss is transformers' own
    own = model.backbone(input_ids=ids, attention_mask=mask, labels=ids.masked_fill(mask == 0, -100)).loss
    torch.testing.assert_close(outputs.mle_loss.float(), own.float())


def test_without_a_mask_runs_of_padding_do_not_count():
    model = wrapped()
    ids, mask = batch()
    labels = ids.masked_fill(mask == 0, -100)
    assert torch.equal(model(ids, labels=labels).loss, model(ids, mask, labels=labels).loss)
    # a pad token in the middle is a token
    ids[0, 2] = 0
    assert model.mask_of(ids)[0].tolist() == [1] * 7
    # where end of text and padding are one token, the first one behind the text is its end
    model.config.backbone_config.eos_token_id = 0
    assert model.mask_of(ids)[1].tolist() == [1, 1, 1, 1, 1, 0, 0]


def test_a_real_end_of_text_equal_to_padding_counts_with_a_mask():
    """The official code counts pad ids, so that the end of a text is lost when both are one token (GPT-2)."""
    model = wrapped()
    ids, mask = batch((7, 4))
    ids[0, -1] = 0  # a real token
    labels = ids.masked_fill(mask == 0, -100)
    with_end = model(ids, mask, labels=labels)
    shorter = mask.clone()
    shorter[0, -1] = 0
    without = model(ids, shorter, labels=labels.masked_fill(shorter == 0, -100))
    assert float((with_end.contrastive_loss - without.contrastive_loss).abs()) > 1e-6
    assert float((with_end.mle_loss - without.mle_loss).abs()) > 1e-6


def test_next_token_loss():
    logits, labels = torch.randn(2, 5, 9), torch.randint(0, 9, (2, 5))
    labels[0, 3] = labels[1, 0] = -100
    expected = F.cross_entropy(logits[:, :-1].reshape(-1, 9), labels[:, 1:].reshape(-1), ignore_index=-100)
    torch.testing.assert_close(next_token_loss(logits, labels), expected)
    assert float(next_token_loss(logits, torch.full_like(labels, -100))) == 0.0
    with pytest.raises(ValueError, match=r"must be \[batch, length, vocabulary\] and \[batch, length\]"):
        next_token_loss(logits, labels[:, :-1])
    assert float(simctg_loss(torch.randn(1, 1, 4))) == 0.0


@pytest.mark.parametrize("name", ["gpt2", "llama", "opt"])
def test_generation_is_that_of_the_language_model(name):
    backbone = tiny_model(name)
    model = wrapped(name)
    inputs = {"input_ids": torch.tensor([[5, 6, 7, 8]]), "attention_mask": torch.ones(1, 4, dtype=torch.long)}
    options = {"max_new_tokens": 9, "min_new_tokens": 9}
    for way in ({}, {"num_beams": 3}, {"custom_generate": contrastive_search, "penalty_alpha": 0.6, "top_k": 4}):
        assert torch.equal(model.generate(**inputs, **options, **way), backbone.generate(**inputs, **options, **way))
    found = model.generate(**inputs, **options, penalty_alpha=0.6, top_k=4)
    expected = backbone.generate(**inputs, **options, custom_generate=contrastive_search, penalty_alpha=0.6, top_k=4)
    assert torch.equal(found, expected)
    assert not torch.equal(found, model.generate(**inputs, **options))
    assert torch.equal(found, model.generate(**inputs, **options, penalty_alpha=0.6, top_k=4, low_memory=True))
    # set once, for all calls
    model.generation_config.update(penalty_alpha=0.6, top_k=4)
    assert torch.equal(model.generate(**inputs, **options), found)
    config = GenerationConfig(**options, penalty_alpha=0.0)
    assert torch.equal(model.generate(**inputs, generation_config=config), backbone.generate(**inputs, **options))


def test_streamer_and_stop_strings(capsys):
    model, tokenizer = wrapped(), letter_tokenizer()
    inputs = tokenizer("abc", return_tensors="pt")
    options = {"penalty_alpha": 0.6, "top_k": 4, "max_new_tokens": 8, "min_new_tokens": 8, "eos_token_id": None}
    ids = model.generate(**inputs, **options, streamer=TextStreamer(tokenizer, skip_prompt=True))
    assert capsys.readouterr().out.strip() == tokenizer.decode(ids[0, 3:]).strip()
    stop = tokenizer.decode(ids[0, 5:6])
    options.pop("min_new_tokens")
    stopped = model.generate(**inputs, **options, stop_strings=stop, tokenizer=tokenizer)
    assert stopped.shape[1] <= 6
    assert torch.equal(stopped[0], ids[0, : stopped.shape[1]])


def test_saved_model_works_in_a_pipeline(tmp_path):
    model = wrapped()
    model.generation_config.max_new_tokens = 5
    model.save_pretrained(tmp_path)
    letter_tokenizer().save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(loaded) is SimCTGForCausalLM
    assert loaded.generation_config.max_new_tokens == 5
    assert loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight
    write = pipeline("text-generation", model=str(tmp_path), tokenizer=str(tmp_path), device="cpu")
    one = write("abc", penalty_alpha=0.6, top_k=4, return_full_text=False)[0]["generated_text"]
    assert one == write("abc", penalty_alpha=0.6, top_k=4, return_full_text=False)[0]["generated_text"]


def test_exported_language_model_is_plain_transformers(tmp_path):
    model = wrapped()
    report = export_backbone(model, tmp_path, processor=letter_tokenizer())
    assert report.load.startswith("from transformers import AutoModelForCausalLM")
    assert not report.needs_hf_contrastive
    assert report.not_exported == ()
    plain = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert type(plain) is GPT2LMHeadModel
    ids, mask = batch()
    assert torch.equal(plain(input_ids=ids, attention_mask=mask).logits, model(ids, mask).logits)
    assert (tmp_path / "tokenizer.json").is_file()


def test_from_backbone_keeps_weights_and_settings(tmp_path):
    backbone = tiny_model("gpt2")
    backbone.generation_config.max_new_tokens = 7
    backbone.save_pretrained(tmp_path)
    model = SimCTGForCausalLM.from_backbone(tmp_path, margin=0.3)
    assert model.training
    assert model.config.margin == 0.3
    assert model.generation_config.max_new_tokens == 7
    state = backbone.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.backbone.state_dict().items())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "n_layer": 3}))
    with pytest.raises(
        ValueError, match=r"has no weights for \d+ tensors of GPT2LMHeadModel, for example 'transformer.h.2"
    ):
        SimCTGForCausalLM.from_backbone(tmp_path)


def test_the_given_model_stays_as_it_is(tmp_path):
    backbone = tiny_model("gpt2").to(torch.bfloat16)
    backbone.config._name_or_path = str(tmp_path)
    model = SimCTGForCausalLM.from_backbone(backbone)
    # as from a folder: training in bfloat16 alone is asked for, not inherited
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    model.save_pretrained(tmp_path / "saved")
    model.generation_config.max_new_tokens = 3
    assert backbone.config._name_or_path == str(tmp_path)
    assert backbone.generation_config.max_new_tokens != 3
    assert backbone.dtype == torch.bfloat16


def test_there_is_one_generation_config(tmp_path):
    model = wrapped()
    model.generation_config.max_new_tokens = 7
    model.save_pretrained(tmp_path)
    loaded = SimCTGForCausalLM.from_pretrained(tmp_path)
    assert loaded.backbone.generation_config is loaded.generation_config
    export_backbone(loaded, tmp_path / "plain")
    assert json.loads((tmp_path / "plain" / "generation_config.json").read_text())["max_new_tokens"] == 7


def test_models_that_see_the_future_are_refused():
    with pytest.raises(StrictDataclassError, match=r"`backbone_config\.model_type` is 'bert'"):
        SimCTGConfig(backbone_config={"model_type": "bert"})
    assert SimCTGConfig(backbone_config={"model_type": "bert", "is_decoder": True}).backbone_config.is_decoder


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"input_ids": torch.zeros(3)}, r"`input_ids` has shape \[3\] and type torch.float32"),
        ({"input_ids": torch.tensor([[1, 61]])}, r"has the token 61, but the vocabulary goes from 0 to 60"),
        ({"input_ids": torch.tensor([[1, -1]])}, r"has the token -1"),
        (
            {"input_ids": torch.ones(1, 3).long(), "attention_mask": torch.ones(1, 2)},
            r"`attention_mask` has shape \[1, 2\]",
        ),
        ({"input_ids": torch.ones(1, 3).long(), "labels": torch.ones(1, 2).long()}, r"`labels` has shape \[1, 2\]"),
    ],
)
def test_bad_inputs_are_refused_in_words(inputs, message):
    with pytest.raises(ValueError, match=message):
        wrapped()(**inputs)


def test_all_layers_on_request_and_no_loss_without_labels():
    model = wrapped()
    ids, mask = batch()
    outputs = model(ids, mask, output_hidden_states=True)
    assert "loss" not in outputs
    assert len(outputs.hidden_states) == 3
    assert torch.equal(outputs.hidden_states[-1], outputs.last_hidden_state)
    assert "hidden_states" not in model(ids, mask)


def test_embeddings_do_not_depend_on_padding():
    model = wrapped()
    ids, mask = batch()
    for readout in ("mean", "last"):
        together = model.encode(ids, mask, readout=readout)
        torch.testing.assert_close(together[1:], model.encode(ids[1:, :4], readout=readout), rtol=1e-4, atol=1e-5)


def test_adapters_leave_the_tied_output_matrix_alone():
    model = wrapped()
    assert "backbone.lm_head" not in lora_targets(model)
    assert {name.rpartition(".")[2] for name in lora_targets(model)} == {"c_attn", "c_proj", "c_fc"}
    embedding = model.get_input_embeddings().weight.clone()
    adapted = add_lora(model, r=2)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    merged = adapted.merge_and_unload()
    assert torch.equal(merged.get_input_embeddings().weight, embedding)


def test_card_of_an_adapter_says_how_to_load_it(tmp_path):
    tiny_model("gpt2").save_pretrained(tmp_path / "base")
    model = add_lora(SimCTGForCausalLM.from_backbone(tmp_path / "base"), r=2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.2)
    folder = tmp_path / "adapter"
    model.save_pretrained(str(folder))
    letter_tokenizer().save_pretrained(folder)
    write_model_card(
        folder,
        spec=get_system("simctg"),
        config=model.config,
        base_model="me/base",
        is_adapter=True,
        licence="unknown",
    )
    code = (folder / "README.md").read_text().split("```python\n")[1].split("```")[0]
    code = code.replace('"me/base"', f'"{tmp_path / "base"}"').replace('"adapter"', f'"{folder}"')
    found: dict = {}
    exec(code.replace('"The"', '"abc"'), found)
    ids, mask = batch()
    with torch.no_grad():
        torch.testing.assert_close(found["model"](ids, mask).logits, model.eval()(ids, mask).logits)
    assert found["ids"].shape[1] > found["inputs"]["input_ids"].shape[1]


def test_a_new_gpt2_is_drawn_as_transformers_draws_it():
    config = GPT2Config(n_embd=64, n_layer=2, n_head=2, vocab_size=50, initializer_range=0.2)
    model = SimCTGForCausalLM(SimCTGConfig(backbone_config=config))
    assert abs(float(model.backbone.transformer.h[0].mlp.c_proj.weight.std()) - 0.1) < 0.01
