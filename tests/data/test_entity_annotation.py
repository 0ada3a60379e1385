"""Images with texts to images with entities: what is kept, what is counted, and a run that was killed."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from helpers.dual_encoder_tester import clip_vision, text_encoders
from PIL import Image
from transformers import CLIPConfig, CLIPModel

from hf_contrastive import DualEncoderProcessor, MofiConfig, MofiImageProcessor, MofiModel
from hf_contrastive.data import (
    DictionaryLinker,
    Entity,
    EntityTable,
    ImageTextScorer,
    annotate_i2e,
    build_i2e,
    finish_i2e,
    train_word_tokenizer,
)


COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "yellow": (255, 255, 0)}
TABLE = EntityTable([Entity(f"Q{place}", name, f"the colour {name}") for place, name in enumerate(COLOURS)])


class ColourScorer:
    """Images are their mean colour, texts the colour they name."""

    batch_size = 4

    def embed_images(self, images):
        pixels = torch.stack([torch.from_numpy(np.asarray(image)).double().mean((0, 1)) for image in images]).float()
        return torch.nn.functional.normalize(pixels, dim=1)

    def embed_texts(self, texts):
        vectors = [COLOURS[text.split(",")[0]] for text in texts]
        return torch.nn.functional.normalize(torch.tensor(vectors, dtype=torch.float32), dim=1)


def picture(colour, side=4) -> dict:
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def records(count: int = 40, seed: int = 0) -> list[dict]:
    """Pictures of a colour; texts that name one or two colours, sometimes others, nothing, or no text; some pictures are broken."""
    random = np.random.default_rng(seed)
    names, made = list(COLOURS), []
    for row in range(count):
        colour = names[random.integers(4)]
        noise = random.integers(-30, 30, 3)
        image = picture(tuple(int(v) for v in np.clip(np.array(COLOURS[colour]) + noise, 0, 255)))
        text = [f"a {colour} square", f"{names[random.integers(4)]} or {colour}", f"not {names[random.integers(4)]}"][
            row % 3
        ]
        if row % 10 == 7:
            text = ["", "   ", "nothing known", None][row // 10 % 4]
        if row % 11 == 5:
            image = {"bytes": b"no image", "path": None}
        made.append({"image": image, "text": text, "other": row})
    return made


def as_kind(kind: str, rows):
    if kind == "list":
        return rows
    features = datasets.Features(
        {"image": datasets.Image(), "text": datasets.Value("string"), "other": datasets.Value("int64")}
    )
    data = datasets.Dataset.from_list(rows, features=features)
    return data if kind == "dataset" else data.to_iterable_dataset(num_shards=4)


def build(output, rows, **options):
    options = {"threshold": 0.9, "min_images": 2, "records_per_part": 9, **options}
    return build_i2e(
        rows,
        options.pop("linker", DictionaryLinker(TABLE)),
        options.pop("clip", ColourScorer()),
        output=output,
        **options,
    )


def files_of(folder: Path) -> dict[str, bytes]:
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert not [name for name in found if "tmp" in name]
    return found


@pytest.mark.parametrize("kind", ["list", "dataset", "stream"])
def test_rows_that_come_out(kind, tmp_path):
    rows = records()
    report = build(tmp_path / "i2e", as_kind(kind, rows))
    # one by one, by the rules
    expected, skipped = [], dict.fromkeys(("empty_text", "no_entity", "unreadable_image", "below_threshold"), 0)
    scorer = ColourScorer()
    for number, row in enumerate(rows):
        text = " ".join((row["text"] or "").split())
        named = [entity for entity in TABLE.entities if entity.name in text.split()]
        if not text:
            skipped["empty_text"] += 1
        elif not named:
            skipped["no_entity"] += 1
        elif row["image"]["bytes"] == b"no image":
            skipped["unreadable_image"] += 1
        else:
            image = scorer.embed_images([Image.open(io.BytesIO(row["image"]["bytes"]))])[0]
            scores = {entity.id: float(scorer.embed_texts([entity.text])[0] @ image) for entity in named}
            kept = sorted((one for one in scores if scores[one] >= 0.9), key=lambda one: -scores[one])
            skipped["below_threshold"] += not kept
            if kept:
                expected.append((number, text, kept))
    assert all(skipped.values())
    assert report.skipped == {**skipped, "rare_entity": 0}
    assert (report.records, report.kept, report.entities) == (40, len(expected), 4)
    made = report.load(cache_dir=str(tmp_path / "cache"))
    assert [(row["record"], row["text"], [one["id"] for one in row["entities"]]) for row in made] == expected
    for row in made:
        best = TABLE.by_id[row["entity_id"]]
        assert (row["entity_name"], row["entity_description"]) == (best.name, best.description)
        assert row["score"] == row["entities"][0]["score"] >= 0.9
        assert row["label"] == int(row["entity_id"][1:])
        assert row["image"].size == (4, 4)
    # images are kept as they came
    undecoded = made.cast_column("image", datasets.Image(decode=False))
    assert all(row["image"]["bytes"] == rows[row["record"]]["image"]["bytes"] for row in undecoded)
    table = pq.read_table(tmp_path / "i2e" / "entities.parquet").to_pylist()
    assert [row["label"] for row in table] == [0, 1, 2, 3]
    counts = [sum(row["label"] == label for row in made) for label in range(4)]
    assert [row["labelled"] for row in table] == counts
    assert json.loads((tmp_path / "i2e" / "report.json").read_text())["kept"] == len(expected)
    assert set(report.scores) == {"5 %", "25 %", "50 %", "75 %", "95 %"}


def test_rare_entities_are_dropped_and_labels_stay_contiguous(tmp_path):
    rows = [
        {"image": picture(COLOURS[name]), "text": text}
        for name, text in (
            ("red", "red"),
            ("green", "green"),
            ("blue", "blue or green"),
            ("blue", "blue"),
            ("yellow", "yellow or red"),
            ("yellow", "red yellow green"),
        )
    ]
    report = build(tmp_path, rows, threshold=-1.0)
    # of the pairs, red has 3 images, green 3, blue 2, yellow 2
    assert (report.kept, report.entities) == (6, 4)
    again = finish_i2e([tmp_path], min_images=3, output=tmp_path)
    assert (again.kept, again.entities, again.skipped["rare_entity"]) == (5, 2, 1)
    made = again.load(cache_dir=str(tmp_path / "cache"))
    # what is left of an image's entities, the best of them first
    assert [(row["record"], row["entity_id"], row["label"]) for row in made] == [
        (0, "Q0", 0),
        (1, "Q1", 1),
        (2, "Q1", 1),
        (4, "Q0", 0),
        (5, "Q0", 0),
    ]
    assert all(one["id"] in ("Q0", "Q1") for row in made for one in row["entities"])
    with pytest.raises(ValueError, match="no entity has 9 images or more"):
        finish_i2e([tmp_path], min_images=9, output=tmp_path)


class Killed(BaseException):
    pass


@pytest.mark.parametrize("kind", ["list", "dataset", "stream"])
@pytest.mark.parametrize("after", [1, 9, 10, 20, 37])
def test_killed_and_resumed_is_uninterrupted(kind, after, tmp_path):
    rows = as_kind(kind, records())
    whole = build(tmp_path / "whole", rows)
    seen = 0

    def dies(text):
        nonlocal seen
        seen += 1
        if seen == after:
            raise Killed
        return DictionaryLinker(TABLE)(text)

    dies.describe = DictionaryLinker(TABLE).describe
    with pytest.raises(Killed):
        build(tmp_path / "parts", rows, linker=dies)
    done = []
    again = build(tmp_path / "parts", rows, advance=done.append)
    assert sum(done) == 40
    assert files_of(tmp_path / "parts") == files_of(tmp_path / "whole")
    assert (again.kept, again.skipped) == (whole.kept, whole.skipped)
    # a finished run asks for nothing any more
    once_more = build(tmp_path / "parts", rows, linker=_Never(), clip=_Never2())
    assert once_more.kept == whole.kept


class _Never:
    def __call__(self, text):
        raise AssertionError(text)

    def describe(self):
        return DictionaryLinker(TABLE).describe()


class _Never2(ColourScorer):
    def embed_images(self, images):
        raise AssertionError

    def describe(self):
        return "ColourScorer"


SCRIPT = """
import os, sys
sys.path[:0] = {paths!r}
import importlib.util
spec = importlib.util.spec_from_file_location("annotation_tests", {file!r})
tests = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tests)
asked = 0
class Scorer(tests.ColourScorer):
    def embed_images(self, images):
        global asked
        asked += 1
        if asked == {kill}:
            os.kill(os.getpid(), 9)
        return super().embed_images(images)
    def describe(self):
        return "ColourScorer"
tests.build({output!r}, tests.as_kind("stream", tests.records()), clip=Scorer())
"""


def test_killed_by_the_system(tmp_path):
    whole = tmp_path / "whole"
    build(whole, as_kind("stream", records()))
    paths = [str(Path(__file__).resolve().parents[1])]
    words = {"paths": paths, "file": __file__, "output": str(tmp_path / "parts")}
    codes = []
    for kill in (4, 3, 99):
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT.format(kill=kill, **words)], capture_output=True, text=True
        )
        codes.append(done.returncode)
    assert codes == [-9, -9, 0], done.stderr[-2000:]
    assert files_of(tmp_path / "parts") == files_of(whole)


def test_a_part_that_was_written_but_not_counted_is_made_again(tmp_path):
    rows = records()
    build(tmp_path / "whole", rows)
    build(tmp_path / "cut", rows, max_records=18)
    state = tmp_path / "cut" / "annotated" / "state.json"
    said = json.loads(state.read_text())
    said["max_records"] = None
    state.write_text(json.dumps({**said, "done": False}))
    (tmp_path / "cut" / "annotated" / "part-00002.parquet").write_bytes(b"half")
    build(tmp_path / "cut", rows)
    assert files_of(tmp_path / "cut") == files_of(tmp_path / "whole")


@pytest.mark.parametrize(
    ("options", "rows", "message"),
    [
        ({"threshold": 0.8}, None, "begun with other settings .threshold was 0.9 and is 0.8"),
        ({"records_per_part": 8}, None, "records_per_part was 9 and is 8"),
        ({"linker": DictionaryLinker(TABLE, min_length=3)}, None, "linker was 'names of 4 entities"),
        ({}, records(seed=1)[::-1], "the records are others than those of the run"),
        ({}, records()[:12], "the records end earlier than those"),
        ({"max_records": 9}, None, "holds 18 records already, more than max_records=9"),
    ],
)
def test_going_on_with_something_else_is_refused(options, rows, message, tmp_path):
    build(tmp_path, records(), max_records=18)
    with pytest.raises(ValueError, match=message):
        build(tmp_path, records() if rows is None else rows, **{"max_records": 40, **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 1.5}, "`threshold` is 1.5; expected a cosine"),
        ({"records_per_part": 0}, "`records_per_part` is 0"),
        ({"text_column": "caption"}, "column 'caption' not found"),
        ({"image_column": "picture"}, "column 'picture' not found"),
        ({"linker": lambda text: ["Q1"]}, "the linker returned 'Q1'; expected an Entity"),
        ({"threshold": 1.0, "min_images": 30}, "no entity has 30 images or more"),
    ],
)
def test_what_cannot_be_built_is_refused(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        build(tmp_path, records(), **options)


def test_several_processes_share_a_stream(tmp_path):
    rows = as_kind("dataset", records())
    whole = build(tmp_path / "whole", rows)
    folders = [tmp_path / f"share-{place}" for place in range(2)]
    for place, folder in enumerate(folders):
        share = rows.shard(2, place)
        annotate_i2e(share, DictionaryLinker(TABLE), ColourScorer(), 0.9, output=folder, records_per_part=7)
    joined = finish_i2e(folders, min_images=2, output=tmp_path / "joined")
    assert (joined.records, joined.kept, joined.skipped) == (whole.records, whole.kept, whole.skipped)
    tables = [pq.read_table(tmp_path / one / "entities.parquet") for one in ("whole", "joined")]
    assert tables[0].equals(tables[1])
    keys = [
        sorted(
            (row["text"], row["entity_id"], row["label"], row["image"]["bytes"])
            for row in report.load(str(tmp_path / "c")).cast_column("image", datasets.Image(decode=False))
        )
        for report in (whole, joined)
    ]
    assert keys[0] == keys[1]
    other = tmp_path / "other"
    annotate_i2e(rows.shard(2, 1), DictionaryLinker(TABLE), ColourScorer(), 0.8, output=other)
    with pytest.raises(ValueError, match="other was made with another threshold than"):
        finish_i2e([folders[0], other], output=tmp_path / "joined")
    with pytest.raises(ValueError, match="holds no annotated records"):
        finish_i2e([tmp_path / "nothing"], output=tmp_path / "joined")


def test_mappings_and_repeated_candidates(tmp_path):
    rows = [{"image": Image.new("RGB", (3, 3), COLOURS["red"]), "text": "something"} for _ in range(3)]
    one = {"id": "Q0", "name": "red", "description": None}
    report = build(tmp_path, rows, linker=lambda text: [one, Entity("Q0", "red"), {**one, "extra": 1}])
    made = report.load(cache_dir=str(tmp_path / "cache"))
    assert [len(row["entities"]) for row in made] == [1, 1, 1]
    assert made[0]["image"].getpixel((1, 1)) == COLOURS["red"]


def test_paths_and_other_modes_of_images(tmp_path):
    Image.new("L", (5, 5), 255).save(tmp_path / "grey.png")
    Image.new("RGBA", (5, 5), (*COLOURS["red"], 255)).save(tmp_path / "red.png")
    rows = [{"image": name, "text": "red"} for name in ("red.png", "grey.png", "absent.png", "red.png")]
    report = build(tmp_path / "i2e", rows, image_root=tmp_path)
    assert (report.kept, report.skipped["unreadable_image"], report.skipped["below_threshold"]) == (2, 1, 1)
    made = report.load(cache_dir=str(tmp_path / "cache"))
    stored = made.cast_column("image", datasets.Image(decode=False))[0]["image"]
    assert stored["bytes"] == (tmp_path / "red.png").read_bytes()
    assert not stored["path"]


def pair_of_encoders(kind: str):
    tokenizer = train_word_tokenizer(["red green blue yellow the colour"])
    texts = text_encoders()["clip_text_model"]
    texts.vocab_size = 40
    torch.manual_seed(0)
    if kind == "mofi":
        config = MofiConfig(
            vision_config=clip_vision(), text_config=text_encoders()["bert"], text_pooling="mean", projection_dim=8
        )
        model = MofiModel(config)
    else:
        model = CLIPModel(
            CLIPConfig(vision_config=clip_vision().to_dict(), text_config=texts.to_dict(), projection_dim=8)
        )
    return model, DualEncoderProcessor(MofiImageProcessor.of_size(16), tokenizer)


@pytest.mark.parametrize("kind", ["mofi", "clip"])
def test_scores_of_any_pair_of_encoders(kind, tmp_path):
    model, processor = pair_of_encoders(kind)
    report = build(tmp_path, records(), clip=(model, processor), threshold=-1.0, min_images=1)
    made = report.load(cache_dir=str(tmp_path / "cache"))
    assert report.skipped["below_threshold"] == 0
    for row in made.select(range(4)):
        images = model.get_image_features(processor(images=[row["image"].convert("RGB")])["pixel_values"])
        for one in row["entities"]:
            inputs = processor(text=[TABLE.by_id[one["id"]].text])
            texts = model.get_text_features(inputs["input_ids"], inputs["attention_mask"])
            images, texts = (getattr(found, "pooler_output", found) for found in (images, texts))
            cosine = torch.nn.functional.cosine_similarity(images, texts)
            assert one["score"] == pytest.approx(float(cosine.detach()), abs=1e-5)
    # other weights are another run
    scorer = ImageTextScorer(model, processor)
    before = scorer.describe()
    with torch.no_grad():
        next(model.parameters()).add_(1e-4)
    assert scorer.describe() != before
    with pytest.raises(ValueError, match=r"clip was '(MofiModel|CLIPModel)"):
        build(tmp_path, records(), clip=(model, processor), threshold=-1.0)


def test_what_is_no_pair_of_encoders_is_refused():
    with pytest.raises(ValueError, match="Linear has no get_image_features"):
        ImageTextScorer(torch.nn.Linear(1, 1), None)
