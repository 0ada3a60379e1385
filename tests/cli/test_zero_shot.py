"""`hf-contrastive evaluate zero-shot`: classes described by texts, for pairs of this library and CLIP-like ones."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModel, AutoProcessor, CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig

from hf_contrastive import ConvEncoderConfig, DualEncoderProcessor, MofiConfig, MofiImageProcessor, MofiModel
from hf_contrastive.cli.zero_shot import CIFAR_PROMPTS
from hf_contrastive.data import ImageTextScorer, train_word_tokenizer


NAMES = ["red_ball", "green_ball", "blue_box"]
COLOURS = [(230, 20, 20), (20, 220, 20), (20, 20, 240)]
WORDS = ["red green blue ball box a photo of drawing the small . 0 1 2"]
SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
TOKENIZER = train_word_tokenizer(WORDS, max_length=16)
# CLIP reads a text at its end, which is a full stop here
END = TOKENIZER.convert_tokens_to_ids(".")
TEXTS = CLIPTextConfig(
    **SIZES, vocab_size=40, max_position_embeddings=16, eos_token_id=END, bos_token_id=2, pad_token_id=0
)


def save(model: object, folder: Path, steps: int = 40) -> Path:
    """A pair that was trained a little, so that its answers are not all the same."""
    processor = DualEncoderProcessor(MofiImageProcessor.of_size(16), TOKENIZER)
    inputs = processor(
        images=[picture(label, np.random.default_rng(label)) for label in range(3)],
        text=[f"a photo of a {name.replace('_', ' ')}." for name in NAMES],
        return_tensors="pt",
    )
    optimizer = torch.optim.Adam(model.train().parameters(), lr=3e-3)
    for _ in range(steps):
        images, texts = (
            torch.nn.functional.normalize(getattr(found, "pooler_output", found), dim=1)
            for found in (
                model.get_image_features(inputs["pixel_values"]),
                model.get_text_features(inputs["input_ids"], inputs["attention_mask"]),
            )
        )
        torch.nn.functional.cross_entropy(5 * images @ texts.T, torch.arange(3)).backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=["mofi", "clip"])
def pair(request, tmp_path_factory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("pairs") / request.param
    if request.param == "mofi":
        vision = ConvEncoderConfig(channels=[8, 8])
        pooled = {"image_pooling": "mean", "text_pooling": "pooler"}
        return save(MofiModel(MofiConfig(vision_config=vision, text_config=TEXTS, projection_dim=8, **pooled)), folder)
    vision = CLIPVisionConfig(**SIZES, image_size=16, patch_size=8)
    return save(CLIPModel(CLIPConfig(vision_config=vision, text_config=TEXTS.to_dict(), projection_dim=8)), folder)


def picture(label: int, random: np.random.Generator) -> Image.Image:
    pixels = random.normal(COLOURS[label % 3], 40, (18, 16, 3))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def write_photos(path: Path, labels: list[int], names: list[str] | None = None) -> Path:
    random = np.random.default_rng(1)
    images = [picture(label, random) for label in labels]
    rows = datasets.Dataset.from_dict({"image": images, "label": labels})
    if names is not None:
        rows = rows.cast_column("label", datasets.ClassLabel(names=names))
    path.parent.mkdir(parents=True, exist_ok=True)
    rows.to_parquet(path)
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Thirty colour pictures of three classes with names."""
    return write_photos(tmp_path_factory.mktemp("photos") / "photos.parquet", [0, 1, 2] * 9 + [0] * 3, NAMES)


def answers_by_hand(pair: Path, photos: Path, prompts: list[str], names: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """The class of every picture, step by step: unit prompts, their mean, unit again, the largest product."""
    model, processor = AutoModel.from_pretrained(pair).eval(), AutoProcessor.from_pretrained(pair)
    rows = datasets.Dataset.from_parquet(str(photos), cache_dir=str(photos.parent / "cache"))
    classes = []
    with torch.no_grad():
        for name in names:
            unit = []
            for prompt in prompts:
                found = model.get_text_features(**processor(text=[prompt.replace("{}", name)], return_tensors="pt"))
                vector = getattr(found, "pooler_output", found)[0].numpy().astype(np.float64)
                unit.append(vector / np.linalg.norm(vector))
            mean = np.mean(unit, axis=0)
            classes.append(mean / np.linalg.norm(mean))
        found = model.get_image_features(
            processor(images=[image.convert("RGB") for image in rows["image"]], return_tensors="pt")["pixel_values"]
        )
    images = getattr(found, "pooler_output", found).numpy().astype(np.float64)
    return (images @ np.stack(classes).T).argmax(1), np.asarray(rows["label"])


@pytest.mark.parametrize(
    ("words", "prompts"),
    [
        ([], ["a photo of a {}."]),
        (["--prompt", "a {}.", "--prompt", "drawing of the {} ."], ["a {}.", "drawing of the {} ."]),
        (["--prompts", "cifar"], list(CIFAR_PROMPTS)),
    ],
)
def test_accuracy_is_that_of_the_steps_by_hand(call, pair, photos, words, prompts):
    called = call(
        "evaluate", "zero-shot", pair, photos, "--test-split", "train", "--batch-size", 7, "--json", "-", *words
    )
    assert called.code == 0, called.err
    record = json.loads(called.out)
    found, answers = answers_by_hand(pair, photos, prompts, ["red ball", "green ball", "blue box"])
    here, untrained, frequent = record["results"]
    assert len(set(found)) > 1, "the texts of the classes are not told apart"
    assert here["accuracy"] == pytest.approx(float((found == answers).mean()))
    per_class = [float((found == answers)[answers == number].mean()) for number in range(3)]
    assert here["mean_per_class"] == pytest.approx(np.mean(per_class))
    assert (untrained["encoder"], frequent["encoder"]) == (
        "untrained encoders (seed 0)",
        "always the most frequent class",
    )
    assert frequent["accuracy"] == pytest.approx(12 / 30)
    assert frequent["mean_per_class"] == pytest.approx(1 / 3)
    assert record["protocol"]["classes"] == f"3 (first: {prompts[0].replace('{}', 'red ball')})"
    assert record["protocol"]["test_split"] == "train (30 rows)"


def test_the_prompts_of_cifar():
    assert len(set(CIFAR_PROMPTS)) == len(CIFAR_PROMPTS) == 18
    assert all(prompt.count("{}") == 1 for prompt in CIFAR_PROMPTS)
    assert "a black and white photo of the {}." in CIFAR_PROMPTS
    assert "a photo of a small {}." in CIFAR_PROMPTS


def test_the_table(call, pair, photos):
    called = call("evaluate", "zero-shot", pair, photos, "--test-split", "train", "--no-baseline")
    assert called.code == 0, called.err
    for part in ("Zero-shot accuracy of", "prompts: a photo of a {}.", "mean_per_class", "this checkpoint"):
        assert part in called.out
    assert "untrained" not in called.out


def test_names_from_a_file(call, pair, photos, tmp_path):
    """Names of a file are what names of the data are; both forms of the file say the same."""
    numbered = write_photos(tmp_path / "numbered.parquet", [0, 1, 2] * 9 + [0] * 3)
    names = [name.replace("_", " ") for name in NAMES]
    (tmp_path / "names.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    lines = [f"{number}\t{name}" for number, name in enumerate(names)]
    (tmp_path / "pairs.tsv").write_text("\n".join(reversed(lines)) + "\n", encoding="utf-8")

    def accuracy(*words: object) -> float:
        called = call("evaluate", "zero-shot", pair, *words, "--test-split", "train", "--no-baseline", "--json", "-")
        assert called.code == 0, called.err
        return json.loads(called.out)["results"][0]["accuracy"]

    expected = accuracy(photos)
    assert accuracy(numbered, "--classes", tmp_path / "names.txt") == expected
    assert accuracy(numbered, "--classes", tmp_path / "pairs.tsv") == expected
    named = [f"{name}\t{words}" for name, words in zip(NAMES, names, strict=True)]
    (tmp_path / "named.tsv").write_text("\n".join(named), encoding="utf-8")
    assert accuracy(photos, "--classes", tmp_path / "named.tsv") == expected
    called = call("evaluate", "zero-shot", pair, numbered, "--test-split", "train")
    assert called.code == 1
    assert "--classes FILE" in called.err


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("0\tred\n1\tgreen\n", "has no name for the class 2"),
        ("0\tred\n1\tgreen\n2\tgreen\n", "two classes have the same name 'green'"),
        ("0\tred\n1\tgreen\tbox\n2\tblue\n", "line 2 has 3 columns"),
        ("0\tred\tx\n1\tgreen\ty\n2\tblue\tz\n", "line 1 has 3 columns, expected 2"),
        ("red\ngreen\n", "has 2 names, numbered from 0, but the data has the class 2"),
        ("a\tred\nb\tgreen\nc\tblue\n", "those of the file are not"),
        ("\n", "is empty"),
        (None, "cannot be read"),
    ],
)
def test_files_of_names_that_do_not_fit(call, pair, tmp_path, text, part):
    numbered = write_photos(tmp_path / "numbered.parquet", [0, 1, 2] * 3)
    if text is not None:
        (tmp_path / "names.txt").write_text(text, encoding="utf-8")
    words = ["--test-split", "train", "--classes", tmp_path / "names.txt"]
    called = call("evaluate", "zero-shot", pair, numbered, *words)
    assert called.code == 1
    assert part in called.err
    assert "Traceback" not in called.err


@pytest.mark.parametrize(
    ("words", "code", "part"),
    [
        (["--prompt", "a photo"], 2, "needs exactly one {}"),
        (["--prompt", "{}", "--prompts", "cifar"], 2, "exclude each other"),
        (["--prompts", "nowhere.txt"], 1, "cifar, or a file"),
        (["--test-split", "dev"], 1, "--test-split"),
    ],
)
def test_refusals(call, pair, photos, words, code, part):
    called = call("evaluate", "zero-shot", pair, photos, *words)
    assert called.code == code, called.err
    assert part in called.err


def test_what_is_no_pair_is_refused(call, checkpoint, photos):
    called = call("evaluate", "zero-shot", checkpoint, photos, "--test-split", "train")
    assert called.code == 1
    assert "has no get_image_features; give a pair of encoders" in called.err


def test_weights_that_diverged_are_told(call, pair, photos, tmp_path):
    model = AutoModel.from_pretrained(pair)
    with torch.no_grad():
        for value in model.get_submodule("text_projection").parameters() if hasattr(model, "text_projection") else ():
            value.fill_(float("nan"))
        for name, value in model.named_parameters():
            if "text" in name:
                value.fill_(float("nan"))
    called = call("evaluate", "zero-shot", save(model, tmp_path / "nan", steps=0), photos, "--test-split", "train")
    assert called.code == 1
    assert "embeddings of the texts hold NaN" in called.err


def test_one_query_per_class(call, checkpoint, birds):
    """The first image of each class looks for the others: the same as the search by hand."""
    from hf_contrastive.cli import checkpoints
    from hf_contrastive.data import load_images
    from hf_contrastive.evaluation import retrieval_metrics

    words = ["--test-split", "train", "--ks", "1,5", "--no-baseline", "--json", "-"]
    called = call("evaluate", "retrieval", checkpoint, birds, "--one-query-per-class", *words)
    assert called.code == 0, called.err
    record = json.loads(called.out)
    rows = load_images(str(birds), split="train")
    x = checkpoints.encode_batches(checkpoints.load_encoder(str(checkpoint), "cpu"), rows)
    y = np.asarray([number % 2 for number in range(30)])
    expected = retrieval_metrics(x[:2], x[2:], query_labels=y[:2], gallery_labels=y[2:], ks=(1, 5))
    result = record["results"][0]
    assert {name: result[name] for name in ("recall@1", "recall@5", "mrr")} == {
        name: pytest.approx(expected[name]) for name in ("recall@1", "recall@5", "mrr")
    }
    assert record["protocol"]["queries"] == "the first image of each class of train (2 rows)"
    assert record["protocol"]["gallery"] == "the others (28 rows)"
    called = call(
        "evaluate", "retrieval", checkpoint, birds, "--one-query-per-class", "--gallery-split", "train", *words
    )
    assert called.code == 2
    assert "--gallery-split" in called.err


def test_texts_of_siglip_have_one_length():
    """SigLIP was trained on texts padded to one length without a mask; shorter ones give other vectors."""
    from transformers import SiglipConfig, SiglipModel, SiglipTextConfig, SiglipVisionConfig

    text = SiglipTextConfig(**SIZES, vocab_size=40, max_position_embeddings=12, projection_size=16)
    vision = SiglipVisionConfig(**SIZES, image_size=16, patch_size=8)
    torch.manual_seed(0)
    model = SiglipModel(SiglipConfig(text_config=text.to_dict(), vision_config=vision.to_dict())).eval()
    tokenizer = train_word_tokenizer(WORDS, max_length=12)
    processor = DualEncoderProcessor(MofiImageProcessor.of_size(16), tokenizer)
    found = ImageTextScorer(model, processor).embed_texts(["red ball", "a photo of the blue box"])
    ids = tokenizer(["red ball"], padding="max_length", max_length=12, return_tensors="pt")["input_ids"]
    assert ids.shape == (1, 12)
    with torch.no_grad():
        expected = model.get_text_features(input_ids=ids).pooler_output
    torch.testing.assert_close(found[:1], torch.nn.functional.normalize(expected, dim=1))
