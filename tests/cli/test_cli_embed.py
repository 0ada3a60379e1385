"""`hf-contrastive embed`: the right vectors, whatever happens on the way."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from hf_contrastive.cli import checkpoints


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def expected(checkpoint: Path, source: object, split: str = "train", **options) -> torch.Tensor:
    """The embeddings by the library's Python face, all rows at once."""
    from transformers import AutoImageProcessor

    from hf_contrastive import SimCLRModel
    from hf_contrastive.data import load_images

    processor = AutoImageProcessor.from_pretrained(checkpoint)
    images = [image.convert("RGB") for image in load_images(str(source), split=split)["image"]]
    pixel_values = processor(images=images, return_tensors="pt")["pixel_values"]
    return SimCLRModel.from_pretrained(checkpoint).encode(pixel_values, **options)


def vectors(path: str) -> np.ndarray:
    return np.array(pq.read_table(path)["embedding"].to_pylist(), dtype=np.float32)


class KilledError(BaseException):
    """Stands for a kill: no handler of the command sees it."""


def die_after(monkeypatch, batches: int) -> None:
    """Let the encoder work for some batches, then die."""
    from hf_contrastive import SimCLRModel

    encode = SimCLRModel.encode
    left = [batches]

    def counted(self, *args, **kwargs):
        if left[0] == 0:
            raise KilledError
        left[0] -= 1
        return encode(self, *args, **kwargs)

    monkeypatch.setattr(SimCLRModel, "encode", counted)


def test_parquet_holds_index_label_embedding_and_says_what_they_are(call, checkpoint):
    from hf_contrastive.data import load_images

    called = call("embed", checkpoint, "digits", "-o", "out.parquet", "--split", "test", "--batch-size", 100)
    assert called.code == 0, called.err
    rows = load_images("digits", split="test")
    table = pq.read_table("out.parquet")
    assert table.column_names == ["index", "label", "embedding"]
    assert str(table.schema.field("embedding").type).startswith("list<")
    assert str(table.schema.field("embedding").type.value_type) == "float"
    assert table["index"].to_pylist() == list(range(len(rows)))
    assert table["label"].to_pylist() == rows["label"][:]
    np.testing.assert_allclose(vectors("out.parquet"), expected(checkpoint, "digits", "test"), rtol=1e-4, atol=1e-5)
    about = json.loads(table.schema.metadata[b"hf_contrastive"])
    assert about["model"] == "tiny"
    assert (about["readout"], about["normalized"], about["dimension"]) == ("backbone", False, 8)
    assert about["label_names"] == [str(digit) for digit in range(10)]
    assert f"{len(rows)} embeddings of 8 numbers" in called.out
    assert sorted(path.name for path in Path().iterdir()) == ["out.parquet"]


def test_npy_with_its_description(call, checkpoint, birds):
    words = ["--readout", "projection", "--normalize", "--num-workers", 1]
    assert call("embed", checkpoint, birds, "-o", "out.npy", *words).code == 0
    matrix = np.load("out.npy")
    assert matrix.dtype == np.float32
    want = expected(checkpoint, birds, readout="projection", normalize=True)
    np.testing.assert_allclose(matrix, want, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(matrix, axis=1), 1, rtol=1e-5)
    about = json.loads(Path("out.npy.json").read_text())
    assert (about["readout"], about["normalized"], about["dimension"]) == ("projection", True, 4)
    assert about["values"] == {"index": list(range(30)), "label": [n % 2 for n in range(30)]}


def test_further_columns_are_copied(call, checkpoint, birds):
    assert call("embed", checkpoint, birds, "-o", "out.parquet", "--columns", "name,label").code == 0
    table = pq.read_table("out.parquet")
    assert table.column_names == ["index", "name", "label", "embedding"]
    assert table["name"].to_pylist() == [f"bird-{n}" for n in range(30)]


@pytest.mark.parametrize("output", ["out.parquet", "out.npy"])
@pytest.mark.parametrize("batches", [0, 5, 7])
def test_a_killed_run_continues_to_the_identical_file(call, checkpoint, birds, monkeypatch, output, batches):
    words = ["embed", checkpoint, birds, "--batch-size", 4, "--shard-size", 8, "-o"]
    assert call(*words, f"whole-{output}").code == 0
    with monkeypatch.context() as patch:
        die_after(patch, batches)
        with pytest.raises(KilledError):
            call(*words, output)
    assert not Path(output).exists()
    assert len(list(Path(f"{output}.parts").glob("rows-*.parquet"))) == batches // 2
    called = call(*words, output)
    assert called.code == 0
    assert ("continuing after" in called.err) == (batches > 0)
    assert Path(output).read_bytes() == Path(f"whole-{output}").read_bytes()
    assert not Path(f"{output}.parts").exists()


def test_only_what_is_missing_is_computed_again(call, checkpoint, birds, monkeypatch):
    words = ["embed", checkpoint, birds, "--batch-size", 4, "--shard-size", 8, "-o", "out.npy"]
    with monkeypatch.context() as patch:
        die_after(patch, 6)
        with pytest.raises(KilledError):
            call(*words)
    with monkeypatch.context() as patch:
        die_after(patch, 2)  # 8 batches in all, 6 are there
        assert call(*words).code == 0


def test_a_piece_that_was_cut_short_is_made_again(call, checkpoint, birds, monkeypatch):
    words = ["embed", checkpoint, birds, "--batch-size", 4, "--shard-size", 8, "-o"]
    assert call(*words, "whole.parquet").code == 0
    with monkeypatch.context() as patch:
        die_after(patch, 6)
        with pytest.raises(KilledError):
            call(*words, "out.parquet")
    piece = sorted(Path("out.parquet.parts").glob("rows-*.parquet"))[1]
    piece.write_bytes(piece.read_bytes()[:100])
    assert call(*words, "out.parquet").code == 0
    assert Path("out.parquet").read_bytes() == Path("whole.parquet").read_bytes()


def test_killed_between_the_last_write_and_the_tidying_up(call, checkpoint, birds, monkeypatch):
    words = ["embed", checkpoint, birds, "-o", "out.parquet"]

    def die(*_: object, **__: object) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", die)
        with pytest.raises(KilledError):
            call(*words)
    before = Path("out.parquet").read_bytes()
    assert call(*words).code == 0
    assert Path("out.parquet").read_bytes() == before
    assert not Path("out.parquet.parts").exists()


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        (["--readout", "projection"], "readout was 'backbone' and is now 'projection'"),
        (["--normalize"], "normalized was False"),
        (["--batch-size", "8"], "batch size was 4"),
        (["--max-samples", "20"], "rows was 30"),
    ],
)
def test_unfinished_work_of_other_settings_is_refused(call, checkpoint, birds, monkeypatch, changed, named):
    words = ["embed", checkpoint, birds, "--batch-size", 4, "--shard-size", 8, "-o", "out.npy"]
    with monkeypatch.context() as patch:
        die_after(patch, 4)
        with pytest.raises(KilledError):
            call(*words)
    called = call(*words, *changed)
    assert called.code == 1
    assert named in called.err
    assert "--restart" in called.err
    assert len(list(Path("out.npy.parts").glob("rows-*"))) == 2  # nothing lost
    assert call(*words, *changed, "--restart").code == 0
    assert Path("out.npy").exists()


def test_a_changed_model_or_dataset_is_noticed(call, checkpoint, birds, monkeypatch, tmp_path):
    import datasets
    from PIL import Image
    from safetensors.torch import load_file, save_file

    shutil.copytree(checkpoint, "mine")
    shutil.copy(birds, "rows.parquet")
    words = ["embed", "mine", "rows.parquet", "--batch-size", 4, "--shard-size", 8, "-o", "out.npy"]
    with monkeypatch.context() as patch:
        die_after(patch, 4)
        with pytest.raises(KilledError):
            call(*words)
    weights = load_file("mine/model.safetensors")
    name = next(name for name, value in weights.items() if value.is_floating_point())
    save_file({**weights, name: weights[name] + 1e-3}, "mine/model.safetensors", metadata={"format": "pt"})
    assert "model weights changed" in call(*words).err
    save_file(weights, "mine/model.safetensors", metadata={"format": "pt"})
    rows = datasets.Dataset.from_parquet(str(birds), cache_dir=str(tmp_path / "cache"))
    rows.map(lambda row: {"picture": Image.new("RGB", (10, 12))}).to_parquet("rows.parquet")
    assert "dataset content changed" in call(*words).err


def test_existing_output_is_kept_unless_told(call, checkpoint, birds):
    Path("out.npy").write_text("precious")
    called = call("embed", checkpoint, birds, "-o", "out.npy")
    assert called.code == 1
    assert "--overwrite" in called.err
    assert Path("out.npy").read_text() == "precious"
    assert call("embed", checkpoint, birds, "-o", "out.npy", "--overwrite").code == 0
    assert np.load("out.npy").shape == (30, 8)


def test_an_existing_output_survives_a_failed_overwrite(call, checkpoint, birds, monkeypatch):
    Path("out.npy").write_text("precious")
    with monkeypatch.context() as patch:
        die_after(patch, 0)
        with pytest.raises(KilledError):
            call("embed", checkpoint, birds, "-o", "out.npy", "--overwrite")
    assert Path("out.npy").read_text() == "precious"
    called = call("embed", checkpoint, birds, "-o", "out.npy")  # pieces of the overwriting run are there
    assert (called.code, Path("out.npy").read_text()) == (1, "precious")


def test_no_path_of_this_machine_is_written(call, checkpoint, birds, tmp_path):
    for output in ("out.parquet", "out.npy"):
        assert call("embed", checkpoint.resolve(), birds.resolve(), "-o", tmp_path / output).code == 0
    for path in tmp_path.iterdir():
        content = path.read_bytes()
        for place in (str(checkpoint.parent), str(birds.parent), str(tmp_path), str(Path.home())):
            assert place.encode() not in content
    about = json.loads(Path("out.npy.json").read_text())
    assert (about["model"], about["dataset"]) == ("tiny", "birds.parquet")


def test_public_name(tmp_path):
    assert checkpoints.public_name("user/model") == "user/model"
    assert checkpoints.public_name("digits") == "digits"
    assert checkpoints.public_name(str(tmp_path / "gone" / "name")) == "name"
    assert checkpoints.public_name("./name/") == "name"


@pytest.mark.parametrize(
    ("options", "code", "parts"),
    [
        (["-o", "out.csv"], 2, [".parquet", ".npy", "out.csv"]),
        (["-o", "out"], 2, ["nothing"]),
        (["-o", "x.npy", "--readout", "head"], 2, ["head", "backbone, projection_1, projection"]),
        (["-o", "x.npy", "--device", "gpu"], 2, ["--device gpu"]),
        (["-o", "x.npy", "--on-unreadable", "cry"], 2, ["stop", "skip"]),
        (["-o", "x.npy", "--batch-size", "0"], 2, ["--batch-size"]),
        (["-o", "x.npy", "--split", "test"], 1, ["'test'", "has train", "--split"]),
        (["-o", "x.npy", "--image-column", "img"], 1, ["'img'", "picture, name, label", "--image-column picture"]),
        (["-o", "x.npy", "--image-column", "name"], 1, ["row 0"]),
        (["-o", "x.npy", "--columns", "id"], 1, ["'id'", "picture, name, label", "--columns picture"]),
    ],
)
def test_refusals_say_what_to_type(call, checkpoint, birds, options, code, parts):
    called = call("embed", checkpoint, birds, *options)
    assert called.code == code, called.err
    assert "Traceback" not in called.err
    for part in parts:
        assert part in called.err
    assert not Path("x.npy").exists()


def test_missing_checkpoints(call, checkpoint):
    near = checkpoint.with_name("tinny")
    for typed, part in ((near, "Did you mean"), ("nowhere", "user/name"), ("no/where/at-all", "config.json")):
        called = call("embed", typed, "digits", "-o", "x.npy")
        assert called.code == 1
        assert part in called.err
    called = call("embed", "user/not-there", "digits", "-o", "x.npy")
    assert called.code == 1
    assert "user/not-there is no folder here" in called.err
    Path("empty").mkdir()
    assert "no config.json" in call("embed", "empty", "digits", "-o", "x.npy").err


def test_a_plain_vit_is_refused_by_name(call):
    from transformers import ViTConfig, ViTModel

    ViTModel(
        ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, image_size=16)
    ).save_pretrained("vit")
    called = call("embed", "vit", "digits", "-o", "x.npy")
    assert called.code == 1
    assert "'vit' model" in called.err
    assert "simclr, gsimclr" in called.err


def test_a_system_for_other_data_is_refused(call, checkpoint, monkeypatch):
    import dataclasses

    from hf_contrastive import registry

    sound = dataclasses.replace(registry.REGISTRY["simclr"], main_input="input_values", title="SoundCLR")
    monkeypatch.setitem(registry.REGISTRY, "simclr", sound)
    called = call("embed", checkpoint, "digits", "-o", "x.npy")
    assert called.code == 1
    assert "SoundCLR, which takes input_values" in called.err


def test_a_missing_image_processor_is_explained(call, checkpoint):
    shutil.copytree(checkpoint, "bare", ignore=shutil.ignore_patterns("preprocessor_config.json"))
    called = call("embed", "bare", "digits", "-o", "x.npy")
    assert called.code == 1
    assert "preprocessor_config.json" in called.err
    assert "ViTImageProcessor" in called.err


def test_a_diverged_model_is_refused(call, checkpoint, birds):
    from safetensors.torch import load_file, save_file

    shutil.copytree(checkpoint, "nan")
    weights = load_file("nan/model.safetensors")
    name = next(name for name in weights if name.startswith("backbone") and name.endswith("0.bias"))
    weights[name] = weights[name] * float("nan")
    save_file(weights, "nan/model.safetensors", metadata={"format": "pt"})
    called = call("embed", "nan", birds, "-o", "x.npy")
    assert called.code == 1
    assert "NaN" in called.err
    assert "row 0" in called.err


def test_the_component_of_a_system_embeds_too(call):
    from transformers import ViTImageProcessor

    from hf_contrastive import DenoisingAutoencoderConfig, DenoisingAutoencoderModel

    DenoisingAutoencoderModel(DenoisingAutoencoderConfig(channels=[4, 6], num_channels=1)).save_pretrained("auto")
    ViTImageProcessor(size={"height": 16, "width": 16}, image_mean=[0.5], image_std=[0.5]).save_pretrained("auto")
    assert call("embed", "auto", "digits", "-o", "x.npy", "--max-samples", 10).code == 0
    assert np.load("x.npy").shape == (10, 6)
    assert json.loads(Path("x.npy.json").read_text())["readout"] == "latent"


@pytest.fixture
def pair_checkpoint():
    """A model with a text encoder, with its processor."""
    from helpers.dual_encoder_tester import text_encoders
    from helpers.testers import image_backbones

    from hf_contrastive import ConVIRTConfig, ConVIRTForPreTraining, DualEncoderProcessor
    from hf_contrastive.data import image_processor, train_word_tokenizer

    torch.manual_seed(0)
    options = {"text_config": text_encoders()["bert"], "vision_config": image_backbones()["conv_encoder"]}
    ConVIRTForPreTraining(ConVIRTConfig(**options, projection_dim=8)).save_pretrained("pair")
    tokenizer = train_word_tokenizer(["a red cat and a blue dog"], max_length=12)
    DualEncoderProcessor(image_processor(16), tokenizer).save_pretrained("pair")
    return "pair"


def test_texts_of_a_table(call, pair_checkpoint):
    from transformers import AutoModel, AutoProcessor

    texts = ["a red cat", "dog", "a blue dog and a red cat", "cat"]
    Path("t.csv").write_text("id,caption\n" + "\n".join(f"{n + 5},{t}" for n, t in enumerate(texts)) + "\n")
    called = call("embed", pair_checkpoint, "t.csv", "--text-column", "caption", "-o", "t.parquet", "--columns", "id")
    assert called.code == 0, called.err
    table = pq.read_table("t.parquet")
    assert table.column_names == ["index", "id", "embedding"]
    assert table["id"].to_pylist() == [5, 6, 7, 8]
    model, processor = AutoModel.from_pretrained(pair_checkpoint), AutoProcessor.from_pretrained(pair_checkpoint)
    # one by one: neither the order by length nor the padding changes anything
    alone = torch.cat([model.encode(**processor(text=text)) for text in texts])
    found = torch.tensor(np.array(table["embedding"].to_pylist(), dtype=np.float32))
    torch.testing.assert_close(found, alone, rtol=1e-5, atol=1e-6)
    assert call("embed", pair_checkpoint, "digits", "-o", "x.npy", "--max-samples", 10).code == 0


def test_texts_that_cannot_be_embedded(call, pair_checkpoint, checkpoint):
    Path("t.jsonl").write_text('{"caption": "a cat"}\n{"caption": " "}\n{"caption": null}\n')
    called = call("embed", pair_checkpoint, "t.jsonl", "--text-column", "caption", "-o", "t.npy")
    assert called.code == 1
    assert "2 of 3 rows have no text in 'caption', the first is row 1" in called.err
    called = call(
        "embed", pair_checkpoint, "t.jsonl", "--text-column", "caption", "-o", "t.npy", "--on-unreadable", "skip"
    )
    assert called.code == 0
    assert np.load("t.npy").shape == (1, 8)
    assert (
        "column 'words' not found"
        in call("embed", pair_checkpoint, "t.jsonl", "--text-column", "words", "-o", "u.npy").err
    )
    assert "has no text encoder" in call("embed", checkpoint, "t.jsonl", "--text-column", "caption", "-o", "u.npy").err
    assert call("embed", pair_checkpoint, "digits", "--bf16", "-o", "u.npy").code == 2
