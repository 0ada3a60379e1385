"""`hf-contrastive recommend`: the lists are the model's, files are whole, and what is wrong is told in words."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch

from hf_contrastive.models.dccf.configuration_dccf import DCCFConfig
from hf_contrastive.models.dccf.modeling_dccf import DCCFModel
from hf_contrastive.models.lightgcn.configuration_lightgcn import LightGCNConfig
from hf_contrastive.models.lightgcn.modeling_lightgcn import LightGCNModel
from hf_contrastive.models.mf.configuration_mf import MFConfig
from hf_contrastive.models.mf.modeling_mf import MFModel


USERS = ["ann", "bob", "cem", "dora"]
ITEMS = ["tea", "milk", "rice", "fig", "oat", "rye"]
TITLES = {"tea": "Green tea, loose", "milk": "Milk", "rice": "Rice", "fig": 'A "dried" fig', "oat": "Oat"}
PAIRS = ([0, 0, 1, 2, 2, 3, 3, 3, 3, 3, 3], [0, 1, 2, 3, 0, 0, 1, 2, 3, 4, 5])
SIZES = {"num_users": 4, "num_items": 6, "hidden_size": 8}


def save(folder: Path, model, tokens: bool = True, **options):
    torch.manual_seed(0)
    model = model()
    model.set_interactions(*PAIRS, **({"user_tokens": USERS, "item_tokens": ITEMS} if tokens else {}))
    model.save_pretrained(folder, **options)
    return model


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """`(folder, model)` of a LightGCN."""
    folder = tmp_path_factory.mktemp("saved") / "shop"
    return folder, save(folder, lambda: LightGCNModel(LightGCNConfig(**SIZES, num_layers=2)))


@pytest.fixture
def titles(tmp_path):
    """Titles of all items but one, and of one that the model does not know."""
    path = tmp_path / "shop.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(
            [["item_id", "title", "price"], *([*row, 1] for row in TITLES.items()), ["x", "X", 2]]
        )
    return path


def flat(users, lists, titles=None):
    """Rows as files have them."""
    return [
        {
            "user": user,
            "rank": rank,
            "item": item,
            **({} if titles is None else {"title": titles.get(item)}),
            "score": score,
        }
        for user, row in zip(users, lists, strict=True)
        for rank, (item, score) in enumerate(row, 1)
    ]


def test_a_table_for_every_user(call, saved):
    folder, model = saved
    found = call("recommend", folder, "--user", "bob", "--user", "ann", "--user", "bob", "--k", 3)
    assert found.code == 0, found.err
    assert found.err == ""
    lines = [line.split() for line in found.out.splitlines()]
    expected = []
    for name, row in zip(("bob", "ann"), model.recommend(["bob", "ann"], k=3), strict=True):
        expected += [[name], ["rank", "item", "score"]]
        expected += [[str(rank), item, f"{score:.4f}"] for rank, (item, score) in enumerate(row, 1)]
        expected += [[]]
    assert lines == expected[:-1]


def test_options_arrive(call, saved):
    folder, model = saved
    words = ("--json", "-k", 4, "--exclude", "fig", "--exclude", "rye", "--include-seen")
    told = json.loads(call("recommend", folder, "--user", "cem", *words).out)
    [(item, score), *rest] = model.recommend(["cem"], k=4, exclude=["fig", "rye"], exclude_seen=False)[0]
    [user] = told.pop("users")
    assert told == {"checkpoint": "shop", "k": 4, "exclude_seen": False, "exclude": ["fig", "rye"]}
    assert user["items"][0] == {"rank": 1, "item": item, "score": pytest.approx(score, abs=1e-6)}
    assert [one["item"] for one in user["items"][1:]] == [item for item, _ in rest]


def test_somebody_new(call, saved):
    folder, model = saved
    found = call("recommend", folder, "--history", "tea", "--history", "fig", "--k", 2)
    row = model.recommend(histories=[["tea", "fig"]], k=2)[0]
    lines = found.out.splitlines()
    assert lines[0] == "new user who has tea, fig"
    assert [line.split()[1] for line in lines[2:]] == [item for item, _ in row]
    told = json.loads(call("recommend", folder, "--history", "tea", "--history", "fig", "--k", 2, "--json").out)
    assert told["history"] == ["tea", "fig"]
    assert [one["item"] for one in told["users"][0]["items"]] == [item for item, _ in row]


def test_nothing_left_and_short_lists(call, saved):
    folder, _ = saved
    found = call("recommend", folder, "--user", "dora", "--user", "cem", "--k", 5)
    assert found.code == 0
    assert found.out.splitlines()[:2] == ["dora", "nothing is left to recommend"]
    assert "note: 2 of 2 lists are shorter than --k 5 (first: dora)" in found.err


def read(path: Path):
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    if path.suffix == ".csv":
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        return [
            {**row, "rank": int(row["rank"]), "score": float(row["score"]), "title": row["title"] or None}
            for row in rows
        ]
    import pyarrow.parquet as pq

    return pq.read_table(path).to_pylist()


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".parquet"])
def test_files(call, saved, titles, tmp_path, ending, monkeypatch):
    from hf_contrastive.cli import recommend

    monkeypatch.setattr(recommend, "_CHUNK", 2)
    folder, model = saved
    users = tmp_path / "users.txt"
    users.write_text("ann\n\n  dora \ncem\nann\n", encoding="utf-8")
    output = tmp_path / "deep" / f"lists{ending}"
    words = ("recommend", folder, "--users-file", users, "--user", "bob", "--k", 4, "--titles", titles, "-o", output)
    found = call(*words)
    assert found.code == 0, found.err
    order = ["bob", "ann", "dora", "cem"]
    expected = flat(order, model.recommend(order, k=4), TITLES)
    assert any(row["title"] is None for row in expected)
    assert read(output) == [{**row, "score": pytest.approx(row["score"], abs=1e-6)} for row in expected]
    assert found.out == f"wrote {output}: {len(expected)} lines for 4 users\n"
    assert [path.name for path in output.parent.iterdir()] == [output.name]
    before = output.read_bytes()
    again = call(*words)
    assert (again.code, output.read_bytes()) == (1, before)
    assert "exists; nothing was changed. Type --overwrite" in again.err
    # a failure in the second chunk leaves the earlier file as it was
    stranger = ("--user", "ann", "--user", "cem", "--user", "eve", "--k", 4, "-o", output, "--overwrite")
    failed = call("recommend", folder, *stranger)
    assert "1 unknown users (first: 'eve')" in failed.err
    assert (failed.code, output.read_bytes()) == (1, before)
    assert [path.name for path in output.parent.iterdir()] == [output.name]
    both = call(*words, "--overwrite", "--json")
    assert [len(one["items"]) for one in json.loads(both.out)["users"]] == [4, 4, 0, 4]
    assert f"wrote {output}" in both.err
    assert output.read_bytes() == before


@pytest.mark.parametrize("form", [".csv", ".jsonl", ".parquet", ".item"])
def test_titles_from_every_kind_of_file(call, saved, tmp_path, form):
    import datasets

    folder, _ = saved
    path = tmp_path / f"shop{form}"
    rows = datasets.Dataset.from_dict({"sku": list(TITLES), "label": list(TITLES.values())})
    if form == ".item":
        path.write_text("sku:token\tlabel:token_seq\n" + "".join(f"{a}\t{b}\n" for a, b in TITLES.items()))
    else:
        {".csv": rows.to_csv, ".jsonl": rows.to_json, ".parquet": rows.to_parquet}[form](path)
    words = ("recommend", folder, "--user", "bob", "--k", 4, "--titles", path, "--title-column", "label")
    found = call(*words, "--item-column", "sku", "--json")
    assert found.code == 0, found.err
    items = json.loads(found.out)["users"][0]["items"]
    assert {one["item"]: one["title"] for one in items} == {one["item"]: TITLES.get(one["item"]) for one in items}
    table = call(*words, "--item-column", "sku")
    assert all(TITLES[one["item"]] in table.out for one in items if one["title"])
    missing = [one["item"] for one in items if one["title"] is None]
    assert missing == ["rye"]
    assert f"note: 1 of 4 items have no title in shop{form} (first: rye)" in table.err


def test_titles_by_number(call, tmp_path):
    """Numbers in a column with gaps are read as 3.0; a model without names has numbers only."""
    model = save(tmp_path / "bare", lambda: MFModel(MFConfig(**SIZES)), tokens=False)
    titles = tmp_path / "names.csv"
    titles.write_text("item,name\n" + "".join(f"{n},No {n}\n" for n in range(6)) + ",nobody\n")
    found = call("recommend", tmp_path / "bare", "--user", 1, "--titles", titles, "--k", 5, "--json")
    assert found.code == 0, found.err
    rows = json.loads(found.out)["users"][0]["items"]
    assert [(one["item"], one["title"]) for one in rows] == [(n, f"No {n}") for n, _ in model.recommend([1], k=5)[0]]
    output = tmp_path / "x.parquet"
    assert call("recommend", tmp_path / "bare", "--history", 3, "-k", 2, "-o", output).code == 0
    assert [row["item"] for row in read(output)] == [n for n, _ in model.recommend(histories=[[3]], k=2)[0]]
    for words in (("--user", "ann"), ("--user", "-1"), ("--user", "4"), ("--user", "1", "--exclude", "tea")):
        refused = call("recommend", tmp_path / "bare", *words, "--k", 2)
        assert refused.code == 1
        assert f"unknown {'item' if 'tea' in words else 'user'}" in refused.err


def test_without_histories(call, tmp_path):
    save(tmp_path / "m", lambda: LightGCNModel(LightGCNConfig(**SIZES)), save_memory=False)
    found = call("recommend", tmp_path / "m", "--user", "ann", "--k", 2)
    assert found.code == 1
    assert "does not say what users have (saved without histories); type --include-seen" in found.err
    assert call("recommend", tmp_path / "m", "--user", "ann", "--k", 2, "--include-seen").code == 0
    found = call("recommend", tmp_path / "m", "--history", "tea", "--k", 2)
    assert (found.code, "no graph to propagate along" in found.err) == (1, True)


def test_a_system_that_cannot_fold_in(call, tmp_path):
    save(tmp_path / "m", lambda: DCCFModel(DCCFConfig(**SIZES, num_intents=4)))
    assert call("recommend", tmp_path / "m", "--user", "ann", "--k", 2).code == 0
    found = call("recommend", tmp_path / "m", "--history", "tea", "--k", 2)
    assert found.code == 1
    assert found.err.startswith("Error: DCCFModel cannot fold in new users")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ([], 2, "there is nobody to recommend to; type --user NAME or --users-file FILE"),
        (["--user", "ann", "--history", "tea"], 2, "--history goes with neither --user nor --users-file"),
        (["--user", "an", "--user", "zz"], 1, "2 unknown users (first: 'an'); similar are ann"),
        (["--history", "te"], 1, "1 unknown items (first: 'te'); similar are tea"),
        (["--user", "ann", "--exclude", "mil"], 1, "1 unknown items (first: 'mil'); similar are milk"),
        (["--user", "ann", "--k", "7"], 1, "--k is 7, but there are 6 items to recommend"),
        (["--user", "ann", "--k", "0"], 2, "--k"),
        (["--users-file", "no.txt"], 2, "--users-file no.txt cannot be read: No such file"),
        (["--user", "ann", "-o", "x.txt"], 2, "expected one of .jsonl, .csv, .parquet, for example -o x.csv"),
        (["--user", "ann", "--title-column", "t"], 2, "say where to look in the file of --titles"),
        (["--user", "ann", "--titles", "no.csv"], 2, "--titles no.csv is not there"),
        (["--user", "ann", "--device", "cuda:99"], 2, "--device cuda:99 cannot be used here"),
    ],
)
def test_what_is_refused(call, saved, words, code, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = call("recommend", saved[0], *words)
    assert found.code == code, found
    assert message in " ".join(found.err.split())
    assert "Traceback" not in found.err
    assert found.out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "content", "words", "code", "message"),
    [
        ("t.csv", "item_id,price\ntea,1\n", [], 2, "--title-column is needed: t.csv has the columns item_id, price"),
        ("t.csv", "sku,title\ntea,Tea\n", [], 2, "--item-column is needed: t.csv has the columns sku, title"),
        ("t.csv", "item_id,title\ntea,T\n", ["--title-column", "name"], 2, "--title-column is 'name': t.csv has the"),
        (
            "t.csv",
            "item_id,title\ncola,Cola\n",
            [],
            1,
            "none of the 6 items of the model is in the column 'item_id' of t.csv",
        ),
        ("t.item", "item_id:word\ttitle:token\ntea\tTea\n", [], 1, "no 'name:type'"),
        ("t.item", "item_id:token\ttitle:token\ntea\n", [], 1, "t.item cannot be read"),
        ("t.txt", "tea Tea\n", [], 1, "is none of .item, .parquet"),
    ],
)
def test_wrong_titles(call, saved, tmp_path, name, content, words, code, message):
    path = tmp_path / name
    path.write_text(content)
    found = call("recommend", saved[0], "--user", "ann", "--k", 2, "--titles", path, *words)
    assert found.code == code, found
    assert message in " ".join(found.err.split())


def test_files_of_users(call, saved, tmp_path):
    path = tmp_path / "users.txt"
    path.write_text("\n \n")
    found = call("recommend", saved[0], "--users-file", path)
    assert (found.code, "holds no user; write one a line" in found.err) == (2, True)
    path.write_bytes(b"\xff\xfe\x00")
    found = call("recommend", saved[0], "--users-file", path)
    assert (found.code, "it is no UTF-8 text" in found.err) == (2, True)


def test_other_checkpoints_are_refused(call, saved, checkpoint, tmp_path):
    found = call("recommend", checkpoint, "--user", "ann")
    assert found.code == 1
    assert "is a 'simclr' model, not a recommender; give a folder that a training of one of mf, lightgcn" in found.err
    found = call("recommend", tmp_path / "nothing", "--user", "ann")
    assert (found.code, "no checkpoint folder" in found.err) == (1, True)
    # a checkpoint without the item vectors
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "gap"
    folder.mkdir()
    for file in saved[0].iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    weights = load_file(folder / "model.safetensors")
    del weights["item_vectors"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    found = call("recommend", folder, "--user", "ann", "--k", 2)
    assert (found.code, "lacks 1 weights of the model, the first is 'item_vectors'" in found.err) == (1, True)


def test_films(call, tmp_path):
    data = Path(__file__).parents[2].parent / "shared" / "data" / "ml-100k" / "ml-100k.item"
    if not data.is_file():
        pytest.skip("../shared/data/ml-100k is not here")
    torch.manual_seed(0)
    model = MFModel(MFConfig(num_users=2, num_items=3))
    model.set_interactions([0, 1], [0, 1], user_tokens=["196", "7"], item_tokens=["1", "2", "3"])
    model.save_pretrained(tmp_path / "films")
    found = call("recommend", tmp_path / "films", "--user", "196", "--k", 2, "--titles", data)
    assert found.code == 0, found.err
    assert "GoldenEye" in found.out
    assert "Toy Story" not in found.out


def test_help_and_the_list_of_commands(call):
    assert "recommend" in call("--help").out
    found = call("recommend", "--help")
    assert found.code == 0
    assert all(name in found.out for name in ("Lists", "Titles", "Output", "--history", "--users-file"))
