"""Interaction logs: every form of file gives the same log, splits follow their rules, bad files are refused or counted."""

from __future__ import annotations

from pathlib import Path

import datasets
import numpy as np
import pytest

from hf_contrastive.data import InteractionDataset, k_core, load_interactions, make_interactions
from hf_contrastive.data.interaction_files import atomic_blocks
from hf_contrastive.data.interaction_splits import mmrec_counts, ratio_counts, split_by_time, split_per_user


ROWS = [("u7", "b", 5.0, 30), ("u7", "a", 2.0, 10), ("u3", "b", 4.0, 20), ("u3", "c", 1.0, 40), ("u9", "a", 3.0, 5)]
SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


def records(rows=ROWS):
    return [dict(zip(("user", "item", "rating", "timestamp"), row, strict=True)) for row in rows]


def pairs_of(data: InteractionDataset) -> list[tuple[str, str]]:
    table = data.log.with_format(None)
    return [(data.user_tokens[row["user_id"]], data.item_tokens[row["item_id"]]) for row in table]


def everything(**options):
    return {"split": "random", "ratios": (1.0, 0.0, 0.0), **options}


def write(folder: Path, name: str, lines: list[str]) -> Path:
    path = folder / name
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def as_atomic(folder: Path) -> Path:
    lines = ["user_id:token\titem_id:token\trating:float\ttimestamp:float"]
    write(folder, "log.inter", lines + ["\t".join(map(str, row)) for row in ROWS])
    write(folder, "log.item", ["item_id:token\tclass:token_seq", "a\tx y"])  # other files beside it are left alone
    return folder


def as_untyped(folder: Path) -> Path:
    return write(
        folder, "log.inter", ["userID\titemID\trating\ttimestamp", *("\t".join(map(str, row)) for row in ROWS)]
    )


def as_csv(folder: Path) -> Path:
    return write(folder, "log.csv", ["user,item,rating,timestamp", *(",".join(map(str, row)) for row in ROWS)])


def as_parquet(folder: Path) -> Path:
    datasets.Dataset.from_list(records()).to_parquet(folder / "log.parquet")
    return folder / "log.parquet"


def as_saved(folder: Path) -> Path:
    datasets.Dataset.from_list(records()).save_to_disk(folder / "saved")
    return folder / "saved"


@pytest.mark.parametrize("form", [as_atomic, as_untyped, as_csv, as_parquet, as_saved])
def test_every_form_gives_the_same_log(form, tmp_path):
    data = load_interactions(form(tmp_path), **everything(), cache_dir=str(tmp_path / "cache"))
    assert pairs_of(data) == [row[:2] for row in ROWS]
    assert data.user_tokens == ["u7", "u3", "u9"]
    assert data.item_tokens == ["b", "a", "c"]
    table = data.log.with_format("numpy")
    assert np.asarray(table["rating"][:]).tolist() == [row[2] for row in ROWS]
    assert np.asarray(table["timestamp"][:]).tolist() == [row[3] for row in ROWS]


def test_objects_at_hand():
    for source in (records(), datasets.Dataset.from_list(records())):
        assert pairs_of(load_interactions(source, **everything())) == [row[:2] for row in ROWS]
    # whole numbers, floats that are whole, and texts name the same thing
    for kind in (int, float, str):
        data = load_interactions([{"user": kind(4), "item": kind(2)}, {"user": kind(4), "item": kind(3)}])
        assert data.item_tokens == ["2", "3"]


def test_adjacency_lines(tmp_path):
    write(tmp_path, "train.txt", ["0 5 7", "", "1 5", "2"])
    write(tmp_path, "test.txt", ["1 7"])
    write(tmp_path, "user_list.txt", ["org_id remap_id"])
    data = load_interactions(tmp_path)
    assert pairs_of(data) == [("0", "5"), ("0", "7"), ("1", "5"), ("1", "7")]
    assert [len(data.part(split)[0]) for split in ("train", "valid", "test")] == [3, 0, 1]
    write(tmp_path, "train.txt", ["0 5 seven"])
    with pytest.raises(
        ValueError, match=r"train\.txt, line 1: expected whole numbers 'user item item \.\.\.', found '0 5 seven'"
    ):
        load_interactions(tmp_path)


def test_parts_from_a_column_and_from_splits(tmp_path):
    rows = [{"user": user, "item": item, "x_label": float(user % 3)} for user in range(6) for item in range(3)]
    data = load_interactions(rows)
    assert [sorted(set(data.part(split)[0].tolist())) for split in ("train", "valid", "test")] == [
        [0, 3],
        [1, 4],
        [2, 5],
    ]
    words = [{**row, "x_label": ("train", "valid", "test")[int(row["x_label"])]} for row in rows]
    for split in ("train", "valid", "test"):
        assert np.array_equal(load_interactions(words).part(split), data.part(split))
    both = datasets.DatasetDict(
        {
            name: datasets.Dataset.from_list([{"user": 0, "item": place}])
            for place, name in enumerate(("train", "test"))
        }
    )
    data = load_interactions(both)
    assert [data.pairs(split).tolist() for split in ("train", "valid", "test")] == [[[0, 0]], [], [[0, 1]]]
    assert data.pairs("train", "test").tolist() == [[0, 0], [0, 1]]


def test_a_file_is_read_in_blocks(tmp_path):
    rows = 5000
    path = write(
        tmp_path,
        "log.inter",
        ["user_id:token\titem_id:token", *(f"u{row % 700}\titem-{row % 1301}" for row in range(rows))],
    )
    blocks = list(atomic_blocks(path, block_bytes=4096)[1])
    assert len(blocks) > 10
    assert sum(block.num_rows for block in blocks) == rows
    data = load_interactions(path, **everything())
    assert pairs_of(data) == [(f"u{row % 700}", f"item-{row % 1301}") for row in range(rows)]


def test_repeated_and_missing_rows_are_counted():
    rows = [*records(), {"user": "u7", "item": "b"}, {"user": None, "item": "a"}, {"user": "u9", "item": None}]
    with pytest.warns(UserWarning, match="left out") as caught:
        data = load_interactions(rows, **everything())
    texts = [str(warning.message) for warning in caught]
    assert any("2 rows of the records given lack a user or an item" in text for text in texts)
    assert any("1 rows of the records given repeat a pair" in text for text in texts)
    assert pairs_of(data) == [row[:2] for row in ROWS]


def test_columns_that_nobody_asked_for_do_no_harm(tmp_path):
    rows = [
        {"user": "NA", "item": "null", "date": "in May", "split": "left"},
        {"user": "u", "item": "null", "date": "", "split": ""},
    ]
    data = load_interactions(rows, **everything())
    assert pairs_of(data) == [("NA", "null"), ("u", "null")]
    with pytest.raises(ValueError, match="the column 'date' holds something that is no number"):
        load_interactions(rows, **everything(timestamp_column="date"))
    with pytest.raises(ValueError, match="needs times, and the records given has none"):
        load_interactions(rows, split="global_time")
    with pytest.raises(ValueError, match="the column 'split' holds 'left'"):
        load_interactions(rows)
    path = write(tmp_path, "log.inter", ["user_id:token\titem_id:token", "NA\tnull"])
    assert pairs_of(load_interactions(path, **everything())) == [("NA", "null")]


def test_a_pair_of_two_parts_stays_in_training():
    rows = [{"user": 0, "item": 0, "split": "test"}, {"user": 0, "item": 0, "split": "train"}]
    with pytest.warns(UserWarning, match="1 of them in a later part, where they could never be recommended"):
        data = load_interactions([*rows, {"user": 0, "item": 1, "split": "test"}])
    assert data.pairs("train").tolist() == [[0, 0]]
    assert data.pairs("test").tolist() == [[0, 1]]


def test_ratings_and_cores():
    data = load_interactions(records(), **everything(min_rating=3))
    assert pairs_of(data) == [("u7", "b"), ("u3", "b"), ("u9", "a")]
    data = load_interactions(records(), **everything(user_core=2))
    assert pairs_of(data) == [row[:2] for row in ROWS[:4]]
    with pytest.raises(ValueError, match="nothing of the records given is left in the 3/3 core"):
        load_interactions(records(), user_core=3, item_core=3)
    with pytest.raises(ValueError, match=r"holds no row with a rating of at least 9"):
        load_interactions(records(), min_rating=9)
    with pytest.raises(ValueError, match="`min_rating` needs ratings, and the records given has none"):
        load_interactions([{"user": 0, "item": 0}], min_rating=3)


def test_core_goes_round_after_round():
    # item 2 falls with user 2, which takes user 1 along
    users, items = np.array([0, 0, 1, 1, 2, 3, 3]), np.array([0, 1, 0, 2, 2, 0, 1])
    assert k_core(users, items, 2, 2).tolist() == [True, True, False, False, False, True, True]
    assert not k_core(users, items, 4, 1).any()


@pytest.mark.parametrize("seed", [0, 1])
def test_splits_per_user(seed):
    users = np.random.default_rng(seed).integers(0, 9, 200)
    times = np.random.default_rng(seed + 5).permutation(200)
    counts = np.bincount(users)
    for options, rule in (
        ({"ratios": (0.8, 0.1, 0.1)}, lambda count: ratio_counts(count, (0.8, 0.1, 0.1))),
        ({"ratios": None}, mmrec_counts),
        ({"leave_out": True}, lambda count: (count - 2, 1, 1)),
    ):
        for extra in ({"seed": seed}, {"times": times}):
            parts = split_per_user(users, **options, **extra)
            for user, count in enumerate(counts):
                own = users == user
                assert tuple(np.bincount(parts[own], minlength=3)) == rule(int(count))
                if "times" in extra:  # nothing held out is older than what is trained on
                    last = [times[own & (parts == part)] for part in range(3)]
                    assert last[0].max() < last[1].min() <= last[1].max() < last[2].min()
    first, second = (split_per_user(users, seed=number) for number in (seed, seed + 1))
    assert np.array_equal(first, split_per_user(users, seed=seed))
    assert not np.array_equal(first, second)


def test_one_moment_for_everybody():
    times = np.array([3, 1, 2, 2, 9, 8, 7, 6, 5, 4])
    parts = split_by_time(times, (0.6, 0.2, 0.2))
    assert times[parts == 0].max() < times[parts == 1].min() < times[parts == 2].min()
    # rows of one moment stay together
    assert len(set(split_by_time(np.array([1, 1, 1, 1, 2, 2, 2, 2, 3, 3]), (0.5, 0.3, 0.2))[:4])) == 1
    data = load_interactions(records(), split="global_time", ratios=(0.6, 0.2, 0.2))
    assert [len(data.part(split)[0]) for split in ("train", "valid", "test")] == [3, 1, 1]
    with pytest.raises(ValueError, match="'global_time' needs times, and the records given has none"):
        load_interactions([{"user": 0, "item": 0}], split="global_time")


def test_validation_out_of_training():
    rows = [{"user": user, "item": item, "split": 0} for user in range(10) for item in range(user + 1)]
    data = load_interactions(rows, valid_fraction=0.2, seed=3)
    assert len(data.part("valid")[0]) == 11
    assert len(set(data.part("train")[0].tolist())) == 10  # nobody lost the only row
    again = load_interactions(rows, valid_fraction=0.2, seed=3)
    assert np.array_equal(data.part("valid"), again.part("valid"))
    with pytest.raises(ValueError, match="the data has a valid part"):
        load_interactions([*rows, {"user": 0, "item": 99, "split": 1}], valid_fraction=0.2)
    with pytest.raises(ValueError, match="expected a share between 0 and 1"):
        load_interactions(rows, valid_fraction=2.0)


def test_ids_as_they_are(tmp_path):
    rows = [{"user": 4, "item": 1, "split": 0}, {"user": 0, "item": 3, "split": 2}]
    data = load_interactions(rows, reindex=False, num_items=6)
    assert (data.num_users, data.num_items) == (5, 6)
    assert data.pairs("train").tolist() == [[4, 1]]
    with pytest.raises(ValueError, match="user ids go from 0 to 4, but num_users=3 allows 0 to 2"):
        load_interactions(rows, reindex=False, num_users=3)
    with pytest.raises(ValueError, match="reindex=False needs user ids that are whole numbers, found 'ann'"):
        load_interactions([{"user": "ann", "item": 1, "split": 0}], reindex=False)


def test_features_follow_the_items(tmp_path):
    matrix = np.arange(8, dtype=np.float16).reshape(4, 2)
    np.save(tmp_path / "image.npy", matrix)
    rows = [{"user": 0, "item": item} for item in (3, 0, 2)]
    data = load_interactions(rows, item_features={"image": tmp_path / "image.npy", "text": matrix * 2}, **everything())
    assert data.item_features["image"].tolist() == [[6, 7], [0, 1], [4, 5]]
    assert data.item_features["text"].dtype == np.float32
    matrix[2, 1] = np.nan
    with pytest.raises(ValueError, match=r"image features: 1 of 3 items have NaN or infinity \(first: item '2'\)"):
        load_interactions(rows, item_features={"image": matrix})
    with pytest.raises(ValueError, match="image features have rows 0 to 2, and the catalogue has the item '3'"):
        load_interactions(rows, item_features={"image": matrix[:3]})
    np.save(tmp_path / "bad.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"image features: bad\.npy is no \.npy file of numbers"):
        load_interactions(rows, item_features={"image": tmp_path / "bad.npy"})


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([""], "is empty; expected a header line"),
        (["user_id:token\titem_id"], "header field 'item_id' is no 'name:type'"),
        (["user_id:token\titem_id:word"], "header field 'item_id:word' is no 'name:type' with a type out of token"),
        (["user_id:token\tthing:token", "1\t2"], "column 'item_id' not found; .*pass item_column="),
        (["user_id:token\titem_id:token\trating:float", "1\t2\thigh"], "cannot be read: .*high"),
        (["user_id:token\titem_id:token", "1\t2\t3"], "cannot be read: .*"),
        (
            ["user_id:token\titem_id:token\tx_label:float", "1\t2\t7"],
            r"the column 'x_label' holds 7\.0; expected 0, 1, 2",
        ),
        (["user_id:token\titem_id:token"], "holds no row"),
    ],
)
def test_bad_files(lines, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        load_interactions(write(tmp_path, "log.inter", lines))


def test_other_bad_input(tmp_path):
    with pytest.raises(ValueError, match="`split` is 'fair'; expected one of given, random"):
        load_interactions(records(), split="fair")
    with pytest.raises(ValueError, match="does not say which part a row is in"):
        load_interactions(records(), split="given")
    with pytest.raises(ValueError, match="three shares"):
        load_interactions(records(), ratios=(0.8, 0.1, 0.2))
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_interactions(tmp_path / "none.inter")
    for name in ("a.inter", "b.inter"):
        write(tmp_path, name, ["user_id:token\titem_id:token", "1\t2"])
    with pytest.raises(ValueError, match=r"several logs: a\.inter, b\.inter; name one of them"):
        load_interactions(tmp_path)
    data = load_interactions(tmp_path / "a.inter")
    with pytest.raises(ValueError, match="`split` is 'dev'; expected one of train, valid, test"):
        data.part("dev")


def test_planted_preferences():
    data = load_interactions("planted")
    again = load_interactions("planted")
    assert (data.num_users, data.num_items) == (600, 400)
    assert all(np.array_equal(data.part(split), again.part(split)) for split in ("train", "valid", "test"))
    assert {name: matrix.shape for name, matrix in data.item_features.items()} == {
        "image": (400, 24),
        "text": (400, 16),
    }
    users, items, features = make_interactions(seed=1)
    assert len(np.unique(users * 400 + items)) == len(users)
    assert np.bincount(users).min() >= 5
    # there is something to find: items whose features are alike are chosen by the same users
    chosen = np.zeros((600, 400))
    chosen[users, items] = 1
    together = chosen.T @ chosen
    unit = np.concatenate(list(features.values()), 1)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    off = ~np.eye(400, dtype=bool)
    assert np.corrcoef((unit @ unit.T)[off], together[off])[0, 1] > 0.1
    with pytest.raises(ValueError, match="`num_groups` is 99, but there must be 1 to 80"):
        make_interactions(num_groups=99)
    with pytest.raises(ValueError, match="`noise` is 2"):
        make_interactions(noise=2)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the folder of real data sets is absent")
@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("ml-100k", {}, (943, 1682, 100_000)),
        ("lastfm-lightgcn", {"valid_fraction": 0.1}, (1880, 4489, 52_668)),
        ("yelp-sslrec", {}, (42_712, 26_822, 260_510)),
        ("tiktok-mm", {"reindex": False}, (9308, 6710, 68_722)),
    ],
)
def test_real_logs(name, options, expected):
    data = load_interactions(SHARED / name, **options)
    assert (data.num_users, data.num_items, len(data)) == expected
