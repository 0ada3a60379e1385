"""Preference pairs and completions: every form they come in, what is wrong with a record, real files."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import datasets
import pytest

from hf_contrastive.data import (
    final_answer,
    list_preference_splits,
    load_completions,
    load_preferences,
    question_prompt,
    read_records,
    solution_completions,
    solution_pairs,
    solution_texts,
    split_dialogue,
    split_questions,
)


SHARED = Path(__file__).parents[2] / ".." / "shared" / "data"

datasets.disable_progress_bars()

USER, YES, NO = (
    {"role": role, "content": text} for role, text in (("user", "Hi"), ("assistant", "yes"), ("assistant", "no"))
)


@pytest.fixture
def cache(tmp_path_factory) -> dict[str, str]:
    return {"cache_dir": str(tmp_path_factory.mktemp("cache"))}


def turn(role: str, text: str) -> dict[str, str]:
    return {"role": role, "content": text}


def records(count: int = 5) -> list[dict]:
    return [{"prompt": f"Question {n}?", "chosen": f" right {n}", "rejected": f" wrong {n}"} for n in range(count)]


def write(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = datasets.Dataset.from_list(rows)
    kind = path.name.split(".", 1)[1]
    if kind == "parquet":
        data.to_parquet(str(path))
    elif kind == "csv":
        data.to_csv(str(path))
    elif kind == "json":
        path.write_text(json.dumps(rows))
    else:
        lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
        path.write_bytes(gzip.compress(lines) if kind.endswith("gz") else lines)
    return path


# ---------------------------------------------------------------------------- sources


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "parquet", "jsonl.gz", "json.gz"])
@pytest.mark.parametrize("streaming", [False, True])
def test_files_of_every_kind(kind, streaming, tmp_path, cache):
    file = write(tmp_path / f"pairs.{kind}", records())
    found = load_preferences(file, streaming=streaming, **cache)
    assert isinstance(found, datasets.IterableDataset) == streaming
    assert list(found) == [{**row, "index": number} for number, row in enumerate(records())]
    assert list(found.column_names) == ["prompt", "chosen", "rejected", "index"]
    assert len(list(load_preferences(str(file), streaming=streaming, max_samples=2, **cache))) == 2


def test_folders_by_the_names_of_splits(tmp_path, cache):
    write(tmp_path / "some_train.jsonl.gz", records(4))
    write(tmp_path / "some_test.jsonl.gz", records(2))
    assert list_preference_splits(tmp_path) == ["train", "test"]
    assert [len(load_preferences(tmp_path, split=split, **cache)) for split in ("train", "test")] == [4, 2]
    with pytest.raises(ValueError, match=r"split 'dev' not found; .* has test, train; pass split= one of them"):
        load_preferences(tmp_path, split="dev", **cache)


def test_saved_folders_and_rows_at_hand(tmp_path):
    data = datasets.Dataset.from_list(records())
    data.save_to_disk(tmp_path / "one")
    datasets.DatasetDict(train=data, test=data.select([3])).save_to_disk(tmp_path / "two")
    for place in (tmp_path / "one", records(), data, data.to_iterable_dataset()):
        assert list(load_preferences(place)) == [{**row, "index": number} for number, row in enumerate(records())]
    assert load_preferences(tmp_path / "two", split="test")["prompt"][:] == ["Question 3?"]
    assert isinstance(load_preferences(data, streaming=True), datasets.IterableDataset)


def test_hub_ids(monkeypatch):
    asked = {}

    def load_dataset(path, name, **options):
        asked.update(options, path=path, name=name)
        return datasets.Dataset.from_list(records(2))

    monkeypatch.setattr(datasets, "get_dataset_split_names", lambda path, name: ["train", "test"])
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert len(load_preferences("someone/pairs", name="small", split="test")) == 2
    assert asked == {"path": "someone/pairs", "name": "small", "split": "test", "streaming": False, "cache_dir": None}
    monkeypatch.undo()
    with pytest.raises(ValueError, match="'nobody/nothing' is no local path, and the hub did not hand out"):
        load_preferences("nobody/nothing")


def test_paths_that_lead_nowhere(tmp_path):
    for place in (tmp_path / "nothing", "./nothing", "nothing.jsonl.gz"):
        with pytest.raises(
            FileNotFoundError, match=r"nothing.* does not exist; pass 'arithmetic', a file \(.parquet, .jsonl"
        ):
            load_preferences(place)
    with pytest.raises(ValueError, match=r"no rows in .*: expected .parquet"):
        load_preferences(tmp_path)
    (tmp_path / "pairs.txt").write_text("x")
    with pytest.raises(ValueError, match=r"pairs.txt is none of .parquet"):
        load_preferences(tmp_path / "pairs.txt")
    (tmp_path / "broken.jsonl").write_text('{"prompt": "a", "chosen"\n')
    with pytest.raises(ValueError, match=r"broken.jsonl, split 'train', cannot be read"):
        load_preferences(tmp_path / "broken.jsonl", cache_dir=str(tmp_path / "cache"))


# ---------------------------------------------------------------------------- forms of records


def only(row: dict, **options) -> dict:
    found = load_preferences([row], **options)
    streamed = load_preferences([row], streaming=True, **options)
    assert list(found) == list(streamed)
    (pair,) = found
    assert pair.pop("index") == 0
    return pair


def test_questions_get_a_template():
    right = {"prompt": "Question: 1 + 1?\nAnswer:\n", "chosen": "A: 2", "rejected": "A: 3"}
    assert only({"question": "1 + 1?", "correct": "A: 2", "incorrect": "A: 3"}) == right
    assert only({"question": "1 + 1?", "chosen": "A: 2", "rejected": "A: 3"}) == right
    assert (
        only({"question": "1 + 1?", "chosen": "A: 2", "rejected": "A: 3"}, template="{question}")["prompt"] == "1 + 1?"
    )
    braces = {"prompt": "f{x} {question}", "chosen": "a", "rejected": "b"}
    assert only(braces)["prompt"] == "f{x} {question}"  # a prompt stays as it is
    assert only(braces, template="User: {question}\n")["prompt"] == "User: f{x} {question}\n"
    with pytest.raises(ValueError, match=r"the template 'Q:' has no \{question\}"):
        load_preferences([braces], template="Q:")


def test_own_names_margins_and_further_columns():
    row = {"ask": "a", "good": "b", "bad": "c", "by": 2, "source": "x", "index": 7}
    names = {"prompt_column": "ask", "chosen_column": "good", "rejected_column": "bad", "margin_column": "by"}
    found = only(row, keep_columns=["source"], template="{question}", **names)
    assert found == {"prompt": "a", "chosen": "b", "rejected": "c", "margin": 2.0, "source": "x"}
    assert isinstance(found["margin"], float)
    assert only({**records(1)[0], "margin": 0.5})["margin"] == 0.5
    for column in ("prompt_column", "chosen_column", "rejected_column", "margin_column"):
        with pytest.raises(ValueError, match=f"column 'none' not found; .* has ask, good, .*pass {column}="):
            load_preferences([row], **{**names, column: "none"})
    for value in (None, float("nan")):
        rows = [{**records(1)[0], "margin": 1.0}, {**records(1)[0], "margin": value}]
        with pytest.raises(ValueError, match=r"record 1: the margin is (None|nan); expected a number"):
            load_preferences(rows)


def test_whole_dialogues_are_split():
    start = "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: How are you?\n\nAssistant:"
    found = only({"chosen": start + " Well.", "rejected": start + " Wet."})
    assert found == {"prompt": start, "chosen": " Well.", "rejected": " Wet."}
    # a prompt column beside whole texts is found out, and the text is not doubled
    found = only({"prompt": start, "chosen": start + " Well.", "rejected": start + " Wet."})
    assert found == {"prompt": start, "chosen": " Well.", "rejected": " Wet."}
    # a short prompt may well be repeated by both answers
    assert only({"prompt": "Hi", "chosen": "Hi you", "rejected": "Hi me"})["chosen"] == "Hi you"


@pytest.mark.parametrize(
    ("chosen", "rejected", "expected"),
    [
        # they part before the last turn: the answers hold several turns
        ("\n\nAssistant: a\n\nHuman: b\n\nAssistant: c", "\n\nAssistant: x", ("\n\nAssistant:", " a\n\nHuman: b\n\nAssistant: c", " x")),
        # without a marker no word is split, and the white space goes to the answer
        ("the cat sat", "the cow sat", ("the", " cat sat", " cow sat")),
        ("the cat sat", "the cat\nsat", ("the cat", " sat", "\nsat")),
        ("the cat sat", "the cats", ("the", " cat sat", " cats")),
        # one is the beginning of the other: a word is left to both
        ("the cat", "the cat sat", ("the", " cat", " cat sat")),
        ("the cat ", "the cat sat", ("the", " cat ", " cat sat")),
        ("cat", "cat sat", ("", "cat", "cat sat")),
        (" cat", " cat sat", ("", " cat", " cat sat")),
        ("\n cat", "\n cow", ("", "\n cat", "\n cow")),
        ("abc", "xyz", ("", "abc", "xyz")),
        # half a marker is none
        ("q\n\nAssistant: yes", "q\n\nAssist", ("q\n", "\nAssistant: yes", "\nAssist")),
    ],
)  # fmt: skip
def test_where_a_dialogue_is_split(chosen, rejected, expected):
    assert split_dialogue(chosen, rejected) == expected
    assert split_dialogue(rejected, chosen) == (expected[0], expected[2], expected[1])


def test_chat_lists():
    expected = {"prompt": [USER], "chosen": [YES], "rejected": [NO]}
    assert only({"prompt": [USER], "chosen": [YES], "rejected": [NO]}) == expected
    # whole conversations, alone, beside their prompt as messages, and beside its text (as in UltraFeedback)
    whole = {"chosen": [USER, YES], "rejected": [USER, NO]}
    assert only(whole) == expected
    assert only({"prompt": [USER], **whole}) == expected
    assert only({"prompt": "Hi", **whole}) == expected
    # texts beside messages become messages
    assert only({"prompt": "Hi", "chosen": [YES], "rejected": [NO]}) == expected
    assert only({"prompt": [USER], "chosen": "yes", "rejected": "no"}) == expected
    # one conversation is the beginning of the other: its last message is an answer
    longer = only({"chosen": [USER, YES], "rejected": [USER, YES, USER, NO]})
    assert longer == {"prompt": [USER], "chosen": [YES], "rejected": [YES, USER, NO]}


def test_chat_lists_from_files_with_uneven_fields(tmp_path, cache):
    rows = [
        {"chosen": [USER, YES], "rejected": [USER, NO]},
        {"chosen": [{**USER, "name": "Bob"}, YES], "rejected": [{**USER, "name": "Bob"}, NO]},
    ]
    for streaming in (False, True):
        found = list(load_preferences(write(tmp_path / "a.jsonl", rows), streaming=streaming, **cache))
        assert [{k: v for k, v in row["prompt"][0].items() if v is not None} for row in found] == [
            USER,
            {**USER, "name": "Bob"},
        ]
        assert [row["chosen"][0]["content"] for row in found] == ["yes", "yes"]


def test_unknown_columns_are_listed():
    with pytest.raises(
        ValueError, match=r"has the columns left, right; expected one of: .*question \+ correct.*chosen_column="
    ):
        load_preferences([{"left": "a", "right": "b"}])
    with pytest.raises(ValueError, match=r"has the columns prompt, chosen; expected"):
        load_preferences([{"prompt": "a", "chosen": "b"}])
    with pytest.raises(
        ValueError, match=r"column 'rejected' of .* holds int64; expected texts, or lists of chat messages"
    ):
        load_preferences([{"prompt": "a", "chosen": "b", "rejected": 3}])


# ---------------------------------------------------------------------------- records that cannot be used


@pytest.mark.parametrize("empty", ["", " \n", None])
@pytest.mark.parametrize("side", ["chosen", "rejected"])
def test_empty_answers_are_named_or_left_out(empty, side):
    rows = records(6)
    rows[2] = {**rows[2], side: empty}
    rows[5] = {**rows[5], side: empty}
    with pytest.raises(ValueError, match=r"records 2, 5 \(counted from 0\): .*empty.*on_empty='drop'"):
        load_preferences(rows)
    with pytest.warns(UserWarning, match=r"2 of 6 pairs of .* left out, because an answer is empty: records 2, 5"):
        assert load_preferences(rows, on_empty="drop")["index"][:] == [0, 1, 3, 4]
    stream = load_preferences(rows, streaming=True)
    with pytest.raises(ValueError, match=r"record 2 \(counted from 0\)"):
        list(stream)
    assert [row["index"] for row in load_preferences(rows, streaming=True, on_empty="drop")] == [0, 1, 3, 4]


def test_empty_messages_are_empty_answers():
    for empty in ([], [turn("assistant", " ")]):
        rows = [{"prompt": [USER], "chosen": [YES], "rejected": one} for one in ([NO], empty)]
        with pytest.raises(ValueError, match="record 1 "):
            load_preferences(rows)


def test_equal_answers_are_counted_and_left_out():
    rows = records(4)
    rows[1]["rejected"] = rows[1]["chosen"]
    with pytest.warns(UserWarning, match=r"1 of 4 pairs of .* both answers are equal, .*: record 1"):
        assert load_preferences(rows)["index"][:] == [0, 2, 3]
    assert [row["index"] for row in load_preferences(rows, streaming=True)] == [0, 2, 3]
    with (
        pytest.warns(UserWarning, match="both answers are equal"),
        pytest.raises(ValueError, match="has no usable pair"),
    ):
        load_preferences(rows[1:2])
    text = "\n\nHuman: a\n\nAssistant: b"
    with (
        pytest.warns(UserWarning, match="both answers are equal"),
        pytest.raises(ValueError, match="has no usable pair"),
    ):
        load_preferences([{"chosen": text, "rejected": text}])


def test_a_record_without_a_prompt_is_named():
    with pytest.raises(ValueError, match="record 1: column 'prompt' is empty"):
        load_preferences([*records(1), {**records(1)[0], "prompt": None}])


def test_mistakes_in_options_are_named():
    for option, value in (("on_empty", "skip"), ("max_samples", 0), ("test_fraction", 1.0)):
        with pytest.raises(ValueError, match=option):
            load_preferences(records(), **{option: value})
    with pytest.raises(ValueError, match=r"'chosen_score' not found; .*keep_columns="):
        load_preferences(records(), keep_columns=["chosen_score"])


# ---------------------------------------------------------------------------- holding out


def test_the_last_prompts_are_held_out():
    train, test = (load_preferences(records(10), split=split, test_fraction=0.3) for split in ("train", "test"))
    assert train["index"][:] == [*range(7)]
    assert test["index"][:] == [7, 8, 9]
    with pytest.raises(ValueError, match=r"split 'test' not found; .* has train; .*test_fraction=0.1"):
        load_preferences(records(), split="test")
    with pytest.raises(ValueError, match="leaves one part empty"):
        load_preferences(records(), split="test", test_fraction=0.01)
    with pytest.raises(ValueError, match="pass streaming=False"):
        load_preferences(records(), split="test", test_fraction=0.5, streaming=True)


def test_no_prompt_is_in_both_parts():
    rows = [{**row, "prompt": f"{number % 5}"} for number, row in enumerate(records(20))]
    rows += [{"prompt": "last", "chosen": "a", "rejected": f"b{number}"} for number in range(3)]
    train, test = (load_preferences(rows, split=split, test_fraction=0.34) for split in ("train", "test"))
    assert set(train["prompt"]) == {"0", "1", "2", "3"}
    assert set(test["prompt"]) == {"4", "last"}
    assert len(train) + len(test) == 23


def test_a_file_of_another_split_is_cut_when_asked(tmp_path, cache):
    file = write(tmp_path / "my_test.jsonl", records(10))
    with pytest.raises(ValueError, match=r"split 'train' not found; .* has test; .*test_fraction=0.1"):
        load_preferences(file, **cache)
    parts = [load_preferences(file, split=split, test_fraction=0.2, **cache) for split in ("train", "test")]
    assert [len(part) for part in parts] == [8, 2]


# ---------------------------------------------------------------------------- completions


def test_completions_of_the_known_forms(tmp_path, cache):
    rows = [
        {"question": question, "generated_solution": text, "predicted_answer": answer, "is_correct": right, "answer": "2"}
        for question, text, answer, right in (("1+1?", "A: 2", "2", True), ("2+2?", "no idea", None, False), ("1+1?", "A: 3", "3", False))
    ]  # fmt: skip
    found = load_completions(write(tmp_path / "samples.jsonl", rows), **cache)
    assert found.column_names == ["prompt", "answer", "is_correct", "predicted_answer", "question_id", "index"]
    assert found["prompt"][:2] == [question_prompt("1+1?"), question_prompt("2+2?")]
    assert found["answer"][:] == ["A: 2", "no idea", "A: 3"]
    assert found["is_correct"][:] == [True, False, False]
    assert found["predicted_answer"][:] == ["2", None, "3"]
    assert found["question_id"][:] == [0, 1, 0]
    other = load_completions(
        [{"prompt": "a", "completion": "b", "label": 1}, {"prompt": "a", "completion": "c", "label": 0}]
    )
    assert other["is_correct"][:] == [True, False]
    assert other["predicted_answer"][:] == [None, None]
    assert other["question_id"][:] == [0, 0]
    chat = load_completions([{"prompt": [USER], "completion": [YES], "label": "true"}])
    assert chat[0]["answer"] == [YES]
    own = {"q": "a", "a": "b", "ok": False, "question_id": 9, "solver": "s"}
    own = load_completions([own], prompt_column="q", answer_column="a", label_column="ok", keep_columns=["solver"])
    assert (own[0]["question_id"], own[0]["solver"]) == (9, "s")
    named = [{"prompt": text, "answer": "b", "label": 1, "question_id": f"id-{text}"} for text in "xyx"]
    assert load_completions(named)["question_id"][:] == [0, 1, 0]
    with pytest.raises(ValueError, match="'nobody/nothing' is no local path, and the hub did not hand out"):
        load_completions("nobody/nothing")


def test_completions_that_cannot_be_used():
    good = {"prompt": "a", "answer": "b", "is_correct": True}
    with pytest.raises(
        ValueError, match=r"has the columns prompt, answer; expected .*is_correct, label.*label_column="
    ):
        load_completions([{"prompt": "a", "answer": "b"}])
    with pytest.raises(ValueError, match="record 1: 'is_correct' is 2; expected true or false, 1 or 0"):
        load_completions([{**good, "is_correct": 1}, {**good, "is_correct": 2}])
    with pytest.raises(ValueError, match=r"record 1: 'is_correct' is None"):
        load_completions([good, {**good, "is_correct": None}])
    with pytest.raises(ValueError, match=r"record 1 \(counted from 0\): the answer is empty"):
        load_completions([good, {**good, "answer": " "}])
    with pytest.warns(UserWarning, match="1 of 2 answers"):
        assert load_completions([good, {**good, "answer": None}], on_empty="drop")["index"][:] == [0]


def test_completions_of_a_question_stay_together():
    rows = [{"prompt": str(n % 10), "answer": f"{n}", "is_correct": n < 10} for n in range(30)]
    parts = [load_completions(rows, split=split, test_fraction=0.2) for split in ("train", "test")]
    assert [len(part) for part in parts] == [24, 6]
    assert not set(parts[0]["question_id"]) & set(parts[1]["question_id"])


# ---------------------------------------------------------------------------- files of several solvers


def solver(text: str, right: bool) -> dict:
    return {"solution": text, "is_correct": right}


def test_solutions_of_several_solvers():
    rows = [
        {"question": "a", "ground_truth": "A: 1", "s": solver("x\nA: 1", True), "m": solver("A: 2", False), "l": solver("none", False)},
        {"question": "b", "ground_truth": "A: 1", "s": solver("A: 3", False), "m": solver("A: 2", False)},
    ]  # fmt: skip
    assert solution_pairs(rows) == [
        {"question": "a", "correct": "x\nA: 1", "incorrect": "A: 2"},
        {"question": "a", "correct": "x\nA: 1", "incorrect": "none"},
    ]
    assert len(solution_pairs(rows, max_pairs_per_question=1)) == 1
    drawn = {solution_pairs(rows, 1, seed)[0]["incorrect"] for seed in range(20)}
    assert drawn == {"A: 2", "none"}
    found = solution_completions(rows)
    assert [row["predicted_answer"] for row in found] == ["1", "2", None, "3", "2"]
    assert load_completions(found, keep_columns=["solver"])["question_id"][:] == [0, 0, 0, 1, 1]
    noted = [{"question": "a", "s": solver("2*3=<<2*3=6>>6\nA: 6", True), "m": solver("A: 2", False)}]
    assert solution_pairs(noted, keep_annotations=False)[0]["correct"] == "2*3=6\nA: 6"
    with pytest.raises(ValueError, match="record 0 has no solver; it has question, answer; expected"):
        solution_pairs([{"question": "a", "answer": "b"}])
    with pytest.raises(ValueError, match="record 0 has no text 'question'"):
        solution_completions([{"s": solver("a", True)}])


def test_final_answers():
    assert final_answer("A: 1\nmore\nA:  $2,000 \n") == "$2,000"
    for text in ("", "A:", "It is\n A: 3", "GCA: 5"):
        assert final_answer(text) is None


def test_questions_are_split_by_question():
    rows = [{"question": f"{n % 40}", "n": n} for n in range(80)]
    train, test = split_questions(rows, test_questions=10, seed=3)
    assert (len(train), len(test)) == (60, 20)
    assert not {row["question"] for row in train} & {row["question"] for row in test}
    assert split_questions(rows, 10, 3) == (train, test)
    assert split_questions(rows, 10, 4) != (train, test)
    with pytest.raises(ValueError, match="between 1 and 39 here, got 40"):
        split_questions(rows, 40)


# ---------------------------------------------------------------------------- real files beside the repository


def shared(name: str) -> Path:
    if not (SHARED / name).exists():
        pytest.skip(f"../shared/data/{name} is not here")
    return SHARED / name


def test_harmless_dialogues(cache):
    file = shared("hh_rlhf_harmless_test/harmless_base_test.jsonl.gz")
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    with pytest.raises(ValueError, match=r"records 86, 516, 925, 1103 \(counted from 0\): .* empty"):
        load_preferences(file, split="test", **cache)
    with pytest.warns(UserWarning, match="4 of 2312 pairs"):
        pairs = load_preferences(file, split="test", on_empty="drop", **cache)
    assert len(pairs) == 2308
    later = 0
    for pair in pairs:
        row = rows[pair["index"]]
        assert pair["prompt"] + pair["chosen"] == row["chosen"]
        assert pair["prompt"] + pair["rejected"] == row["rejected"]
        assert pair["prompt"].endswith("\n\nAssistant:")
        common = len(os.path.commonprefix([row["chosen"], row["rejected"]]))  # noqa: RUF071
        assert "\n\nAssistant:" not in row["chosen"][len(pair["prompt"]) : common]
        later += "\n\nAssistant:" in pair["chosen"] + pair["rejected"]
    assert later == 5  # these part before their last turn
    stream = load_preferences(file, split="test", on_empty="drop", streaming=True, **cache)
    assert all(one == other for one, other in zip(pairs, stream, strict=True))


def test_gsm8k_solutions(cache):
    folder = shared("gsm8k")
    rows = read_records(folder / "example_model_solutions.jsonl")
    train, test = split_questions(rows)
    assert (len(train), len(test)) == (1000, 319)
    assert sum(len(solution_pairs(part)) for part in (train, test)) == 2429
    pairs = load_preferences(solution_pairs(train))
    assert 1700 < len(pairs) < 1950
    completions = load_completions(solution_completions(test), keep_columns=["solver"])
    assert len(completions) == 4 * 319
    assert set(completions["prompt"]).isdisjoint(pairs["prompt"])
    everything = solution_completions(rows)
    right = {
        name: sum(row["is_correct"] for row in everything if row["solver"] == name) / 1319
        for name in completions["solver"]
    }
    assert {name: round(share, 3) for name, share in right.items()} == {
        "6b_finetuning": 0.217,
        "6b_verification": 0.390,
        "175b_finetuning": 0.347,
        "175b_verification": 0.563,
    }
    assert sum(row["predicted_answer"] is None for row in everything) == 11
    texts = solution_texts(read_records(folder / "test.jsonl"), keep_annotations=False)
    assert len(texts) == 1319
    assert all("\nA: " in text and "####" not in text and "<<" not in text for text in texts)
