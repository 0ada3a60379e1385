"""`hf-contrastive score` and `filter`: the numbers of a plain pass, what was found and cut is told, errors are one line."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import torch
from helpers.text_models import letter_tokenizer, tiny_model
from safetensors.torch import load_file, save_file

from hf_contrastive import GoalConditionedRewardModel
from hf_contrastive.data import train_tokenizer
from hf_contrastive.evaluation import auroc, auroc_within, filtered_majority_vote, partial_auroc
from hf_contrastive.generation import filter_generations
from hf_contrastive.modules.lora import add_lora


ANSWERS = ("worldandmore", "there", "Hithereyou")
CHAT = "{% for m in messages %}{{ m.role[0] + ':' + m.content + '.' }}{% endfor %}{% if add_generation_prompt %}a:{% endif %}"


def reward_model(goal: bool = True, vocabulary: int | None = None, **fields) -> GoalConditionedRewardModel:
    backbone = tiny_model("gpt2")
    torch.manual_seed(3)
    if vocabulary is not None:
        backbone.resize_token_embeddings(vocabulary)
    model = GoalConditionedRewardModel.from_backbone(backbone, **fields).eval()
    if goal:
        model.set_goal_state(torch.randn(32, generator=torch.Generator().manual_seed(1)))
    return model


def saved(folder, model, tokenizer=None):
    model.save_pretrained(folder)
    (tokenizer or letter_tokenizer()).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("saved")


@pytest.fixture(scope="module")
def judge(place):
    """A reward model with a goal."""
    return saved(place / "judge", reward_model())


@pytest.fixture(scope="module")
def writer(place):
    """A language model with the same tokens."""
    return saved(place / "writer", tiny_model("gpt2"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Pairs and marked answers as files of JSON lines."""
    folder = tmp_path_factory.mktemp("data")
    letters = "abcdefghijklmnopqrstuvwxyz"
    pairs = [
        {"question": letters[n : n + 3], "correct": letters[n : n + 8], "incorrect": letters[n + 3 : n + 9 + n % 4]}
        for n in range(1, 11)
    ]
    answers = [
        {
            "prompt": letters[n // 4 : n // 4 + 3],
            "response": letters[n : n + 9],
            "label": n % 2,
            "predicted_answer": n % 3,
        }
        for n in range(12)
    ]
    for name, rows in (("pairs", pairs), ("answers", answers)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def read(prompt: str, answer: str, model=None):
    """Reward, rewards and Q-values at the answer's tokens, by one plain pass of one text (with a token a letter)."""
    tokenizer = letter_tokenizer()
    ids = torch.tensor([[*tokenizer(prompt + answer)["input_ids"], tokenizer.eos_token_id]])
    with torch.no_grad():
        outputs = (model or reward_model())(ids, torch.ones_like(ids))
    span = slice(len(prompt), len(prompt + answer))
    return float(outputs.rewards[0]), outputs.token_rewards[0, span].numpy(), outputs.q_values[0, span].numpy()


def lowest(q_values, skip: int = 5) -> float:
    return float((q_values[skip:] if len(q_values) > skip else q_values).min())


def typed(answers=ANSWERS):
    return [word for answer in answers for word in ("--answer", answer)]


def result(call, *words, code: int = 0):
    found = call(*words, "--json", "-")
    assert found.code == code, found.err
    return json.loads(found.out)


# ---- answers to a prompt


def test_answers_stand_from_the_best_to_the_worst(call, judge):
    found = call("score", judge, "--prompt", "hello", *typed())
    assert (found.code, found.err) == (0, "")
    header, *lines = found.out.splitlines()
    assert header.split() == ["rank", "reward", "lowest", "Q", "answer"]
    values = {answer: read("hello", answer) for answer in ANSWERS}
    order = sorted(ANSWERS, key=lambda answer: -values[answer][0])
    assert order != list(ANSWERS)  # otherwise nothing was sorted
    want = [
        [str(rank), f"{values[answer][0]:.3f}", f"{lowest(values[answer][2]):.3f}", answer]
        for rank, answer in enumerate(order, start=1)
    ]
    assert [line.split() for line in lines] == want


def test_record_and_file_keep_the_order_typed(call, judge, tmp_path):
    out = tmp_path / "new" / "scores.jsonl"
    record = result(call, "score", judge, "--prompt", "hello", *typed(), "--skip-tokens", 1, "-o", out)
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert record["answers"] == lines
    assert [line["answer"] for line in lines] == list(ANSWERS)
    for line in lines:
        reward, _, q_values = read("hello", line["answer"])
        assert line["reward"] == pytest.approx(reward, abs=1e-5)
        assert line["lowest_q"] == pytest.approx(lowest(q_values, 1), abs=1e-5)
    by_rank = sorted(lines, key=lambda line: line["rank"])
    assert [line["rank"] for line in by_rank] == [1, 2, 3]
    assert by_rank == sorted(lines, key=lambda line: -line["reward"]) != lines


def test_tokens_show_the_course_and_where_the_filter_stops(call, judge):
    answer = ANSWERS[0]
    _, rewards, q_values = read("hello", answer)
    threshold = float(np.median(q_values[3:]))
    words = ("--tokens", "--skip-tokens", 3, "--threshold", threshold)
    found = call("score", judge, "--prompt", "hello", "--answer", answer, *words)
    assert found.code == 0, found.err
    lines = [line.split(None, 4) for line in found.out.splitlines()[5:]]
    assert [line[:4] for line in lines] == [
        [str(n + 1), repr(letter), f"{rewards[n]:.3f}", f"{q_values[n]:.3f}"] for n, letter in enumerate(answer)
    ]
    marks = {n: line[4] for n, line in enumerate(lines) if len(line) > 4}
    stop = 3 + int(np.flatnonzero(q_values[3:] < threshold)[0])
    worst = 3 + int(q_values[3:].argmin())
    want = {0: "skipped", 1: "skipped", 2: "skipped"}
    want[worst] = "lowest"
    want[stop] = "lowest, the filter stops here" if stop == worst else "the filter stops here"
    assert marks == want


def test_without_a_goal_there_are_rewards_and_a_hint(call, place):
    folder = saved(place / "no_goal", reward_model(goal=False))
    found = call("score", folder, "--prompt", "hello", *typed(), "--tokens")
    assert found.code == 0
    assert "Q" not in found.out
    assert f"{reward_model(goal=False).score('hello', 'there', tokenizer=letter_tokenizer())[0]:.3f}" in found.out
    assert "no_goal stores no goal state" in found.err
    assert "set_goal_state" in found.err
    assert str(place) not in found.out + found.err  # what is printed can be passed on
    found = call("filter", place / "writer", folder, "--prompt", "hello")
    assert (found.code, found.out) == (1, "")
    assert "no_goal stores no goal state" in found.err


def test_as_chat_and_what_is_cut(call, place):
    tokenizer = letter_tokenizer()
    tokenizer.chat_template = CHAT
    folder = saved(place / "chats", reward_model(), tokenizer)
    line = result(call, "score", folder, "--prompt", "hello", "--answer", "there", "--as-chat")["answers"][0]
    assert line["reward"] == pytest.approx(read("u:hello.", "a:there.")[0], abs=1e-5)
    found = call("score", folder, "--prompt", "hello", "--answer", "there", "--answer", "tothere", "--max-length", 7)
    assert found.code == 0
    assert "2 of 2 texts are longer than 7 tokens" in found.err
    assert "the start of the prompt was left out for 2, the end of the answer for 1" in found.err
    rewards = [float(line.split()[1]) for line in found.out.splitlines()[1:]]
    assert sorted(rewards) == pytest.approx(sorted([read("o", "there")[0], read("", "tother")[0]]), abs=1e-3)


# ---- data


def test_pairs(call, judge, data, tmp_path):
    out = tmp_path / "scores.jsonl"
    words = ("score", judge, "--data", data / "pairs.jsonl", "--batch-size", 3, "--tokens", "--out", out)
    record = result(call, *words)
    rows = [json.loads(line) for line in (data / "pairs.jsonl").read_text().splitlines()]
    prompts = [f"Question: {row['question']}\nAnswer:\n" for row in rows]
    tokenizer, model = letter_tokenizer(), reward_model()
    scores = {
        side: model.score(prompts, [row[side] for row in rows], tokenizer=tokenizer, details=True)
        for side in ("correct", "incorrect")
    }
    gap = scores["correct"].rewards - scores["incorrect"].rewards
    assert (record["kind"], record["pairs"], record["split"]) == ("pairs", 10, "train")
    assert 0 < record["accuracy"] < 1
    assert record["accuracy"] == pytest.approx(float((gap > 0).float().mean()))
    assert record["margin"] == pytest.approx(float(gap.mean()), abs=1e-5)
    assert record["longer_answer_accuracy"] == 0.65  # 5 longer, 3 as long
    q_gap = [
        lowest(one.numpy()) - lowest(other.numpy())
        for one, other in zip(scores["correct"].q_values, scores["incorrect"].q_values, strict=True)
    ]
    assert record["q_accuracy"] == np.mean(np.array(q_gap) > 0)
    low, high = record["accuracy_interval_95"]
    assert low < record["accuracy"] < high
    assert record["found"] == "preference pairs (columns question, correct, incorrect)"
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["index"] for line in lines] == list(range(10))
    for number, line in enumerate(lines):
        assert line["chosen_reward"] == pytest.approx(float(scores["correct"].rewards[number]), abs=1e-5)
        assert line["rejected_reward"] == pytest.approx(float(scores["incorrect"].rewards[number]), abs=1e-5)
        assert line["rejected_lowest_q"] == pytest.approx(
            lowest(scores["incorrect"].q_values[number].numpy()), abs=1e-5
        )
        assert line["chosen_q_values"] == pytest.approx(scores["correct"].q_values[number].tolist(), abs=1e-5)
    table = call(*words[:4]).out
    assert f"{100 * record['accuracy']:.1f} %" in table
    assert f"{record['margin']:.3f}" in table
    assert record["found"] in table


def test_marked_answers(call, judge, data, tmp_path):
    out = tmp_path / "scores.jsonl"
    rows = [json.loads(line) for line in (data / "answers.jsonl").read_text().splitlines()]
    scores = [read(row["prompt"], row["response"]) for row in rows]
    rewards, courses, q_values = map(list, zip(*scores, strict=True))
    labels, questions = [row["label"] for row in rows], [row["prompt"] for row in rows]
    threshold = float(np.median([lowest(values, 2) for values in q_values]))
    options = ("--threshold", threshold, "--skip-tokens", 2)
    words = ("score", judge, "--data", data / "answers.jsonl", *options)
    record = result(call, *words, "--out", out)
    assert (record["kind"], record["answers"], record["questions"], record["right"]) == ("answers", 12, 3, 0.5)
    assert record["auroc"] == auroc(rewards, labels) != auroc_within(rewards, labels, questions)
    assert record["auroc_within_questions"] == auroc_within(rewards, labels, questions)
    shares = (0.2, 0.4, 0.6, 0.8, 1.0)
    assert list(record["partial_auroc"].values()) == list(partial_auroc(courses, labels, shares).values())
    assert list(record["partial_auroc"]) == ["0.2", "0.4", "0.6", "0.8", "1"]
    assert record["q_auroc"] == auroc([lowest(values, 2) for values in q_values], labels)
    assert record["length_auroc"] == 0.5
    vote = filtered_majority_vote(
        [str(row["predicted_answer"]) for row in rows], labels, q_values, questions, threshold, 2
    )
    assert 0 < vote.filtered < 12
    want = vote.summary()
    assert {key: record["vote"][key] for key in want} == want
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["is_correct"] for line in lines] == [bool(label) for label in labels]
    assert [line["question_id"] for line in lines] == [0] * 4 + [1] * 4 + [2] * 4
    assert [line["reward"] for line in lines] == pytest.approx(rewards, abs=1e-5)
    assert [line["lowest_q"] for line in lines] == pytest.approx([lowest(v, 2) for v in q_values], abs=1e-5)
    found = call(*words)
    for value in (
        record["auroc"],
        record["auroc_within_questions"],
        record["q_auroc"],
        *record["partial_auroc"].values(),
    ):
        assert f"{value:.3f}" in found.out
    for share in (vote.accuracy, vote.accuracy_strict, vote.filtered_share, vote.tokens_saved_share):
        assert f"{100 * share:.1f} %" in found.out
    assert "changes nothing" not in found.err
    assert "changes nothing" in call("score", judge, "--data", data / "answers.jsonl", "--threshold", -1).err


def test_a_vote_needs_predicted_answers(call, judge, data, tmp_path):
    rows = [json.loads(line) for line in (data / "answers.jsonl").read_text().splitlines()]
    for row in rows:
        del row["predicted_answer"]
    (tmp_path / "bare.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    record = result(call, "score", judge, "--data", tmp_path / "bare.jsonl")
    assert "vote" not in record
    assert "q_auroc" in record


def test_which_kind_and_which_split(call, judge, data, tmp_path):
    both = {"prompt": "ab", "chosen": "good", "rejected": "bad", "completion": "well"}
    lines = [json.dumps({**both, "prompt": "ab" * (n + 1), "is_correct": n % 2 == 0}) for n in range(6)]
    for split in ("train", "test"):
        (tmp_path / f"{split}.jsonl").write_text("\n".join(lines[: 6 if split == "train" else 4]))
    found = call("score", judge, "--data", tmp_path)
    assert (found.code, "pairs  " in found.out, "split test" in found.out) == (0, True, True)
    assert "For the others type --kind answers" in found.err
    record = result(call, "score", judge, "--data", tmp_path, "--kind", "answers", "--split", "train")
    assert (record["kind"], record["answers"], record["split"]) == ("answers", 6, "train")
    assert result(call, "score", judge, "--data", tmp_path, "--answer-column", "chosen")["answers"] == 4
    held = result(call, "score", judge, "--data", tmp_path / "train.jsonl", "--test-fraction", 0.5, "--kind", "pairs")
    assert (held["pairs"], held["split"]) == (3, "test, held out")
    assert result(call, "score", judge, "--data", tmp_path, "--kind", "pairs", "--max-samples", 2)["pairs"] == 2
    for words, message in (
        (("--data", tmp_path, "--split", "dev"), "--split one of them"),
        (("--data", tmp_path, "--label-column", "right"), "--label-column is 'right', but"),
        (
            ("--data", data / "pairs.jsonl", "--kind", "answers"),
            "in which there are no answers; expected prompt, chosen",
        ),
        (("--data", tmp_path / "none.jsonl"), "does not exist"),
    ):
        found = call("score", judge, *words)
        assert (found.code, found.out) == (1, ""), words
        assert message in found.err, found.err


def test_arithmetic_comes_with_the_library(call, judge):
    record = result(call, "score", judge, "--data", "arithmetic", "--kind", "answers", "--max-samples", 16)
    assert (record["answers"], record["questions"], record["split"]) == (16, 2, "test")
    assert result(call, "score", judge, "--data", "arithmetic", "--max-samples", 3)["pairs"] == 3


def test_bad_records_are_named(call, judge, tmp_path):
    file = tmp_path / "pairs.jsonl"
    rows = [{"prompt": "ab", "chosen": "good", "rejected": "bad"}, {"prompt": "ab", "chosen": " ", "rejected": "bad"}]
    file.write_text("\n".join(map(json.dumps, rows)))
    found = call("score", judge, "--data", file)
    assert (found.code, found.out) == (1, "")
    assert "pairs.jsonl: record 1" in found.err
    assert "--on-empty drop" in found.err
    found = call("score", judge, "--data", file, "--on-empty", "drop")
    assert found.code == 0
    assert "note: 1 of 2 pairs of pairs.jsonl are left out" in found.err
    assert "UserWarning" not in found.err
    one_kind = [{"prompt": "ab", "response": "good", "label": 1}] * 3
    file.write_text("\n".join(map(json.dumps, one_kind)))
    assert "all 3 answers of pairs.jsonl are marked right" in call("score", judge, "--data", file).err


# ---- what is loaded


@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_an_adapter_with_its_language_model(call, tmp_path, head):
    tiny_model("gpt2").save_pretrained(tmp_path / "language_model")
    model = add_lora(reward_model(value_head=head), r=2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.2)
    saved(tmp_path, model)
    line = result(call, "score", tmp_path, "--prompt", "hello", "--answer", "there")["answers"][0]
    merged = model.merge_and_unload().eval()
    reward, _, q_values = read("hello", "there", merged)
    assert line["reward"] == pytest.approx(reward, abs=1e-5)
    assert line["lowest_q"] == pytest.approx(lowest(q_values), abs=1e-5)
    assert abs(lowest(q_values) - lowest(read("hello", "there", reward_model(value_head=head))[2])) > 1e-2
    (tmp_path / "language_model").rename(tmp_path / "elsewhere")
    found = call("score", tmp_path, "--prompt", "hello", "--answer", "there")
    assert (found.code, found.out) == (1, "")
    assert "is an adapter" in found.err
    assert "merge_and_unload" in found.err
    code = found.err.split("python -c '")[1].split("'. Then")[0].replace("BASE", str(tmp_path / "elsewhere"))
    exec(" ".join(code.split()), {})
    merged_line = result(call, "score", tmp_path / "merged", "--prompt", "hello", "--answer", "there")["answers"][0]
    assert merged_line["reward"] == pytest.approx(reward, abs=1e-5)


def test_the_hint_for_a_goal_works_as_it_stands(call, place):
    folder = saved(place / "hinted", reward_model(goal=False))
    err = call("score", folder, "--prompt", "hello", "--answer", "there").err
    exec(" ".join(err.split("python -c '")[1].split("'\n")[0].replace("FOLDER", str(folder)).split()), {})
    assert (
        result(call, "score", folder, "--prompt", "hello", "--answer", "there")["answers"][0]["lowest_q"] is not None
    )


def test_what_is_refused(call, judge, writer, checkpoint, place, tmp_path):
    (tmp_path / "there.jsonl").write_text("kept")
    bare, broken, poor = place / "bare", place / "broken", place / "poor"
    reward_model().save_pretrained(bare)
    saved(poor, reward_model())
    weights = load_file(poor / "model.safetensors")
    save_file(
        {k: v for k, v in weights.items() if "value_head" not in k}, poor / "model.safetensors", {"format": "pt"}
    )
    saved(broken, reward_model())
    save_file(
        {k: v * (float("nan") if "value_head" in k else 1) for k, v in weights.items()},
        broken / "model.safetensors",
        {"format": "pt"},
    )
    asked = ("--prompt", "hello", "--answer", "there")
    for words, code, message in (
        ((judge,), 2, "there is no answer; type --prompt"),
        ((judge, "--prompt", "hello"), 2, "there is --prompt without --answer"),
        ((judge, "--answer", "there"), 2, "there is --answer without --prompt"),
        ((judge, *asked, "--data", "arithmetic"), 2, "exclude each other"),
        ((judge, "--data", "arithmetic", "--tokens"), 2, "type --out FILE.jsonl"),
        ((judge, *asked, "--answer", " "), 2, "--answer number 2 is empty"),
        ((judge, "--data", "arithmetic", "--kind", "both"), 2, "--kind is 'both'"),
        ((judge, "--data", "arithmetic", "--on-empty", "stop"), 2, "--on-empty is 'stop'"),
        ((judge, *asked, "--out", tmp_path / "scores.csv"), 2, "scores.jsonl"),
        ((judge, *asked, "--out", tmp_path / "there.jsonl"), 1, "Type --overwrite"),
        ((judge, *asked, "--dtype", "int8"), 2, "--dtype is 'int8'"),
        ((judge, *asked, "--device", "cuda:99"), 2, "--device cuda:99 cannot be used"),
        ((judge, *asked, "--max-length", 1000), 1, "--max-length is 1000, but the model has 128 positions"),
        ((judge, *asked, "--as-chat"), 1, "--answer number 1: chat messages need a template"),
        ((judge, *asked, "--threshold", 2), 2, "--threshold"),
        ((writer, *asked), 1, "is a 'gpt2' model, not a goal-conditioned reward model"),
        ((checkpoint, *asked), 1, "is a 'simclr' model, not a goal-conditioned reward model"),
        ((bare, *asked), 1, "has no tokenizer that can be loaded"),
        ((poor, *asked), 1, "lacks 1 weights of the model, the first is 'value_head.layers.0.weight'"),
        ((broken, *asked), 1, "a reward of broken is not a finite number"),
        (("no_such_folder", *asked), 1, "no checkpoint folder no_such_folder here"),
    ):
        found = call("score", *words)
        assert (found.code, found.out) == (code, ""), (words, found)
        assert message in " ".join(found.err.replace("│", " ").split()), (words, found.err)
    assert (tmp_path / "there.jsonl").read_text() == "kept"
    assert call("score", judge, *asked, "--out", tmp_path / "there.jsonl", "--overwrite").code == 0
    assert json.loads((tmp_path / "there.jsonl").read_text())["answer"] == "there"


# ---- filter


def sampled(threshold: float, seed: int = 0, **options):
    options = {"max_new_tokens": 24, "do_sample": True, **options}
    return filter_generations(
        tiny_model("gpt2"), reward_model(), "hello", tokenizer=letter_tokenizer(), num_samples=6, threshold=threshold,
        seed=seed, **options,
    )  # fmt: skip


def fluency(answer) -> float:
    prompt = letter_tokenizer()("hello")["input_ids"]
    ids = torch.tensor([[*prompt, *answer.tolist()]])
    with torch.no_grad():
        log = tiny_model("gpt2")(ids).logits[0].log_softmax(-1)
    return float(np.mean([log[place - 1, ids[0, place]] for place in range(len(prompt), ids.shape[1])]))


def middle_threshold(**options) -> float:
    """One that stops some of the answers, not all."""
    values = [lowest(q.numpy()) for q in sampled(-1, **options).q_values]
    return float(np.sort(values)[2:4].mean())


WORDS = ("--prompt", "hello", "--samples", 6, "--max-new-tokens", 24)


def test_filter_gives_the_answers_of_the_library(call, writer, judge):
    threshold = middle_threshold()
    want = sampled(threshold)
    assert 0 < sum(want.kept) < 6
    record = result(call, "filter", writer, judge, *WORDS, "--threshold", threshold)
    answers = record["answers"]
    assert [one["answer"] for one in answers] == want.texts
    assert [one["kept"] for one in answers] == want.kept
    assert [one["stopped_at_token"] for one in answers] == [None if p is None else p + 1 for p in want.stopped_at]
    assert [one["tokens"] for one in answers] == [len(ids) for ids in want.sequences]
    assert [one["lowest_q"] for one in answers] == pytest.approx([lowest(q.numpy()) for q in want.q_values], abs=1e-5)
    assert record["tokens"] == {"written": want.tokens_generated, "at_most": 144}
    assert [one["log_probability"] for one in answers] == pytest.approx(
        [fluency(ids) for ids in want.sequences], abs=1e-4
    )
    prompt = letter_tokenizer()("hello")["input_ids"]
    for one, ids, reward in zip(answers, want.sequences, want.rewards, strict=True):
        with torch.no_grad():
            last = reward_model()(torch.tensor([[*prompt, *ids.tolist()]])).token_rewards[0, -1]
        assert one["reward"] == pytest.approx(float(last), abs=1e-5)
        assert reward is None or one["reward"] == pytest.approx(reward, abs=1e-5)
    kept = [one for one in answers if one["kept"]]
    best = max(kept, key=lambda one: one["reward"])
    assert record["best"] == best["sample"]
    for stage, own in zip(record["guard"], (answers, kept, [best]), strict=True):
        assert stage["count"] == len(own)
        assert stage["reward"] == pytest.approx(np.mean([one["reward"] for one in own]))
        assert stage["log_probability"] == pytest.approx(np.mean([one["log_probability"] for one in own]))


def test_filter_prints_the_table_the_best_and_the_guard(call, writer, judge, monkeypatch):
    threshold = middle_threshold()
    words = ("filter", writer, judge, *WORDS[2:], "--threshold", threshold)
    monkeypatch.setattr("sys.stdin", io.StringIO("hello"))
    found = call(*words)
    assert found.code == 0, found.err
    record = result(call, *words, "--prompt", "hello")
    kept = [one for one in record["answers"] if one["kept"]]
    rows = found.out.splitlines()
    assert rows[0].split() == ["sample", "reward", "lowest", "Q", "filter", "answer"]
    order = [int(row.split()[0]) for row in rows[1:7]]
    assert order[0] == record["best"]
    assert {*order[: len(kept)]} == {one["sample"] for one in kept}
    for row, sample in zip(rows[1:7], order, strict=True):
        one = record["answers"][sample - 1]
        assert f"{one['reward']:.3f}" in row
        assert f"{one['lowest_q']:.3f}" in row
        assert ("kept" if one["kept"] else f"stopped at token {one['stopped_at_token']}") in row
        assert row.endswith(one["answer"])
    assert f"{len(kept)} of 6 kept; {record['tokens']['written']} tokens written, at most 144" in found.out
    assert f"best of {len(kept)} (sample {record['best']}" in found.out
    for stage, row in zip(record["guard"], rows[-3:], strict=True):
        assert row.split()[-3:] == [str(stage["count"]), f"{stage['reward']:.3f}", f"{stage['log_probability']:.3f}"]


def test_filter_settings_arrive(call, writer, judge):
    options = {"temperature": 0.7, "top_k": 7, "top_p": 0.9}
    words = ("--seed", 5, "--temperature", 0.7, "--top-k", 7, "--top-p", 0.9, "--threshold", -1)
    record = result(call, "filter", writer, judge, *WORDS, *words)
    assert (
        [one["answer"] for one in record["answers"]]
        == sampled(-1, seed=5, **options).texts
        != sampled(-1, seed=5).texts
    )
    assert record["settings"]["seed"] == 5
    assert "no answer was stopped" in call("filter", writer, judge, *WORDS, *words).err


def test_filter_when_every_answer_is_stopped(call, writer, judge):
    found = call("filter", writer, judge, *WORDS, "--threshold", 0.999)
    assert found.code == 0
    assert "every answer was stopped; their lowest Q-values go from" in found.err
    assert "0 of 6 kept" in found.out
    assert "best" not in found.out
    record = result(call, "filter", writer, judge, *WORDS, "--threshold", 0.999)
    assert (record["best"], len(record["guard"])) == (None, 1)


def test_guard_speaks_up_when_the_best_reward_reads_badly(capfd):
    from hf_contrastive.cli import filter

    def noted(*pairs):
        answers = [{"reward": reward, "log_probability": log, "kept": True, "lowest_q": 0.5} for reward, log in pairs]
        best = max(answers, key=lambda one: one["reward"])
        stages = [filter._stage(name, own) for name, own in (("all", answers), ("kept", answers), ("best", [best]))]
        capfd.readouterr()
        filter._warn(answers, best, stages, 0.0)
        return "reads worse" in capfd.readouterr().err

    assert noted((3.0, -6.0), (1.0, -2.0), (0.5, -2.1), (0.2, -1.9))
    assert not noted((3.0, -2.0), (1.0, -6.0), (0.5, -2.1), (0.2, -1.9))
    assert not noted((3.0, -2.2), (1.0, -2.0), (0.5, -2.1), (0.2, -2.4))
    assert not noted((3.0, -6.0), (1.0, -2.0))  # two say nothing


def test_filter_reads_other_tokens_as_text_and_chats_by_template(call, writer, judge, place):
    words = train_tokenizer(["hello there", "how are you"], 270)
    other = saved(place / "other", reward_model(vocabulary=270), words)
    want = filter_generations(
        tiny_model("gpt2"), reward_model(vocabulary=270), "hello", tokenizer=letter_tokenizer(), do_sample=True, num_samples=6,
        reward_tokenizer=words, threshold=0.2, max_new_tokens=24,
    )  # fmt: skip
    record = result(call, "filter", writer, other, *WORDS, "--threshold", 0.2)
    assert [one["answer"] for one in record["answers"]] == want.texts
    assert [one["kept"] for one in record["answers"]] == want.kept
    assert not all(want.kept)
    assert all(one["reward"] is not None for one in record["answers"])
    tokenizer = letter_tokenizer()
    tokenizer.chat_template = CHAT
    chatty = saved(place / "chatty", tiny_model("gpt2"), tokenizer)
    record = result(call, "filter", chatty, judge, *WORDS, "--as-chat", "--threshold", -1)
    want = filter_generations(
        tiny_model("gpt2"), reward_model(), "u:hello.a:", tokenizer=tokenizer, do_sample=True, num_samples=6,
        threshold=-1, max_new_tokens=24,
    )  # fmt: skip
    assert [one["answer"] for one in record["answers"]] == want.texts
    assert "read different tokens" in call("filter", chatty, other, *WORDS, "--as-chat").err


def test_what_filter_refuses(call, writer, judge, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    asked = ("--prompt", "hello")
    for words, code, message in (
        ((writer, judge), 2, "the prompt is empty"),
        ((judge, judge, *asked), 2, "type the language model first, the reward model second"),
        ((writer, writer, *asked), 1, "is a 'gpt2' model, not a goal-conditioned reward model"),
        (("/nowhere/at/all", judge, *asked), 1, "is no language model that can be loaded"),
        ((writer, judge, *asked, "--as-chat"), 2, "--as-chat needs a chat template"),
        ((writer, judge, *asked, "--max-new-tokens", 500), 1, "--max-new-tokens 123 or fewer"),
        ((writer, judge, *asked, "--samples", 0), 2, "--samples"),
    ):
        found = call("filter", *words)
        assert (found.code, found.out) == (code, ""), (words, found)
        assert message in " ".join(found.err.replace("│", " ").split()), (words, found.err)
        assert len(found.err) < 1500
