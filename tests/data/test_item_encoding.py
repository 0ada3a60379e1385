"""Item features: tables in the order of the catalogue, vectors as the encoder gives them, a cache that is never wrong."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from pathlib import Path

import datasets
import huggingface_hub
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoTokenizer,
    BertConfig,
    BertModel,
    CLIPConfig,
    CLIPModel,
    ResNetConfig,
    ResNetModel,
    ViTConfig,
    ViTModel,
)

from hf_contrastive.data import encode_items, image_processor, load_interactions, load_item_table, train_tokenizer


SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
TOKENS = ["c", "a", "b"]
TITLES = {"a": "Alien", "b": "Blade Runner 2049", "c": "Casablanca"}
SIZES = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
TEXTS = ["tea", "milk and tea", "a long row of words about rice", "salt", "rice and salt and milk", "tea"]


# ----------------------------------------------------------------------------------------------------------------- table


def lines(*rows: str) -> str:
    return "\n".join(rows) + "\n"


def sources(folder: Path) -> dict[str, object]:
    """The same four rows (one of them of no item of the catalogue) in every form."""
    ids = ["a", "x", "c", "b"]
    titles = ["Alien", "X", "Casablanca", "Blade Runner 2049"]
    rows = datasets.Dataset.from_dict({"item_id": ids, "title": titles, "year": [1979, 0, 1942, 2017]})
    (folder / "atomic").mkdir()
    (folder / "atomic" / "films.item").write_text(
        lines(
            "item_id:token\ttitle:token_seq\tyear:float",
            *(f"{i}\t{t}\t{y}" for i, t, y in rows.to_pandas().to_numpy()),
        )
    )
    for kind in ("csv", "json", "parquet"):
        getattr(rows, f"to_{kind}")(str(folder / f"films.{kind}"))
    (folder / "films.json").rename(folder / "films.jsonl")
    return {
        "atomic folder": folder / "atomic",
        "atomic": str(folder / "atomic" / "films.item"),
        "csv": folder / "films.csv",
        "jsonl": folder / "films.jsonl",
        "parquet": folder / "films.parquet",
        "dataset": rows,
        "numpy dataset": rows.with_format("numpy"),
        "records": rows.to_list(),
    }


def test_every_form_gives_the_rows_of_the_catalogue(tmp_path):
    for name, source in sources(tmp_path).items():
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            table = load_item_table(source, TOKENS)
        assert table["item_id"][:] == TOKENS, name
        assert table["title"][:] == [TITLES[token] for token in TOKENS], name
        assert [int(year) for year in table["year"]] == [1942, 1979, 2017], name
        assert load_item_table(source, TOKENS, columns=["title"]).column_names == ["item_id", "title"], name


def test_lost_and_repeated_rows_are_counted():
    rows = [{"asin": one, "title": str(place)} for place, one in enumerate(["b", "x", "b", None, "a", "x", "b"])]
    with pytest.warns(UserWarning, match="records given") as caught:
        table = load_item_table(rows, ["a", "missing", "b", "gone"])
    assert table["title"][:] == ["4", None, "0", None]
    assert [str(one.message) for one in caught] == [
        "2 rows of the records given repeat an item; its first row counts",
        "1 rows of the records given have no asin and were left out",
        "2 of 4 items have no row in the records given; their columns are None",
    ]


def test_numbers_are_ids_too_and_images_may_be_missing():
    pictures = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    rows = datasets.Dataset.from_dict({"movieId": [7, 5], "poster": pictures})
    with pytest.warns(UserWarning, match="1 of 3 items"):
        table = load_item_table(rows, ["5", "6", "7"])
    assert table[0]["poster"].getpixel((0, 0)) == (0, 0, 255)
    assert table[1]["poster"] is None
    assert table[2]["movieId"] == 7


def test_tables_that_do_not_fit_are_refused(tmp_path):
    rows = [{"name": "a", "title": "Alien"}]
    with pytest.raises(
        ValueError, match=r"column 'item_id' not found; the records given has name, title; pass id_column='name'"
    ):
        load_item_table(rows, TOKENS)
    with pytest.raises(ValueError, match=r"column 'genre' not found.*pass columns='name'"):
        load_item_table(rows, TOKENS, "name", ["genre"])
    with pytest.raises(
        ValueError, match=r"no row of any of the 3 items: its column 'title' holds 'Alien', .* called 'c', 'a'"
    ):
        load_item_table(rows, TOKENS, "title")
    with pytest.raises(ValueError, match=r"has the splits train, test; pass one file"):
        load_item_table(
            datasets.DatasetDict(dict.fromkeys(("train", "test"), datasets.Dataset.from_list(rows))), TOKENS
        )
    with pytest.raises(FileNotFoundError, match=r"films.item does not exist"):
        load_item_table("films.item", TOKENS)
    for name in ("one.item", "two.item"):
        (tmp_path / name).write_text("item_id:token\n")
    with pytest.raises(ValueError, match=r"holds one.item, two.item; name one"):
        load_item_table(tmp_path, TOKENS)
    with pytest.raises(ValueError, match=r"one.item holds no row"):
        load_item_table(tmp_path / "one.item", TOKENS)


@pytest.mark.skipif(not (SHARED / "ml-100k").is_dir(), reason="needs ../shared/data/ml-100k")
def test_movielens():
    tokens = load_interactions(SHARED / "ml-100k" / "ml-100k.inter").item_tokens
    table = load_item_table(SHARED / "ml-100k", tokens)
    assert table["item_id"][:] == tokens
    assert table[tokens.index("50")] == {
        "item_id": "50",
        "movie_title": "Star Wars",
        "release_year": "1977",
        "class": "Action Adventure Romance Sci-Fi War",
    }


# ----------------------------------------------------------------------------------------------------------------- texts


def save_bert(folder: Path, seed: int = 0, **tokenizer_options) -> Path:
    torch.manual_seed(seed)
    model = BertModel(BertConfig(vocab_size=300, max_position_embeddings=40, **SIZES))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    train_tokenizer(TEXTS, 300, **tokenizer_options).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> Path:
    return save_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture
def forwards(monkeypatch) -> list[int]:
    """Rows of every forward pass of a BERT."""
    seen: list[int] = []
    forward = BertModel.forward

    def counted(self, input_ids=None, attention_mask=None, token_type_ids=None):
        seen.append(len(input_ids))
        return forward(self, input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids)

    monkeypatch.setattr(BertModel, "forward", counted)
    return seen


def titles(texts=TEXTS, **columns) -> datasets.Dataset:
    return datasets.Dataset.from_dict({"title": list(texts), **columns})


def one_by_one(folder: Path, texts, pool) -> np.ndarray:
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        return np.stack([pool(model(**tokenizer(text, return_tensors="pt"))).numpy() for text in texts])


@pytest.mark.parametrize(
    ("pooling", "pool"),
    [
        ("mean", lambda outputs: outputs.last_hidden_state[0].mean(0)),
        ("cls", lambda outputs: outputs.last_hidden_state[0, 0]),
        ("pooler", lambda outputs: outputs.pooler_output[0]),
    ],
)
def test_vectors_are_the_encoders_whatever_the_batch(bert, tmp_path, pooling, pool):
    expected = one_by_one(bert, TEXTS, pool)
    assert np.abs(expected[0] - expected[1]).max() > 0.01
    for size in (1, 2, 4, 100):
        options = {"text_columns": ["title"], "pooling": pooling, "batch_size": size}
        found = encode_items(titles(), bert, cache_dir=tmp_path / str(size), **options)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=1e-5)
    unit = encode_items(titles(), bert, cache_dir=tmp_path, normalize=True, **options)
    np.testing.assert_allclose(unit, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-5)


def test_columns_are_joined(bert, tmp_path):
    table = titles(
        ["Alien", None, "Heat"],
        year=[1979.0, None, None],
        genre=[["horror", None, "scifi"], [], None],
        **{"a.b": ["x", "", "y"]},
    )
    whole = {"title": ["Alien 1979 horror scifi", None, "Heat"]}
    with pytest.warns(UserWarning, match=r"1 of 3 rows have no text in title, year, genre and got the mean"):
        found = encode_items(table, bert, text_columns=["title", "year", "genre"], cache_dir=tmp_path / "a")
    with pytest.warns(UserWarning, match=r"1 of 3 rows have no text in title and"):
        expected = encode_items(
            datasets.Dataset.from_dict(whole), bert, text_columns=["title"], cache_dir=tmp_path / "b"
        )
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_allclose(found[1], (found[0] + found[2]) / 2, atol=1e-5)
    with pytest.warns(UserWarning, match=r"1 of 3 rows have no text"):
        found = encode_items(table, bert, template="{title} ({year}): {a.b} {{}}", cache_dir=tmp_path)
    written = titles(["Alien (1979): x {}", "Heat (): y {}"])
    np.testing.assert_allclose(
        found[[0, 2]], encode_items(written, bert, text_columns="title", cache_dir=tmp_path), atol=1e-5
    )


def test_cut_texts_are_counted_on_every_call(bert, tmp_path, forwards):
    tokenizer = AutoTokenizer.from_pretrained(bert)
    lengths = [len(tokenizer(text)["input_ids"]) for text in TEXTS]
    assert sum(length > 5 for length in lengths) == 1
    for _ in range(2):
        with pytest.warns(UserWarning, match=r"1 of 6 texts are longer than 5 tokens and were cut"):
            found = encode_items(titles(), bert, text_columns=["title"], max_length=5, cache_dir=tmp_path)
    assert len(forwards) == 1
    short = [tokenizer.decode(tokenizer(text)["input_ids"][:5]) for text in TEXTS]
    np.testing.assert_allclose(found, one_by_one(bert, short, lambda out: out.last_hidden_state[0].mean(0)), atol=1e-5)
    # without max_length: what the model takes
    with pytest.warns(UserWarning, match=r"1 of 2 texts are longer than 40 tokens"):
        encode_items(titles(["salt " * 50, "tea"]), bert, text_columns=["title"], cache_dir=tmp_path)


@pytest.mark.parametrize("kind", ["gpt2", "t5", "clip"])
def test_encoders_of_other_kinds(kind, tmp_path):
    """No padding token, an encoder with a decoder, two towers."""
    torch.manual_seed(0)
    tokenizer = train_tokenizer(TEXTS, 300)
    tower = {**SIZES, "projection_dim": 8}
    settings = {
        "gpt2": {"vocab_size": 300, "n_embd": 16, "n_layer": 2, "n_head": 2},
        "t5": {"vocab_size": 300, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 2, "num_heads": 2},
        "clip": {
            "text_config": {**tower, "vocab_size": 300, "max_position_embeddings": 20, "eos_token_id": 0},
            "vision_config": {**tower, "image_size": 16, "patch_size": 8},
            "projection_dim": 8,
        },
    }[kind]
    model = AutoModel.from_config(AutoConfig.for_model(kind, **settings)).train()
    ids = [torch.tensor([tokenizer(text)["input_ids"]]) for text in TEXTS]
    model.eval()
    with torch.no_grad():
        if kind == "clip":
            expected = [model.get_text_features(one).pooler_output[0] for one in ids]
        else:
            part = model.get_encoder() if kind == "t5" else model
            expected = [part(one).last_hidden_state[0].mean(0) for one in ids]
    model.train()
    if kind == "gpt2":
        tokenizer.pad_token, tokenizer.padding_side = None, "left"
    found = encode_items(titles(), (model, tokenizer), text_columns=["title"], cache_dir=tmp_path)
    assert model.training  # left as it was
    np.testing.assert_allclose(found, torch.stack(expected).numpy(), atol=1e-5)


# ----------------------------------------------------------------------------------------------------------------- cache


def test_the_second_call_runs_no_model(bert, tmp_path, forwards):
    def calls(table=None, encoder=bert, **options) -> int:
        before = len(forwards)
        options = {"text_columns": ["title"], "cache_dir": tmp_path / "cache", **options}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found.append(encode_items(titles() if table is None else table, encoder, **options))
        return len(forwards) - before

    found: list[np.ndarray] = []
    assert calls() == 1
    assert calls() == 0
    np.testing.assert_array_equal(found[0], found[1])
    assert calls(batch_size=2) == 0
    assert calls(titles(other=range(6))) == 0
    # what changes the vectors changes the key
    assert calls(titles([*TEXTS[:-1], "tee"])) == 1
    assert calls(titles(TEXTS[::-1])) == 1
    assert calls(titles(["teamilk", "", *TEXTS[2:]])) == calls(titles(["tea", "milk", *TEXTS[2:]])) == 1
    for options in (
        {"pooling": "cls"},
        {"max_length": 5},
        {"normalize": True},
        {"text_columns": None, "template": "a {title}"},
    ):
        assert calls(**options) == 1, options
        assert calls(**options) == 0, options
    # a folder is known by what is in it
    moved = tmp_path / "moved"
    shutil.copytree(bert, moved)
    (moved / "README.md").write_text("a card")
    assert calls(encoder=str(moved)) == 0
    save_bert(moved, seed=1)  # trained on: the same sizes, other weights
    assert calls(encoder=moved) == 1
    known = json.loads((moved / "tokenizer.json").read_text())
    known["model"]["vocab"]["t"], known["model"]["vocab"]["e"] = (
        known["model"]["vocab"]["e"],
        known["model"]["vocab"]["t"],
    )
    (moved / "tokenizer.json").write_text(json.dumps(known))
    assert calls(encoder=moved) == 1
    # so is a model in memory; its tokenizer remembers how it cut, which is none of its properties
    model, tokenizer = AutoModel.from_pretrained(bert), AutoTokenizer.from_pretrained(bert)
    assert calls(encoder=(model, tokenizer), max_length=5) == 1
    assert calls(encoder=(model, tokenizer), max_length=5) == 0
    assert calls(encoder=(model, tokenizer)) == 1
    with torch.no_grad():
        model.embeddings.word_embeddings.weight[0, 0] += 1
    assert calls(encoder=(model, tokenizer)) == 1


def test_a_broken_cache_is_not_used(bert, tmp_path, forwards):
    def call(count: int = 6) -> np.ndarray:
        return encode_items(titles(TEXTS[:count]), bert, text_columns=["title"], cache_dir=tmp_path)

    first = call()
    (file,) = tmp_path.rglob("features.safetensors")
    whole = file.read_bytes()
    call(5)
    (other,) = set(tmp_path.rglob("features.safetensors")) - {file}
    nan = bytearray(whole)
    nan[-4:] = np.float32(np.nan).tobytes()
    for content in (whole[: len(whole) // 2], whole[:-1], b"", b"\x00" * len(whole), other.read_bytes(), bytes(nan)):
        file.write_bytes(content)
        before = len(forwards)
        with pytest.warns(UserWarning, match=r"features.safetensors cannot be used .*made anew"):
            again = call()
        assert len(forwards) == before + 1
        np.testing.assert_array_equal(again, first)
        np.testing.assert_array_equal(call(), first)
        assert len(forwards) == before + 1


def test_a_killed_call_leaves_no_file(bert, tmp_path, forwards, monkeypatch):
    def killed(*args):
        raise KeyboardInterrupt

    options = {"text_columns": ["title"], "cache_dir": tmp_path}
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            encode_items(titles(), bert, **options)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    # what a kill without notice leaves lies beside
    (folder,) = (tmp_path / "hf_contrastive" / "item_features").iterdir()
    (folder / ".features.safetensors.0").write_bytes(b"half")
    encode_items(titles(), bert, **options)
    assert len(forwards) == 2
    encode_items(titles(), bert, **options)
    assert len(forwards) == 2


def test_vectors_are_there_where_nothing_can_be_kept(bert, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match=r"cannot be kept: .*cache_dir="):
        assert encode_items(titles(), bert, text_columns=["title"], cache_dir=tmp_path / "file").shape == (6, 16)


def test_an_encoder_of_the_hub_is_known_by_its_commit(bert, tmp_path, forwards, monkeypatch):
    """What was downloaded before is found without a network; a new commit is another encoder."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--me--encoder"
    commits = {"1" * 40: bert, "2" * 40: save_bert(tmp_path / "next", seed=1)}
    (repository / "refs").mkdir(parents=True)
    options = {"text_columns": ["title"], "cache_dir": tmp_path / "cache"}
    for number, (commit, folder) in enumerate(commits.items()):
        shutil.copytree(folder, repository / "snapshots" / commit)
        (repository / "refs" / "main").write_text(commit)
        for _ in range(2):
            found = encode_items(titles(), "me/encoder", **options)
            assert len(forwards) == number + 1
    np.testing.assert_array_equal(found, encode_items(titles(), folder, **options))
    with pytest.raises(ValueError, match=r"'me/nothing' is no folder here, and the hub did not hand out a model"):
        encode_items(titles(), "me/nothing", **options)


# ---------------------------------------------------------------------------------------------------------------- images


def pictures(count: int = 4) -> list[Image.Image]:
    draws = np.random.RandomState(0)
    return [Image.fromarray(draws.randint(0, 256, (20, 24, 3), dtype=np.uint8)) for _ in range(count)]


@pytest.fixture(scope="module")
def vit(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("vit")
    torch.manual_seed(0)
    ViTModel(ViTConfig(image_size=16, patch_size=8, **SIZES)).save_pretrained(folder)
    image_processor(16).save_pretrained(folder)
    return folder


def test_images_in_every_form(vit, tmp_path):
    processor, model = AutoImageProcessor.from_pretrained(vit), AutoModel.from_pretrained(vit).eval()
    with torch.no_grad():
        pixels = [processor(images=one, return_tensors="pt")["pixel_values"] for one in pictures()]
        expected = np.stack([model(pixel_values=one).last_hidden_state[0].mean(0).numpy() for one in pixels])
    for number, one in enumerate(pictures()):
        one.save(tmp_path / f"{number}.png")
    names = [f"{number}.png" for number in range(4)]
    forms = {
        "PIL": ([*pictures(), None], {}),
        "names": ([*names, ""], {"image_folder": tmp_path}),
        "paths": ([*(str(tmp_path / name) for name in names), None], {}),
        "bytes": ([*((tmp_path / name).read_bytes() for name in names), None], {}),
        "arrays": ([*(np.asarray(one).tolist() for one in pictures()), None], {}),
    }
    for name, (images, options) in forms.items():
        table = datasets.Dataset.from_dict({"poster": images})
        options |= {"image_column": "poster", "cache_dir": tmp_path / name}
        for size in (2, 64):
            with pytest.warns(UserWarning, match=r"1 of 5 rows have no image in poster and got the mean"):
                found = encode_items(table, vit, batch_size=size, **options)
            np.testing.assert_allclose(found[:4], expected, atol=1e-5, err_msg=name)
            np.testing.assert_allclose(found[4], expected.mean(0), atol=1e-5, err_msg=name)
    cls = encode_items(table.select(range(4)), vit, image_column="poster", pooling="cls", cache_dir=tmp_path)
    with torch.no_grad():
        np.testing.assert_allclose(cls[1], model(pixel_values=pixels[1]).last_hidden_state[0, 0].numpy(), atol=1e-5)


def test_another_picture_under_the_same_name(vit, tmp_path):
    table = datasets.Dataset.from_dict({"poster": ["one.png"]})
    found = []
    for picture in pictures(2):
        picture.save(tmp_path / "one.png")
        found.append(
            encode_items(table, vit, image_column="poster", image_folder=tmp_path, cache_dir=tmp_path / "cache")
        )
    assert np.abs(found[0] - found[1]).max() > 1e-4
    (tmp_path / "one.png").unlink()
    with pytest.raises(ValueError, match=r"image in row 0 \(file .*one.png\) cannot be read"):
        encode_items(table, vit, image_column="poster", image_folder=tmp_path, cache_dir=tmp_path / "cache")
    (tmp_path / "one.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"image in row 0 \(file .*one.png\) cannot be read"):
        encode_items(table, vit, image_column="poster", image_folder=tmp_path, cache_dir=tmp_path / "cache")


def test_towers_maps_and_our_own_systems(tmp_path):
    from hf_contrastive import ConvEncoderConfig, SimCLRConfig, SimCLRModel

    torch.manual_seed(0)
    tower = {**SIZES, "projection_dim": 8}
    vision = {**tower, "image_size": 16, "patch_size": 8}
    clip = CLIPModel(CLIPConfig(text_config={**tower, "vocab_size": 300}, vision_config=vision, projection_dim=8))
    resnet = ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], layer_type="basic"))
    simclr = SimCLRModel(SimCLRConfig(backbone_config=ConvEncoderConfig(channels=[8, 16]), projection_dims=[16, 8]))
    processor = image_processor(16)
    table = datasets.Dataset.from_dict({"poster": pictures()})
    pixels = processor(images=pictures(), return_tensors="pt")["pixel_values"]
    for model in (clip, resnet, simclr):
        model.eval()
    with torch.no_grad():
        expected = {
            clip: clip.get_image_features(pixels).pooler_output,
            resnet: resnet(pixels).last_hidden_state.mean((2, 3)),
            simclr: simclr.encode(pixels),
        }
    for model, vectors in expected.items():
        found = encode_items(table, (model, processor), image_column="poster", cache_dir=tmp_path)
        np.testing.assert_allclose(found, vectors.numpy(), atol=1e-5, err_msg=type(model).__name__)
    with pytest.raises(ValueError, match=r"'cls', but ResNetModel returns a map"):
        encode_items(table, (resnet, processor), image_column="poster", pooling="cls", cache_dir=tmp_path)
    with pytest.raises(ValueError, match=r"'pooler', but CLIPModel has its own; leave it out"):
        encode_items(table, (clip, processor), image_column="poster", pooling="pooler", cache_dir=tmp_path)


# -------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"text_columns": ["name"]}, r"column 'name' not found; the dataset has title; pass text_columns='title'"),
        ({"template": "{name}"}, r"column 'name' not found"),
        ({"image_column": "poster"}, r"column 'poster' not found; the dataset has title; pass image_column='title'"),
        ({}, r"pass `text_columns` or `template` for texts, or `image_column`"),
        ({"text_columns": ["title"], "image_column": "title"}, r"not both"),
        ({"text_columns": ["title"], "template": "{title}"}, r"`text_columns` or `template`, not both"),
        ({"text_columns": []}, r"no column was named"),
        ({"template": "film"}, r"no column was named"),
        ({"template": "{title:>4}"}, r"nothing but names in the braces"),
        ({"template": "{}"}, r"nothing but names in the braces"),
        ({"template": "{title"}, r"`template` is '\{title': .*expected '\{title\}. \{genre\}'"),
        ({"text_columns": ["title"], "pooling": "max"}, r"`pooling` is 'max'; expected one of mean, cls, pooler"),
        ({"text_columns": ["title"], "batch_size": 0}, r"`batch_size` is 0"),
        ({"text_columns": ["title"], "max_length": 41}, r"`max_length` is 41, but BertModel takes 40 tokens"),
    ],
)
def test_wrong_settings(bert, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        encode_items(titles(), bert, cache_dir=tmp_path, **options)


def test_wrong_tables_and_encoders(bert, vit, tmp_path):
    options = {"text_columns": ["title"], "cache_dir": tmp_path / "cache"}
    with pytest.raises(ValueError, match=r"none of the 2 rows has any text in title; name other columns"):
        encode_items(titles([None, "  "]), bert, **options)
    with pytest.raises(ValueError, match=r"the column 'title' holds dict"):
        encode_items(titles([{"a": 1}]), bert, **options)
    with pytest.raises(FileNotFoundError, match=r"nowhere does not exist; pass a folder with config.json"):
        encode_items(titles(), tmp_path / "nowhere", **options)
    with pytest.raises(
        ValueError, match=r"`encoder` is a BertModel; expected a folder, a hub id, or \(model, processor\)"
    ):
        encode_items(titles(), AutoModel.from_pretrained(bert), **options)
    tokenizer = AutoTokenizer.from_pretrained(bert)
    with pytest.raises(ValueError, match=r"ViTModel takes no texts; pass an encoder of texts"):
        encode_items(titles(), (AutoModel.from_pretrained(vit), tokenizer), **options)
    with pytest.raises(ValueError, match=r"texts need a tokenizer, got"):
        encode_items(titles(), (AutoModel.from_pretrained(bert), image_processor(16)), **options)
    pictured = datasets.Dataset.from_dict({"poster": pictures(2)})
    with pytest.raises(ValueError, match=r"has no image processor that can be read"):
        encode_items(pictured, bert, image_column="poster", cache_dir=tmp_path)
    with pytest.raises(ValueError, match=r"images need an image processor, got"):
        encode_items(pictured, (AutoModel.from_pretrained(vit), tokenizer), image_column="poster", cache_dir=tmp_path)
    model = AutoModel.from_pretrained(bert)
    with torch.no_grad():
        model.embeddings.word_embeddings.weight.fill_(torch.inf)
    with pytest.raises(ValueError, match=r"vector of row \d is not finite"):
        encode_items(titles(), (model, tokenizer), **options)
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


def test_weights_that_are_missing_or_pickled_are_refused(bert, tmp_path):
    folder = tmp_path / "bert"
    shutil.copytree(bert, folder)
    model = AutoModel.from_pretrained(bert)
    options = {"text_columns": ["title"], "cache_dir": tmp_path / "cache"}
    state = {name: value for name, value in model.state_dict().items() if not name.startswith("pooler")}
    model.save_pretrained(folder, state_dict=state)
    np.testing.assert_allclose(
        encode_items(titles(), folder, **options), encode_items(titles(), bert, **options), atol=1e-6
    )
    with pytest.raises(ValueError, match=r"lacks 2 weights of BertModel \(pooler.dense.bias, .*would be random"):
        encode_items(titles(), folder, pooling="pooler", **options)
    del state["encoder.layer.1.output.dense.weight"]
    model.save_pretrained(folder, state_dict=state)
    with pytest.raises(ValueError, match=r"lacks 1 weights of BertModel \(encoder.layer.1.output.dense.weight"):
        encode_items(titles(), folder, **options)
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    with pytest.raises(OSError, match=r"model.safetensors"):
        encode_items(titles(), folder, **options)
