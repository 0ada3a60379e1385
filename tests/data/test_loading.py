"""Loaders: every kind of source to the same three columns, and messages for what is wrong with it."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from hf_contrastive.data import EvalCollator, EvalTransform, list_splits, load_images, loading


SHARED = Path(__file__).parents[2] / ".." / "shared" / "data"

datasets.disable_progress_bars()


@pytest.fixture
def cache(tmp_path_factory) -> str:
    return str(tmp_path_factory.mktemp("cache"))


def picture(seed: int = 0, size: tuple[int, int] = (6, 5)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8))


def png(seed: int = 0) -> bytes:
    buffer = io.BytesIO()
    picture(seed).save(buffer, "PNG")
    return buffer.getvalue()


def make_folder(root: Path, names: list[str]) -> Path:
    for seed, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        picture(seed).save(root / name)
    return root


def make_parquet(file: Path, rows: int = 6, **columns) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    data = {"image": [{"bytes": png(row), "path": f"{row}.png"} for row in range(rows)]} | columns
    features = {"image": datasets.Image()} if not columns else None
    data = datasets.Dataset.from_dict(data, features=datasets.Features(features) if features else None)
    if columns:
        data = data.cast_column("image", datasets.Image())
    data.to_parquet(str(file))
    return file


def check(data, count: int, labels: list[int] | None = None) -> None:
    assert len(data) == count
    assert data["index"][:] == list(range(count))
    assert isinstance(data[0]["image"], Image.Image)
    if labels is None:
        assert data.column_names == ["image", "index"]
    else:
        assert data.column_names == ["image", "label", "index"]
        assert data["label"][:] == labels


# ---------------------------------------------------------------------------- sources


def test_digits_have_a_fixed_split_in_file_order():
    train, test = load_images("digits"), load_images("digits", split="test", seed=99)
    assert (len(train), len(test)) == (898, 899)
    assert train.features["label"].names == [str(digit) for digit in range(10)]
    bundle = load_digits()
    assert train["label"][:] + test["label"][:] == bundle.target.tolist()
    for data, first in ((train, 0), (test, 898)):
        image = data[5]["image"]
        assert (image.mode, image.size) == ("L", (8, 8))
        # 0..16 becomes 0..255, and back again without loss
        assert (np.rint(np.array(image) / (255 / 16)) == bundle.images[first + 5]).all()
    assert max(np.array(row["image"]).max() for row in test) == 255


def test_folder_with_classes_and_splits(tmp_path, cache):
    names = [f"{split}/{kind}/{number}.png" for split in ("train", "test") for kind in "ab" for number in range(2)]
    make_folder(tmp_path, names)
    assert list_splits(tmp_path) == ["train", "test"]
    check(load_images(tmp_path, cache_dir=cache), 4, [0, 0, 1, 1])
    test = load_images(tmp_path, split="test", cache_dir=cache)
    check(test, 4, [0, 0, 1, 1])
    assert test.features["label"].names == ["a", "b"]


def test_flat_folder_has_no_labels(tmp_path, cache):
    make_folder(tmp_path, ["x.png", "y.jpg", "z.bmp"])
    check(load_images(tmp_path, cache_dir=cache), 3)


def test_split_folders_without_classes_have_no_labels(tmp_path, cache):
    root = make_folder(tmp_path / "photos", ["train/a.png", "train/b.png", "test/c.png"])
    assert load_images(root, split="train", cache_dir=cache).column_names == ["image", "index"]
    assert load_images(root, split="test", cache_dir=cache).column_names == ["image", "index"]


def test_class_folders_without_splits_and_held_out_part(tmp_path, cache):
    make_folder(tmp_path, [f"{kind}/{number}.png" for kind in "abc" for number in range(10)])
    parts = [
        load_images(tmp_path, split=split, test_fraction=0.2, seed=seed, cache_dir=cache)
        for seed in (1, 2)
        for split in ("train", "test")
    ]
    assert [len(part) for part in parts] == [24, 6, 24, 6]
    assert [np.bincount(part["label"]).tolist() for part in parts[:2]] == [[8, 8, 8], [2, 2, 2]]
    pixels = [{np.array(row["image"]).tobytes() for row in part} for part in parts]
    assert not pixels[0] & pixels[1]
    assert len(pixels[0] | pixels[1]) == 30
    assert pixels[1] != pixels[3]
    with pytest.raises(ValueError, match=r"split 'test' not found; .* has train; .*test_fraction=0\.2"):
        load_images(tmp_path, split="test", cache_dir=cache)
    with pytest.raises(ValueError, match="leaves split 'test' empty"):
        load_images(tmp_path, split="test", test_fraction=0.01, cache_dir=cache)


def test_parquet_file_files_and_folder(tmp_path, cache):
    file = make_parquet(tmp_path / "train.parquet", label=[0, 1, 0, 1, 2, 2])
    make_parquet(tmp_path / "test-00000-of-00001.parquet", 2, label=[5, 5])
    check(load_images(file, cache_dir=cache), 6, [0, 1, 0, 1, 2, 2])
    check(load_images(tmp_path, split="test", cache_dir=cache), 2, [5, 5])
    check(load_images([file, str(file)], cache_dir=cache), 12, [0, 1, 0, 1, 2, 2] * 2)
    assert list_splits(tmp_path) == ["train", "test"]
    assert list_splits(str(tmp_path / "test-00000-of-00001.parquet")) == ["test"]


def test_parquet_in_a_data_folder_and_unnamed_files(tmp_path, cache):
    make_parquet(tmp_path / "data" / "train-00000.parquet")
    make_parquet(tmp_path / "data" / "extra.parquet")
    with pytest.warns(UserWarning, match=r"left out: extra\.parquet"):
        check(load_images(tmp_path, cache_dir=cache), 6)


def test_other_column_names_text_labels_and_plain_records(tmp_path, cache):
    records = [{"bytes": png(row), "path": None} for row in range(4)]
    columns = {"photo": records, "kind": ["dog", "cat", "dog", "eel"], "text": list("abcd")}
    datasets.Dataset.from_dict(columns).to_parquet(str(tmp_path / "a.parquet"))
    data = load_images(tmp_path / "a.parquet", label_column="kind", cache_dir=cache)
    check(data, 4, [1, 0, 1, 2])
    assert data.features["label"].names == ["cat", "dog", "eel"]
    with pytest.raises(
        ValueError, match="'colour' not found; the data has photo, kind, text; pass label_column='photo'"
    ):
        load_images(tmp_path / "a.parquet", label_column="colour", cache_dir=cache)
    with pytest.raises(ValueError, match=r"column 'image' holds string values|cannot be read"):
        load_images(tmp_path / "a.parquet", image_column="text", cache_dir=cache)


def test_npz_plain_packed_and_other_types(tmp_path):
    rng = np.random.default_rng(0)
    ink = rng.random((5, 11, 11)) < 0.3
    names = np.array(["x", "y", "x"])
    packed = np.packbits(ink, axis=-1)
    np.savez(tmp_path / "packed.npz", images_packed=packed, label=np.arange(5) % 3, label_names=names)
    data = load_images(tmp_path / "packed.npz")
    check(data, 5, [0, 1, 2, 0, 1])
    assert all((np.array(row["image"]) == image * 255).all() for row, image in zip(data, ink, strict=True))
    assert data.features["label"].names == ["0: x", "1: y", "2: x"]  # class names must differ
    colour = rng.integers(0, 256, (4, 6, 5, 3), dtype=np.uint8)
    for name, array in (("u8", colour), ("float", colour / 255.0), ("u16", colour.astype(np.uint16) * 257)):
        np.savez(tmp_path / f"{name}.npz", images=array)
        data = load_images(tmp_path / f"{name}.npz")
        check(data, 4)
        assert (np.array(data[2]["image"]) == colour[2]).all(), name
    np.savez(tmp_path / "own.npz", pictures=colour[..., :1], kind=np.arange(4))
    data = load_images(tmp_path / "own.npz", image_column="pictures", label_column="kind")
    check(data, 4, [0, 1, 2, 3])
    assert data[0]["image"].mode == "L"


def test_npz_folder(tmp_path):
    images = np.zeros((3, 4, 4), np.uint8)
    np.savez(tmp_path / "background.npz", images=images)
    np.savez(tmp_path / "other.npz", support=images)
    check(load_images(tmp_path), 3)
    np.savez(tmp_path / "more.npz", images=images)
    with pytest.raises(ValueError, match=r"several \.npz files for split 'train' \(background\.npz, more\.npz\)"):
        load_images(tmp_path)
    (tmp_path / "background.npz").rename(tmp_path / "train.npz")
    (tmp_path / "more.npz").rename(tmp_path / "test.npz")
    assert list_splits(tmp_path) == ["train", "test"]
    check(load_images(tmp_path, split="test"), 3)


def test_save_to_disk_folder(tmp_path):
    data = load_images("digits", max_samples=20).remove_columns("index")
    data.save_to_disk(tmp_path / "one")
    check(load_images(tmp_path / "one"), 20, data["label"][:])
    datasets.DatasetDict(train=data, test=data.select(range(5))).save_to_disk(tmp_path / "two")
    check(load_images(str(tmp_path / "two"), split="test"), 5, data["label"][:5])


def test_index_column_of_the_source_is_replaced(tmp_path):
    load_images("digits", max_samples=20).select(range(10, 20)).save_to_disk(tmp_path / "one")
    assert load_images(tmp_path / "one")["index"][:] == list(range(10))


def test_hub_id_goes_to_load_dataset(monkeypatch):
    asked = {}

    def load_dataset(path, name, **options):
        asked.update(options, path=path, name=name)
        return datasets.Dataset.from_dict({"img": [{"bytes": png(), "path": None}], "fine_label": [3]}).cast_column(
            "img", datasets.Image()
        )

    monkeypatch.setattr(loading.datasets, "get_dataset_split_names", lambda path, name: ["train", "test"])
    monkeypatch.setattr(loading.datasets, "load_dataset", load_dataset)
    check(load_images("someone/pictures", name="small", split="test"), 1, [3])
    assert asked == {
        "path": "someone/pictures",
        "name": "small",
        "split": "test",
        "streaming": False,
        "cache_dir": None,
    }
    with pytest.raises(ValueError, match="split 'dev' not found; hub dataset someone/pictures has train, test"):
        load_images("someone/pictures", split="dev")


def test_unreachable_hub_says_what_to_try():
    with pytest.raises(ValueError, match="'nobody/nothing' is no local path, and the hub did not hand out"):
        load_images("nobody/nothing")


# ---------------------------------------------------------------------------- streaming


def test_streaming_folder_and_parquet(tmp_path, cache):
    make_folder(tmp_path / "images", [f"{kind}/{number}.png" for kind in "ab" for number in range(3)])
    make_parquet(tmp_path / "rows" / "train.parquet", label=[4, 3, 2, 1, 0, 5])
    for source, labels in ((tmp_path / "images", [0, 0, 0, 1, 1, 1]), (tmp_path / "rows", [4, 3, 2, 1, 0, 5])):
        stream = load_images(source, streaming=True, cache_dir=cache)
        assert isinstance(stream, datasets.IterableDataset)
        rows = list(stream)
        assert [row["index"] for row in rows] == list(range(6))
        assert [row["label"] for row in rows] == labels
        assert all(isinstance(row["image"], Image.Image) for row in rows)
        assert len(list(load_images(source, streaming=True, max_samples=2, cache_dir=cache))) == 2
        batch = EvalCollator(EvalTransform(4))(rows[:3])
        assert batch["pixel_values"].shape == (3, 3, 4, 4)
    with pytest.raises(ValueError, match="test_fraction needs the whole data"):
        load_images(tmp_path / "images", streaming=True, split="test", test_fraction=0.5, cache_dir=cache)


def test_streaming_names_or_skips_unreadable_images(tmp_path, cache):
    make_folder(tmp_path, [f"{number}.png" for number in range(4)])
    (tmp_path / "2.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"row 2 \(file .*2\.png\) cannot be read"):
        list(load_images(tmp_path, streaming=True, cache_dir=cache))
    with pytest.warns(UserWarning, match=r"left out: image in row 2"):
        rows = list(load_images(tmp_path, streaming=True, on_unreadable="skip", cache_dir=cache))
    assert [row["index"] for row in rows] == [0, 1, 2]


# ---------------------------------------------------------------------------- what is wrong with the data


@pytest.mark.parametrize("kind", ["no image", "cut short", "empty"])
def test_unreadable_image_stops_or_is_skipped(tmp_path, cache, kind):
    make_folder(tmp_path, [f"{number}.png" for number in range(5)])
    file = tmp_path / "3.png"
    noise = io.BytesIO()
    Image.effect_noise((60, 60), 90).save(noise, "PNG")
    file.write_bytes({"no image": b"hello", "cut short": noise.getvalue()[:700], "empty": b""}[kind])
    with pytest.raises(ValueError, match=r"image in row 3 \(file .*3\.png\) cannot be read: .*on_unreadable='skip'"):
        load_images(tmp_path, cache_dir=cache)
    with pytest.warns(UserWarning, match=r"1 of 5 images are left out: image in row 3 \(file .*3\.png\)"):
        check(load_images(tmp_path, on_unreadable="skip", cache_dir=cache), 4)
    for number in (0, 1, 2, 4):
        (tmp_path / f"{number}.png").write_bytes(b"no")
    with pytest.raises(ValueError, match="none of the 5 images can be read"):
        load_images(tmp_path, on_unreadable="skip", cache_dir=cache + "2")


def test_rows_without_an_image_are_named(tmp_path, cache):
    rows = [{"bytes": png(), "path": None}, None]
    features = datasets.Features({"image": datasets.Image()})
    datasets.Dataset.from_dict({"image": rows}, features=features).to_parquet(str(tmp_path / "a.parquet"))
    with pytest.raises(ValueError, match="image in row 1 cannot be read: the row holds no image"):
        load_images(tmp_path / "a.parquet", cache_dir=cache)


def test_verification_can_be_left_out(tmp_path, cache):
    make_folder(tmp_path, ["0.png", "1.png"])
    (tmp_path / "1.png").write_bytes(b"no image")
    assert len(load_images(tmp_path, verify=False, cache_dir=cache)) == 2


def test_missing_paths_and_empty_sources(tmp_path, cache):
    with pytest.raises(FileNotFoundError, match="does not exist; pass 'digits', a folder of images"):
        load_images(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_images("./nowhere")
    with pytest.raises(ValueError, match="no images in"):
        load_images(tmp_path)
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(ValueError, match=r"none of \.parquet, \.npz, \.tar"):
        load_images(tmp_path / "a.txt")
    with pytest.raises(ValueError, match="empty list"):
        load_images([])
    empty = datasets.Dataset.from_dict({"image": []}, features=datasets.Features({"image": datasets.Image()}))
    empty.save_to_disk(tmp_path / "none")
    with pytest.raises(ValueError, match=r"none is empty"):
        load_images(tmp_path / "none")
    np.savez(tmp_path / "none.npz", images=np.zeros((0, 4, 4), np.uint8))
    with pytest.raises(ValueError, match="is empty; expected at least one image"):
        load_images(tmp_path / "none.npz")


def test_broken_files_are_named(tmp_path, cache):
    (tmp_path / "a.parquet").write_bytes(b"no parquet at all")
    with pytest.raises(ValueError, match=r"a\.parquet cannot be read as parquet"):
        load_images(tmp_path / "a.parquet", cache_dir=cache)
    (tmp_path / "a.npz").write_bytes(b"no archive")
    with pytest.raises(ValueError, match=r"a\.npz is not a readable \.npz file"):
        load_images(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", values=np.zeros(3))
    with pytest.raises(ValueError, match=r"'images' or 'images_packed' not found in .*it has values \[3\]"):
        load_images(tmp_path / "b.npz")
    np.savez(tmp_path / "c.npz", images=np.zeros((3, 4, 4), np.uint8), label=np.zeros(2, int))
    with pytest.raises(ValueError, match="images has 3 rows and label has 2"):
        load_images(tmp_path / "c.npz")
    np.savez(tmp_path / "d.npz", images=np.full((3, 4, 4), 99.0))
    with pytest.raises(ValueError, match=r"images in .*, row 0: float pixels must lie"):
        load_images(tmp_path / "d.npz")


def test_further_columns_are_handed_on(tmp_path, cache):
    make_parquet(tmp_path / "a.parquet", 3, label=[0, 1, 2], writer=[7, 7, 8], index=[5, 6, 7])
    data = load_images(tmp_path / "a.parquet", keep_columns=["writer"], cache_dir=cache)
    assert data.column_names == ["image", "label", "writer", "index"]
    assert data["writer"][:] == [7, 7, 8]
    assert data["index"][:] == [0, 1, 2]
    with pytest.raises(
        ValueError, match="'page' not found; the data has image, label, writer, index; pass keep_columns"
    ):
        load_images(tmp_path / "a.parquet", keep_columns=["page"], cache_dir=cache)
    with pytest.raises(ValueError, match="keep_columns names 'index', which is the name of a standard column"):
        load_images(tmp_path / "a.parquet", keep_columns=["index"], cache_dir=cache)


def test_missing_image_column_lists_the_columns(tmp_path, cache):
    datasets.Dataset.from_dict({"text": ["a"], "score": [1.5]}).to_parquet(str(tmp_path / "a.parquet"))
    with pytest.raises(ValueError, match="'image' not found; the data has text, score; pass image_column='text'"):
        load_images(tmp_path / "a.parquet", cache_dir=cache)


def test_two_image_columns_ask_for_a_choice(tmp_path, cache):
    rows = [{"bytes": png(), "path": None}]
    data = datasets.Dataset.from_dict({"left": rows, "right": rows})
    data = data.cast_column("left", datasets.Image()).cast_column("right", datasets.Image())
    data.save_to_disk(tmp_path / "two")
    with pytest.raises(ValueError, match="several image columns: left, right; pass image_column='left'"):
        load_images(tmp_path / "two")
    check(load_images(tmp_path / "two", image_column="right"), 1)


def test_labels_that_are_no_classes_are_named(tmp_path, cache):
    make_parquet(tmp_path / "a.parquet", 3, label=[0.0, 1.5, 2.0])
    with pytest.raises(ValueError, match=r"column 'label', row 1: '1\.5' is not a whole number"):
        load_images(tmp_path / "a.parquet", cache_dir=cache)
    make_parquet(tmp_path / "b.parquet", 3, label=[0.0, 1.0, 2.0])
    check(load_images(tmp_path / "b.parquet", cache_dir=cache), 3, [0, 1, 2])
    make_parquet(tmp_path / "c.parquet", 2, label=[[1], [2]])
    with pytest.raises(ValueError, match="expected one label a row; pass label_column="):
        load_images(tmp_path / "c.parquet", cache_dir=cache)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"on_unreadable": "ignore"}, "on_unreadable must be 'stop' or 'skip', got 'ignore'"),
        ({"max_samples": 0}, "max_samples must be at least 1, got 0"),
        ({"test_fraction": 1.0}, "test_fraction must lie between 0 and 1"),
        ({"split": "dev"}, "split 'dev' not found; scikit-learn's digits has train, test"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        load_images("digits", **options)


def test_max_samples_is_a_seeded_choice():
    first, again, other = (load_images("digits", max_samples=50, seed=seed) for seed in (0, 0, 1))
    assert first["label"][:] == again["label"][:] != other["label"][:]
    assert len(set(first["label"])) == 10
    assert len(load_images("digits", max_samples=10_000)) == 898


# ---------------------------------------------------------------------------- real files beside the repository


def test_cifar10_small(cache):
    folder = SHARED / "cifar10_small"
    if not folder.is_dir():
        pytest.skip("../shared/data/cifar10_small is not here")
    test = load_images(folder, split="test", cache_dir=cache)
    assert len(test) == 1000
    assert test.features["label"].names[2] == "bird"
    assert test[0]["image"].size == (32, 32)
    assert np.bincount(test["label"]).tolist() == [100] * 10


def test_omniglot_small(cache):
    folder = SHARED / "omniglot_small"
    if not folder.is_dir():
        pytest.skip("../shared/data/omniglot_small is not here")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = load_images(folder, max_samples=30)
    assert len(data) == 30
    assert data.features["label"].num_classes == 136
    pixels = np.array(data[0]["image"])
    assert pixels.shape == (105, 105)
    assert set(np.unique(pixels)) == {0, 255}
    assert 0.01 < (pixels == 255).mean() < 0.2
