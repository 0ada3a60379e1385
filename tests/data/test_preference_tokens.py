"""Prompts and answers as tokens: where the answer starts, ends and is cut; whole datasets; batches."""

from __future__ import annotations

import json
import warnings

import datasets
import pytest
import torch
from helpers.text_models import letter_tokenizer
from tokenizers.processors import TemplateProcessing

from hf_contrastive.data import (
    AnswerCollator,
    EncodedAnswer,
    PreferenceCollator,
    encode_answer,
    load_completions,
    load_preferences,
    tokenize_completions,
    tokenize_preferences,
    train_tokenizer,
)


datasets.disable_progress_bars()

PAD, BOS, EOS = 0, 1, 2
# as many models write their turns: the end of text, then the end of a line
TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"


def letters(before: bool = False, after: bool = False):
    """One token a character; with `before` and `after` the tokenizer puts the special tokens around every text."""
    tokenizer = letter_tokenizer()
    if before or after:
        single = f"{'<s> ' if before else ''}$A{' </s>' if after else ''}"
        specials = [("<s>", BOS), ("</s>", EOS)]
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=single, special_tokens=specials)
    return tokenizer


def ids(text: str) -> list[int]:
    return letter_tokenizer()(text)["input_ids"]


@pytest.fixture(scope="module")
def words():
    return train_tokenizer(
        ["Question: the cat sat on the mat\n\nAnswer: yes or no\n" * 20, "<user>", "<assistant>"], 400
    )


@pytest.fixture(scope="module")
def chat(words):
    import copy

    tokenizer = copy.deepcopy(words)
    tokenizer.chat_template = TEMPLATE.replace("</s>", "<|endoftext|>")
    return tokenizer


class Slow:
    """The same tokens as a tokenizer without offsets gives them."""

    is_fast = False

    def __init__(self, tokenizer) -> None:
        self.tokenizer = tokenizer

    def __getattr__(self, name):
        return getattr(self.tokenizer, name)

    def __call__(self, text, **options):
        if "return_offsets_mapping" in options:
            raise NotImplementedError("no offsets")
        return self.tokenizer(text, **options)


# ---------------------------------------------------------------------------- one row


@pytest.mark.parametrize("slow", [False, True])
@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("after", [False, True])
def test_special_tokens_of_the_tokenizer(before, after, slow):
    tokenizer = letters(before, after)
    tokenizer = Slow(tokenizer) if slow else tokenizer
    start = [BOS] if before else []
    assert encode_answer(tokenizer, "abc", "de") == EncodedAnswer([*start, *ids("abcde"), EOS], 2)
    assert encode_answer(tokenizer, "abc", "de", add_end=False) == EncodedAnswer([*start, *ids("abcde")], 2)
    # without a prompt the whole text is the answer, but not what the tokenizer puts before it
    assert encode_answer(tokenizer, "", "abc") == EncodedAnswer([*start, *ids("abc"), EOS], 3)


def test_an_end_that_the_answer_brings_is_not_doubled():
    assert encode_answer(letters(), "abc", "de</s>") == EncodedAnswer([*ids("abcde"), EOS], 2)
    # one in the middle stays a token of the answer
    assert encode_answer(letters(), "abc", "d</s>e") == EncodedAnswer([*ids("abcd"), EOS, *ids("e"), EOS], 3)


def test_prompt_and_answer_are_tokenised_together(words):
    for prompt, answer in (
        ("the ca", "t sat"),
        ("the cat", " sat"),
        ("the cat\n", "\nAnswer"),
        ("é字 the", " é字🙂"),
        ("a 🙂", "🙂"),
    ):
        fast, slow = (encode_answer(tokenizer, prompt, answer) for tokenizer in (words, Slow(words)))
        assert fast.input_ids == [*words(prompt + answer)["input_ids"], words.eos_token_id]
        # what counts as the answer begins at its first letter or, within a token that straddles, before it
        cut = len(fast.input_ids) - 1 - fast.num_actions
        assert words.decode(fast.input_ids[cut:-1]).endswith(answer)
        assert prompt.startswith(words.decode(fast.input_ids[:cut]))
        assert len(words.decode(fast.input_ids[: cut + 1])) > len(prompt) or "🙂" in answer or "é" in answer
        assert slow.input_ids == fast.input_ids
    assert words.tokenize("the cat") == ["the", "Ġcat"]
    assert encode_answer(words, "the ca", "t").num_actions == 1


def test_the_prompt_loses_its_start_first():
    whole = [*ids("abcdefgh"), EOS]
    assert encode_answer(letters(), "abcde", "fgh", max_length=9) == EncodedAnswer(whole, 3)
    assert encode_answer(letters(), "abcde", "fgh", max_length=7) == EncodedAnswer(whole[2:], 3, cut_prompt=2)
    assert encode_answer(letters(), "abcde", "fgh", max_length=4) == EncodedAnswer(whole[5:], 3, cut_prompt=5)
    # then the answer its end, while the end of text stays last
    assert encode_answer(letters(), "abcde", "fgh", max_length=3) == EncodedAnswer([*ids("fg"), EOS], 2, 5, 1)
    assert encode_answer(letters(), "abcde", "fgh", max_length=2) == EncodedAnswer([*ids("f"), EOS], 1, 5, 2)
    assert encode_answer(letters(), "abcde", "fgh", max_length=2, add_end=False) == EncodedAnswer(ids("fg"), 2, 5, 1)
    with pytest.raises(ValueError, match="max_length is 1, but one token of an answer needs 2"):
        encode_answer(letters(), "abcde", "fgh", max_length=1)


def test_the_beginning_of_text_stays_where_it_is():
    tokenizer = letters(before=True)
    assert encode_answer(tokenizer, "abcde", "fgh", max_length=7) == EncodedAnswer([BOS, *ids("defgh"), EOS], 3, 3)
    assert encode_answer(tokenizer, "abcde", "fgh", max_length=3) == EncodedAnswer([BOS, *ids("f"), EOS], 1, 5, 2)
    with pytest.raises(ValueError, match="needs 3"):
        encode_answer(tokenizer, "abcde", "fgh", max_length=2)


def test_answers_that_cannot_be_used(words):
    for answer in ("", "  \n", []):
        with pytest.raises(ValueError, match="the answer is empty"):
            encode_answer(words, "the cat", answer)
    with pytest.raises(ValueError, match="the answer is empty: not one token"):
        encode_answer(letters(), "abc", "</s>")
    with pytest.raises(ValueError, match="prompt is of type str and the answer of type list; expected two texts"):
        encode_answer(words, "the cat", [{"role": "assistant", "content": "a"}])
    with pytest.raises(ValueError, match=r"the tokenizer has none; set tokenizer.chat_template, or give texts"):
        encode_answer(words, "the cat", "sat", as_chat=True)
    without = letters()
    without.eos_token = None
    with pytest.raises(ValueError, match=r"no end-of-text token; set tokenizer.eos_token, or pass add_end=False"):
        encode_answer(without, "a", "b")
    assert encode_answer(without, "a", "b", add_end=False).num_actions == 1


# ---------------------------------------------------------------------------- chat templates


def test_chat_messages(chat):
    prompt = [{"role": "user", "content": "the cat?"}]
    row = encode_answer(chat, prompt, [{"role": "assistant", "content": "yes", "name": None}])
    assert chat.decode(row.input_ids) == "<user>the cat?<|endoftext|>\n<assistant>yes<|endoftext|>"
    assert row.input_ids.count(chat.eos_token_id) == 2
    assert chat.decode(row.input_ids[-(row.num_actions + 1) :]) == "yes<|endoftext|>"
    # texts only when it is asked for
    assert encode_answer(chat, "the cat?", "yes", as_chat=True) == row
    assert chat.decode(encode_answer(chat, "the cat?", "yes").input_ids) == "the cat?yes<|endoftext|>"
    open_end = encode_answer(chat, "the cat?", "yes", as_chat=True, add_end=False)
    assert open_end == EncodedAnswer(row.input_ids[:-1], row.num_actions)
    # a whole conversation without a prompt, also beside an empty text
    whole = [*prompt, {"role": "assistant", "content": "yes"}]
    for nothing in ("", []):
        assert encode_answer(chat, nothing, whole) == EncodedAnswer(row.input_ids, len(row.input_ids) - 1)
    # several turns as the answer
    longer = encode_answer(chat, prompt, [*whole[1:], *whole])
    assert chat.decode(longer.input_ids[-(longer.num_actions + 1) :]).startswith("yes<|endoftext|>\n<user>the cat?")


def test_templates_without_an_end_or_with_another_beginning(words):
    import copy

    tokenizer = copy.deepcopy(words)
    tokenizer.chat_template = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
    row = encode_answer(tokenizer, "the cat?", "yes", as_chat=True)
    assert tokenizer.decode(row.input_ids) == "[user]the cat?[assistant]yes<|endoftext|>"
    # the prompt as it is written before an answer is not how the whole begins: the common start is the prompt
    tokenizer.chat_template = tokenizer.chat_template.replace("[assistant]{% endif", "[assistant]<think>{% endif")
    other = encode_answer(tokenizer, "the cat?", "yes", as_chat=True)
    assert other == row
    # fields that a table has filled up with nothing are not there for the template
    tokenizer.chat_template = (
        "{% for m in messages %}{% if 'name' in m %}{{ m.name }}{% endif %}{{ m.content }}{% endfor %}"
    )
    turns = [
        {"role": role, "content": text, "name": None} for role, text in (("user", "the cat? "), ("assistant", "yes"))
    ]
    assert tokenizer.decode(encode_answer(tokenizer, turns[:1], turns[1:]).input_ids) == "the cat? yes<|endoftext|>"
    tokenizer.chat_template = "{{ raise_exception('only users may begin') }}"
    with pytest.raises(ValueError, match="chat template cannot write these messages: only users may begin"):
        encode_answer(tokenizer, "the cat?", "yes", as_chat=True)


def test_a_beginning_that_the_template_writes_stays(chat):
    import copy

    tokenizer = copy.deepcopy(chat)
    tokenizer.chat_template = "{{ bos_token }}" + chat.chat_template
    row = encode_answer(tokenizer, "the cat?", "yes", as_chat=True, max_length=6)
    assert row.input_ids[0] == tokenizer.bos_token_id
    assert len(row.input_ids) == 6
    assert row.cut_prompt > 0
    assert tokenizer.decode(row.input_ids[1:]).endswith("yes<|endoftext|>")


# ---------------------------------------------------------------------------- whole datasets


def pairs(streaming: bool = False, **options):
    rows = [
        {"prompt": "abcd", "chosen": "ef", "rejected": "gh", "margin": 0.5},
        {"prompt": "abcdefghij", "chosen": "ef", "rejected": "ghi", "margin": 1},
        {"prompt": "ab", "chosen": "abcdefgh", "rejected": "abcdefgX", "margin": 2},
    ]
    return load_preferences(rows, streaming=streaming, **options)


@pytest.mark.parametrize("streaming", [False, True])
def test_pairs_as_tokens(streaming):
    rows, report = tokenize_preferences(pairs(streaming), letters(), max_length=9)
    found = list(rows)
    assert list(found[0]) == [
        "chosen_input_ids",
        "rejected_input_ids",
        "chosen_num_actions",
        "rejected_num_actions",
        "margin",
        "index",
    ]
    assert list(rows.column_names) == list(found[0])
    assert found[0] == {
        "chosen_input_ids": [*ids("abcdef"), EOS],
        "rejected_input_ids": [*ids("abcdgh"), EOS],
        "chosen_num_actions": 2,
        "rejected_num_actions": 2,
        "margin": 0.5,
        "index": 0,
    }
    assert [row["chosen_input_ids"] for row in found[1:]] == [[*ids("efghijef"), EOS], [*ids("abcdefgh"), EOS]]
    assert found[1]["rejected_input_ids"] == [*ids("fghijghi"), EOS]
    assert (report.rows, report.prompts_cut, report.answers_cut, report.dropped_long) == (3, 2, 0, 0)
    assert report.lengths == {"prompt": [4, 10, 2], "chosen": [2, 2, 8], "rejected": [2, 3, 8]}
    assert report.statistics("prompt") == pytest.approx({"min": 2, "median": 4, "mean": 16 / 3, "p95": 9.4, "max": 10})
    assert json.loads(json.dumps(report.to_dict()))["tokens"]["chosen"]["max"] == 8
    assert str(report).splitlines() == [
        "3 rows, at most 9 tokens a row",
        "2 rows with the start of the prompt cut",
        "tokens, prompt: min 2, median 4, mean 5, p95 9, max 10",
        "tokens, chosen: min 2, median 2, mean 4, p95 7, max 8",
        "tokens, rejected: min 2, median 3, mean 4, p95 8, max 8",
    ]


@pytest.mark.parametrize("streaming", [False, True])
def test_rows_that_are_too_long(streaming):
    rows, report = tokenize_preferences(pairs(streaming), letters(), max_length=11, on_long="drop")
    assert [row["index"] for row in rows] == [0, 2]
    assert (report.rows, report.dropped_long, report.prompts_cut) == (2, 1, 0)
    with pytest.raises(
        ValueError, match="record 1, chosen: 13 tokens, but max_length is 11; pass more, or on_long='truncate'"
    ):
        list(tokenize_preferences(pairs(streaming), letters(), max_length=11, on_long="error")[0])
    rows, report = tokenize_preferences(pairs(streaming), letters(), max_length=None)
    assert max(len(row["rejected_input_ids"]) for row in rows) == 14
    assert str(report).startswith("3 rows, no limit")
    # what is left after the cut of the third pair is equal on both sides
    rows, report = tokenize_preferences(pairs(streaming), letters(), max_length=8)
    assert [row["index"] for row in rows] == [0, 1]
    assert (report.rows, report.dropped_same) == (2, 1)


def test_nothing_left_and_wrong_options():
    with pytest.raises(
        ValueError, match="none of the 3 pairs is left: 3 are longer than 3 tokens, 0 have equal answers"
    ):
        tokenize_preferences(pairs(), letters(), max_length=3, on_long="drop")
    with pytest.raises(ValueError, match="on_long must be 'truncate', 'drop' or 'error', got 'cut'"):
        tokenize_preferences(pairs(), letters(), max_length=3, on_long="cut")
    texts = datasets.Dataset.from_dict({"prompt": ["a"], "answer": ["b"]})
    with pytest.raises(
        ValueError, match=r"column 'chosen' not found; .*what load_preferences returns\) has prompt, answer"
    ):
        tokenize_preferences(texts, letters(), max_length=3)


def test_the_record_is_named_when_an_answer_is_empty():
    own = [{"prompt": "a", "chosen": "b", "rejected": text} for text in ("c", " ")]
    own = datasets.Dataset.from_list([{**row, "index": 40 + number} for number, row in enumerate(own)])
    with pytest.raises(ValueError, match="record 41, rejected: the answer is empty"):
        tokenize_preferences(own, letters(), max_length=8)
    with pytest.raises(ValueError, match="record 1, rejected: the answer is empty"):
        tokenize_preferences(own.remove_columns("index"), letters(), max_length=8)


def test_pairs_of_chat_messages(chat):
    user, yes, no = (
        {"role": role, "content": text}
        for role, text in (("user", "the cat?"), ("assistant", "yes"), ("assistant", "no"))
    )
    texts = [{"prompt": "the cat?", "chosen": "yes", "rejected": "no"}]
    messages = load_preferences([{"chosen": [user, yes], "rejected": [user, no]}])
    first, second = (
        list(tokenize_preferences(data, chat, max_length=64, as_chat=True)[0])
        for data in (messages, load_preferences(texts))
    )
    assert first == second
    assert chat.decode(first[0]["rejected_input_ids"]) == "<user>the cat?<|endoftext|>\n<assistant>no<|endoftext|>"


def test_completions_as_tokens():
    rows = [
        {"prompt": "abcd", "answer": text, "is_correct": text == "ef", "predicted_answer": "x"}
        for text in ("ef", "ghijkl")
    ]
    completions = load_completions(rows)
    made, report = tokenize_completions(completions, letters(), max_length=8)
    assert made["input_ids"][:] == [[*ids("abcdef"), EOS], [*ids("dghijkl")[-7:], EOS]]
    assert made["num_actions"][:] == [2, 6]
    for column in completions.column_names:
        assert made[column][:] == completions[column][:]
    assert (report.rows, report.prompts_cut) == (2, 1)
    assert report.lengths == {"prompt": [4, 4], "answer": [2, 6]}
    same, _ = tokenize_completions(load_completions([*rows, *rows]), letters(), max_length=8)
    assert len(same) == 4  # equal completions are samples that came twice, not pairs


def test_arithmetic_from_words_to_batches(words):
    rows, report = tokenize_preferences(load_preferences("arithmetic", max_samples=50), words, max_length=400)
    assert (report.rows, report.prompts_cut) == (50, 0)
    batch = PreferenceCollator(words)([rows[number] for number in range(50)])
    for kind in ("chosen", "rejected"):
        for number in range(50):
            text = words.decode(batch[f"{kind}_input_ids"][number, -(int(batch[f"{kind}_num_actions"][number]) + 1) :])
            assert "\nA: " in text
            assert "Answer:" not in text
            assert text.endswith("<|endoftext|>")


# ---------------------------------------------------------------------------- batches


ROWS = [
    {"chosen_input_ids": [5, 6, 2], "chosen_num_actions": 1, "rejected_input_ids": [5, 7, 8, 0, 2], "rejected_num_actions": 3, "index": 4},
    {"chosen_input_ids": [9, 2], "chosen_num_actions": 1, "rejected_input_ids": [9, 3, 2], "rejected_num_actions": 2, "index": 9},
]  # fmt: skip


def test_both_sides_of_a_batch_have_one_length():
    left, right = (PreferenceCollator(0, side)(ROWS) for side in ("left", "right"))
    assert sorted(left) == sorted(
        f"{kind}_{what}" for kind in ("chosen", "rejected") for what in ("input_ids", "attention_mask", "num_actions")
    )
    assert left["chosen_input_ids"].tolist() == [[0, 0, 5, 6, 2], [0, 0, 0, 9, 2]]
    assert left["rejected_input_ids"].tolist() == [[5, 7, 8, 0, 2], [0, 0, 9, 3, 2]]
    assert left["rejected_attention_mask"].tolist() == [[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]]
    assert right["chosen_input_ids"].tolist() == [[5, 6, 2, 0, 0], [9, 2, 0, 0, 0]]
    assert right["chosen_attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1, 1, 0, 0, 0]]
    assert left["rejected_num_actions"].tolist() == [3, 2]
    assert {value.dtype for value in left.values()} == {torch.int64}
    assert PreferenceCollator(0, pad_to_multiple_of=4)(ROWS)["chosen_input_ids"].shape == (2, 8)
    margin = PreferenceCollator(0)([{**row, "margin": number} for number, row in enumerate(ROWS)])["margin"]
    assert margin.tolist() == [0.0, 1.0]
    assert margin.dtype == torch.float32


def test_tensors_as_rows():
    data = datasets.Dataset.from_list(ROWS).with_format("torch")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        batch = PreferenceCollator(0)([data[0], data[1]])
    for name, value in PreferenceCollator(0)(ROWS).items():
        assert torch.equal(batch[name], value)


def test_rows_of_answers():
    batch = AnswerCollator(0)([{"input_ids": [5, 6, 2], "num_actions": 1}, {"input_ids": [7, 2], "num_actions": 1}])
    assert batch["input_ids"].tolist() == [[5, 6, 2], [0, 7, 2]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [0, 1, 1]]
    assert batch["num_actions"].tolist() == [1, 1]


def test_what_a_batch_refuses():
    tokenizer = letters()
    assert PreferenceCollator(tokenizer)(ROWS)["chosen_input_ids"][0, 0] == PAD
    tokenizer.pad_token = None
    for collator in (PreferenceCollator, AnswerCollator):
        with pytest.raises(ValueError, match=r"no padding token; type: tokenizer.pad_token = tokenizer.eos_token"):
            collator(tokenizer)
        with pytest.raises(ValueError, match="padding_side must be 'left' or 'right', got 'top'"):
            collator(0, "top")
        with pytest.raises(ValueError, match="pad_to_multiple_of must be at least 1, got 0"):
            collator(0, pad_to_multiple_of=0)
    for actions in (0, 5, 6):
        with pytest.raises(
            ValueError, match=f"record 4: rejected_num_actions is {actions}, but .* 5 tokens; expected 1 to 4"
        ):
            PreferenceCollator(0)([{**ROWS[0], "rejected_num_actions": actions}])
    with pytest.raises(ValueError, match="row 1 of the batch: num_actions is 2"):
        AnswerCollator(0)([{"input_ids": [3, 2], "num_actions": 1}, {"input_ids": [3, 2], "num_actions": 2}])
