"""Programs: loading in all forms, words, trees, graphs, processors, pairs."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from hf_contrastive.data import (
    EDGE_TYPES,
    PairBatchSampler,
    PairCollator,
    ProgramAugmenter,
    ProgramCollator,
    ProgramPairs,
    ProgramProcessor,
    UnusableProgram,
    lex_program,
    list_program_splits,
    load_programs,
    make_programs,
    parse_program,
    path_contexts,
    program_graph,
    program_words,
    train_program_tokenizer,
    usable_programs,
)


CODE = "int main() { int total = 1; /* sum */ total += 2; return total; }"
SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "poj104_small"


# ----------------------------------------------------------------------------------------------------------- loading


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_tables_by_split_and_by_problem(tmp_path):
    for name, label in (("train", 3), ("validation", 70), ("test", 90)):
        write_rows(
            tmp_path / f"{name}.jsonl", [{"id": f"{label}/{n}", "label": label, "code": CODE} for n in range(2)]
        )
    assert list_program_splits(tmp_path) == ["train", "validation", "test"]
    rows = load_programs(tmp_path, split="test")
    assert rows.column_names == ["id", "label", "code", "language", "index"]
    assert (rows["label"][:], rows["index"][:]) == ([90, 90], [0, 1])
    with pytest.raises(ValueError, match="split 'dev' not found"):
        load_programs(tmp_path, split="dev")
    # one split with all problems: as CodeXGLUE cuts it, with labels as text and numbers as ids, as on the hub
    rows = [{"id": n, "code": CODE, "label": str(n)} for n in range(1, 105)]
    for split, expected in (("train", range(1, 65)), ("validation", range(65, 81)), ("test", range(81, 105))):
        found = load_programs(rows, split=split, codexglue_split=True)
        assert found["label"][:] == list(expected)
    # problems are never cut
    parts = [load_programs(rows * 2, split=split, test_fraction=0.25)["label"][:] for split in ("train", "test")]
    assert set(parts[0]) & set(parts[1]) == set()
    assert len(set(parts[1])) == 26
    assert load_programs(rows * 3, max_per_label=2)["label"][:].count(7) == 2
    with pytest.raises(ValueError, match="both cut the data"):
        load_programs(rows, codexglue_split=True, test_fraction=0.1)


def test_parquet(tmp_path):
    import datasets

    datasets.Dataset.from_list([{"id": 1, "code": CODE, "label": "4"}]).to_parquet(tmp_path / "train.parquet")
    assert load_programs(tmp_path)[0]["label"] == 4


def test_a_folder_per_problem_with_damaged_and_foreign_files(tmp_path):
    for problem in ("10", "2", "sorting"):
        (tmp_path / problem).mkdir()
        (tmp_path / problem / "1.txt").write_text(CODE)
        (tmp_path / problem / "2.py").write_text("print(1)\n")
    (tmp_path / "2" / "3.c").write_bytes(b"int main() { return 0; } // \xff\xfe")
    (tmp_path / "2" / "notes.md").write_text("no program")
    (tmp_path / "10" / "4.c").write_text("  // nothing\n")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        rows = load_programs(tmp_path)
    said = "\n".join(str(one.message) for one in caught)
    assert "1 programs hold bytes that are no UTF-8, which were replaced: 2/3.c" in said
    assert "1 files in" in said
    assert "1 of 8 programs are empty: 10/4.c; they are left out" in said
    assert rows["id"][:] == ["2/1.txt", "2/2.py", "2/3.c", "10/1.txt", "10/2.py", "sorting/1.txt", "sorting/2.py"]
    assert rows["language"][:] == ["cpp", "python", "c", "cpp", "python", "cpp", "python"]
    assert "\ufffd" in rows[2]["code"]
    assert len(set(rows["label"][:])) == 3
    with pytest.raises(ValueError, match=r"1 of 8 programs are empty: 10/4\.c; remove them, or pass on_bad='skip'"):
        load_programs(tmp_path, on_bad="error")


def test_what_is_wrong_is_told(tmp_path):
    (tmp_path / "empty").mkdir()
    for source, message in (
        (tmp_path / "empty", "no programs in"),
        ([{"a": CODE, "label": 1}], "cannot tell which column of the records given is the code"),
        ([{"code": CODE, "kind": 1}], "cannot tell which column of the records given is the label"),
        ([{"code": CODE, "label": None}, {"code": CODE, "label": 1}], "row 0 of .* has no label"),
        ([{"code": "", "label": 1}], "there is nothing left"),
    ):
        with pytest.raises(ValueError, match=message):
            load_programs(source)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_programs(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="`on_bad` is 'ignore'"):
        load_programs([], on_bad="ignore")
    with pytest.raises(ValueError, match="column 'text' not found"):
        load_programs([{"code": CODE, "label": 1}], code_column="text")


def test_built_in_tasks_of_training_and_test_differ():
    train, test = (load_programs("programs", split=split) for split in ("train", "test"))
    assert set(train["label"][:]) & set(test["label"][:]) == set()
    assert set(train["language"][:]) == {"c", "cpp", "python"}
    assert make_programs("test", 3, 1) == make_programs("test", 3, 1) != make_programs("test", 3, 2)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the sample of POJ-104 is not part of the project and not here")
def test_poj104_sample():
    rows = load_programs(SHARED, split="test", max_per_label=3)
    assert sorted(set(rows["label"][:])) == list(range(81, 105))
    processor = ProgramProcessor.build("graph", rows["code"][:])
    assert len(usable_programs(rows, processor)) == 72


# ------------------------------------------------------------------------------------------------------ words, trees


@pytest.mark.parametrize(
    ("code", "language"),
    [
        (CODE, "c"),
        ('#define A "/*" \\\n 1 // x\nchar c = \'"\'; L"a\\"b"; R"x(")x" 1.5e-3f >>= a->*b ...', "cpp"),
        ('s = f"a{b}" + r\'\\\'\n"""doc\n# no"""  # yes\nx = 0x1F ** 2 // 3 := 4', "python"),
        ('/* open\n"unclosed', "c"),
    ],
)
def test_lexer_loses_nothing(code, language):
    for directives in (False, True):
        assert "".join(text for _, text in lex_program(code, language, directives=directives)) == code


def test_words_without_comments_and_with_numbered_names():
    assert "sum" not in program_words(CODE, "c")
    other = CODE.replace("total", "x_1").replace("sum", "other")
    assert program_words(CODE, "c") != program_words(other, "c")
    assert program_words(CODE, "c", names="number") == program_words(other, "c", names="number")
    assert "printf" in program_words('printf("%d", a);', "c", names="number")
    assert program_words('f("a b")', "c", strings=False) == ["f", "(", ")"]


def test_tokenizer_is_that_of_the_paper():
    tokenizer = train_program_tokenizer([program_words(CODE, "c")] * 3, 300, max_length=8)
    ids = [tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id]
    assert ids == [0, 1, 2, 3]
    assert tokenizer("int \u4e2d")["input_ids"][0] == 2
    assert 1 not in tokenizer("int \u4e2d")["input_ids"]  # bytes know everything


def test_paths_by_hand_and_by_brute_force():
    tree = parse_program("int f() { return a + 1; }", "c")
    found = path_contexts(tree, max_length=3)
    assert ("a", ("identifier", "binary_expression +", "number_literal"), "1") in [
        (path.start, path.nodes, path.end) for path in found
    ]
    tree = parse_program(CODE, "c")
    leaves = [number for number, text in enumerate(tree.texts) if text is not None]

    def up(number):
        way = [number]
        while tree.parents[way[-1]] >= 0:
            way.append(tree.parents[way[-1]])
        return way

    expected = 0
    for place, one in enumerate(leaves):
        for two in leaves[place + 1 :]:
            first, second = up(one), up(two)
            top = next(node for node in first if node in second)
            a, b = first.index(top), second.index(top)
            width = abs(tree.places[first[a - 1]] - tree.places[second[b - 1]])
            expected += a + b <= 6 and width <= 1
    assert len(path_contexts(tree, max_length=6, max_width=1, max_paths=10**6)) == expected > 10
    some = path_contexts(tree, max_paths=5, seed=1)
    assert len(some) == 5
    assert some == path_contexts(tree, max_paths=5, seed=1) != path_contexts(tree, max_paths=5, seed=2)


def test_graph_edges():
    graph = program_graph(parse_program("int a; int b; int c = a + a;", "c"), "c")
    kinds = {EDGE_TYPES[kind] for kind in graph.kinds}
    assert kinds == set(EDGE_TYPES)
    forward = {(int(s), int(t), int(k)) for (s, t), k in zip(graph.edges.T, graph.kinds, strict=True) if k % 2 == 0}
    back = {(int(t), int(s), int(k) - 1) for (s, t), k in zip(graph.edges.T, graph.kinds, strict=True) if k % 2}
    assert forward == back
    assert "primitive_type int" in graph.nodes
    uses = [(graph.nodes[s], graph.nodes[t]) for s, t, k in forward if EDGE_TYPES[k] == "next use of the name"]
    assert uses.count(("identifier", "identifier")) == 2
    small = program_graph(parse_program(CODE, "c"), "c", max_nodes=4)
    assert (len(small.nodes), small.cut) == (4, True)
    assert small.edges.max() < 4


@pytest.mark.parametrize("code", ["", "  \n", "// only\n", "}}}} ((( ]] == %% ;;; )) {{ @@@ $$ \n" * 3])
def test_unusable_programs_say_why(code):
    with pytest.raises(UnusableProgram, match=r"it (is empty|holds nothing but comments|does not parse as c)"):
        parse_program(code, "c")


# -------------------------------------------------------------------------------------------------------- processors


@pytest.mark.parametrize("kind", ["text", "ast", "graph"])
def test_processor_round_trip(kind, tmp_path):
    programs = make_programs("train", 2)
    codes, spoken = [one["code"] for one in programs], [one["language"] for one in programs]
    processor = ProgramProcessor.build(kind, codes, spoken, vocab_size=400, max_length=40, max_paths=20, max_nodes=60)
    processor.save_pretrained(tmp_path)
    again = ProgramProcessor.from_pretrained(tmp_path)
    batch, other = processor(codes[:5], spoken[:5]), again(codes[:5], spoken[:5])
    assert set(batch) == set(other)
    assert all(torch.equal(batch[name], other[name]) for name in batch)
    assert again.encoder_fields() == processor.encoder_fields()
    # a program alone is what it is among others
    alone = processor(codes[1], spoken[1])
    for name, value in alone.items():
        places = (0, *(slice(0, size) for size in value.shape[1:]))
        assert torch.equal(batch[name][1][places[1:]], value[0]), name
    fields = processor.encoder_fields()
    if kind == "text":
        assert processor.num_cut > 0  # told, not silent
        assert batch["input_ids"].shape[1] <= 40
        assert int(batch["input_ids"].max()) < fields["vocab_size"]
    if kind == "ast":
        assert batch["path_nodes"].shape[1] <= 20
        assert int(batch["path_nodes"].max()) < fields["node_vocab_size"]
    if kind == "graph":
        assert batch["node_types"].shape[1] <= 60
        assert fields["edge_vocab_size"] == len(EDGE_TYPES)
    with pytest.raises(UnusableProgram, match="program 1 cannot be used"):
        processor([CODE, " "], "c")
    (tmp_path / "program_processor.json").write_text("{")
    with pytest.raises(ValueError, match="is damaged"):
        ProgramProcessor.from_pretrained(tmp_path)


def test_unusable_programs_are_left_out_and_named():
    rows = load_programs(
        [
            {"id": name, "label": 0, "code": code}
            for name, code in (("good", CODE), ("wild", "}}}} ((( ]] %% )) {{ @@"))
        ]
    )
    processor = ProgramProcessor.build("graph", [CODE])
    with pytest.warns(UserWarning, match=r"1 of 2 programs cannot be read: wild \(it does not parse as cpp\)"):
        kept = usable_programs(rows, processor)
    assert (kept["id"][:], kept["index"][:]) == (["good"], [0])
    with pytest.raises(ValueError, match="remove them"):
        usable_programs(rows, processor, "error")


def test_without_tree_sitter_it_is_told_what_to_install(monkeypatch):
    import sys

    from hf_contrastive.data import program_syntax

    program_syntax._parser.cache_clear()
    monkeypatch.setitem(sys.modules, "tree_sitter", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'pip install "hf-contrastive\[code\]"'):
        parse_program(CODE, "c")
    program_syntax._parser.cache_clear()


# ------------------------------------------------------------------------------------------------------------- pairs


def test_pairs_share_a_label_and_batches_mix_labels():
    labels = np.repeat(np.arange(6), [5, 2, 9, 3, 1, 4])
    with pytest.warns(UserWarning, match="1 programs are the only ones of their label"):
        sampler = PairBatchSampler(labels, batch_size=7, steps=20)
    seen, numbers = set(), []
    for batch in sampler:
        assert len(batch) == 7
        for first, second, number in batch:
            assert labels[first] == labels[second]
            assert first != second
            seen.add((first, second))
            numbers.append(number)
        counts = np.bincount([labels[first] for first, _, _ in batch], minlength=6)
        assert counts[4] == 0
        assert counts[[0, 1, 2, 3, 5]].min() >= 1
        assert counts.max() <= 2
    assert numbers == list(range(140))
    assert len(seen) > 60


def test_processes_share_what_one_draws_and_a_continued_epoch_is_the_rest():
    labels = [0, 0, 1, 1, 2, 2, 3, 3]
    one = PairBatchSampler(labels, 4, 5, seed=3)
    two = PairBatchSampler(labels, 2, 5, num_processes=2, seed=3)
    for sampler in (one, two):
        sampler.set_epoch(2)
    halves = list(two)
    assert [a + b for a, b in zip(halves[::2], halves[1::2], strict=True)] == list(one)
    assert list(one)[3:] == [one.global_batch(step) for step in (3, 4)]
    one.set_epoch(1)
    assert list(one) != [a + b for a, b in zip(halves[::2], halves[1::2], strict=True)]
    assert (len(one), len(two), two.global_batch_size) == (5, 10, 4)


def test_groups_and_pairs_with_itself():
    labels, groups = [0, 0, 1, 1, 2, 2, 3, 3], [0, 0, 0, 0, 1, 1, 1, 1]
    for batch in PairBatchSampler(labels, 4, 10, groups=groups):
        assert len({groups[first] for first, _, _ in batch}) == 1
        assert len({labels[first] for first, _, _ in batch}) == 2
    sampler = PairBatchSampler([5, 6], 2, 1, with_itself=True)
    assert sorted(pair[:2] for pair in next(iter(sampler))) == [(0, 0), (1, 1)]


@pytest.mark.parametrize(
    ("labels", "fields", "message"),
    [
        ([0, 1, 2], {}, "none of the 3 labels has two programs"),
        ([0, 0, 0], {}, "every batch would hold a single label"),
        ([0, 0, 1, 1], {"groups": [0, 0, 1, 1]}, "every batch would hold a single label"),
        ([0, 0, 1, 1], {"groups": [0, 1, 1, 1]}, "a label has one group"),
        ([0, 0, 1, 1], {"steps": 0}, "steps must be a whole number of at least 1"),
        ([], {}, "labels is empty"),
    ],
)
def test_impossible_batches_are_refused(labels, fields, message):
    with pytest.raises(ValueError, match=message):
        PairBatchSampler(labels, **{"batch_size": 2, "steps": 1, **fields})


@pytest.mark.parametrize("kind", ["text", "ast", "graph"])
def test_collators(kind):
    rows = load_programs(make_programs("train", 3))
    processor = ProgramProcessor.build(kind, rows["code"][:], rows["language"][:], vocab_size=300, max_length=300)
    pairs, sampler = ProgramPairs(rows), PairBatchSampler(rows["label"][:], 3, 2)
    items = [pairs[pair] for pair in sampler.global_batch(0)]
    batch = PairCollator(processor)(items)
    assert batch["labels"].tolist() == [item["first"]["label"] for item in items]
    assert all(value.shape[:2] == (3, 2) for name, value in batch.items() if name != "labels")
    single = ProgramCollator(processor)([items[1]["second"]])
    for name in processor.pad([processor.features(CODE, "c")]):
        own = single[name][0]
        assert torch.equal(batch[name][1, 1][tuple(slice(0, size) for size in own.shape)], own)
    assert single["label"].tolist() == [items[1]["second"]["label"]]
    augmenter = ProgramAugmenter(["rename", "add_comments"], 1.0)
    first, again = (PairCollator(processor, augmenter)(items) for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    if kind == "text":
        assert first["input_ids"].shape != batch["input_ids"].shape or not torch.equal(
            first["input_ids"], batch["input_ids"]
        )
