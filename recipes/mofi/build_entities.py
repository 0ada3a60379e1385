"""Turn images with texts into images with entities, which MOFI is trained on.

    python recipes/mofi/build_entities.py web_images/ --entities entities.csv --clip openai/clip-vit-base-patch32 -o i2e

1. Names of the table are looked for in the text of every image (the longest first, capitals aside, whole words), or, with --ner, in the
   mentions that a NER model finds there.
2. Every entity found is compared with the image by CLIP, as "name, description"; it stays where the cosine is --threshold or more. The
   highest one is the label.
3. In the end entities with fewer than --min-images images are dropped, and the others numbered.

The images are read as a stream. A run that was stopped goes on with the same command, and ends in the same files. Which threshold to take:
run with --threshold -1 --max-records 2000 first, and look at the cosines it prints. FOLDER/data/*.parquet is what train.py reads
(--dataset_path FOLDER), FOLDER/entities.parquet says what the labels are, FOLDER/report.json what was left out and why.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import datasets
from transformers import pipeline
from transformers.utils import logging as hf_logging

from hf_contrastive.data import DictionaryLinker, EntityTable, ImageTextScorer, NerLinker, annotate_i2e, finish_i2e
from hf_contrastive.data.entity_images import glyph_entity_rows, make_glyph_entities
from hf_contrastive.data.record_streams import open_records
from hf_contrastive.recipes.common import plain_errors
from hf_contrastive.reporting import metrics_table, say


EXAMPLES = """examples:
  python recipes/mofi/build_entities.py glyphs --entities glyphs --clip out/mofi-glyphs -o out/i2e --threshold 0.5
  python recipes/mofi/build_entities.py images.csv --entities wikidata.parquet --clip openai/clip-vit-base-patch32 -o i2e \\
      --text-column alt_text --ner dslim/bert-base-NER --ner-groups ORG PER LOC --threshold 0.25
  two processes share the work (start both), then join:
  python recipes/mofi/build_entities.py DATA --entities T --clip C -o part0 --share 0/2
  python recipes/mofi/build_entities.py DATA --entities T --clip C -o part1 --share 1/2
  python recipes/mofi/build_entities.py --join part0 part1 -o i2e"""


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    made = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument(
        "data",
        nargs="?",
        help="images with texts: a folder, .parquet, .tar, .csv or .jsonl file, or a hub id; 'glyphs'",
    )
    made.add_argument("-o", "--output", required=True, type=Path, help="folder for all files")
    entities = made.add_argument_group("entities")
    entities.add_argument("--entities", help="table of entities: .csv, .jsonl or .parquet with a header; 'glyphs'")
    entities.add_argument("--id-column", help="its ids (default: entity_id, wikidata_id, qid or id)")
    entities.add_argument("--entity-name-column", help="names (default: entity_name, name, title or label)")
    entities.add_argument("--description-column", help="what each is, in a few words (default: description, if any)")
    entities.add_argument(
        "--aliases-column", help="other names, a list or a text with | between (default: aliases, if any)"
    )
    entities.add_argument("--ner", help="folder or hub id of a NER model; names are looked for in its mentions only")
    entities.add_argument(
        "--ner-groups", nargs="+", help="kinds of mentions that count, for example ORG PER (default: all)"
    )
    entities.add_argument(
        "--ner-score", type=float, default=0.0, help="mentions it is less sure of do not count (default: 0)"
    )
    entities.add_argument(
        "--min-length", type=int, default=2, help="shortest name that is looked for (default: 2 characters)"
    )
    entities.add_argument(
        "--ignore", nargs="+", default=[], metavar="NAME", help="names that are left out, for example common words"
    )
    images = made.add_argument_group("images and texts")
    images.add_argument("--split", default="train", help="default: train")
    images.add_argument("--name", help="configuration of a hub dataset")
    images.add_argument("--image-column", default="image", help="images, or their paths (default: image)")
    images.add_argument("--text-column", default="text", help="texts (default: text; of .tar files often txt)")
    images.add_argument("--max-records", type=int, help="read no more than that many (default: all)")
    images.add_argument(
        "--share", metavar="I/N", help="read only share I of N, from 0; --join puts the shares together"
    )
    kept = made.add_argument_group("what is kept")
    kept.add_argument("--clip", help="folder or hub id of a CLIP-like model, or of a pair of encoders of this library")
    kept.add_argument(
        "--threshold", type=float, default=0.25, help="lowest cosine of image and entity (default: 0.25)"
    )
    kept.add_argument("--min-images", type=int, default=2, help="entities with fewer images are dropped (default: 2)")
    kept.add_argument("--join", nargs="+", metavar="FOLDER", help="put the shares of several processes together")
    work = made.add_argument_group("work")
    work.add_argument("--batch-size", type=int, default=64, help="images or texts at a time (default: 64)")
    work.add_argument("--records-per-part", type=int, default=1000, help="records between two savings (default: 1000)")
    work.add_argument("--device", help="cpu, cuda, ... (default: cuda where there is one)")
    return made


def main() -> None:
    args = parser().parse_args()
    hf_logging.disable_progress_bar()
    datasets.disable_progress_bars()
    with plain_errors():
        folders = args.join or [args.output]
        if not args.join:
            missing = [name for name in ("data", "entities", "clip") if getattr(args, name) is None]
            if missing:
                raise ValueError(
                    f"{', '.join(missing)} not given; --help has examples (only --join needs none of them)"
                )
            annotate(args)
            if args.share:
                say("done; when all shares are: build_entities.py --join FOLDER FOLDER ... -o FOLDER")
                return
        report = finish_i2e(folders, min_images=args.min_images, output=args.output)
    lines = [{"records": "read", "number": report.records}, {"records": "kept", "number": report.kept}]
    lines += [
        {"records": f"left out: {reason.replace('_', ' ')}", "number": count}
        for reason, count in report.skipped.items()
    ]
    metrics_table(lines, title=f"{args.output}: {report.entities} entities")
    shown = ", ".join(f"{share}: {value:.3f}" for share, value in report.scores.items())
    say(f"cosines of images and their entities, quantiles: {shown}")
    say(f"to train: accelerate launch recipes/mofi/train.py recipes/mofi/paper.yaml --dataset_path {args.output}")


def annotate(args: argparse.Namespace) -> None:
    """The first pass: everything that needs a model.

    Args:
        args (`argparse.Namespace`): of the command.
    """
    columns = {"id": args.id_column, "name": args.entity_name_column, "description": args.description_column}
    columns["aliases"] = args.aliases_column
    source: Any = datasets.Dataset.from_list(glyph_entity_rows()) if args.entities == "glyphs" else args.entities
    table = EntityTable.read(source, **{f"{name}_column": column for name, column in columns.items()})
    names: dict[str, Any] = {"min_length": args.min_length, "ignore": args.ignore}
    linker: Any = DictionaryLinker(table, **names)
    device = args.device or ("cuda" if _has_gpu() else "cpu")
    if args.ner:
        ner = pipeline("token-classification", model=args.ner, device=device)
        linker = NerLinker(
            ner, table, groups=args.ner_groups, min_score=args.ner_score, batch_size=args.batch_size, **names
        )
    elif args.ner_groups:
        raise ValueError("--ner-groups goes with --ner: without a NER model there are no kinds of mentions.")
    clip = ImageTextScorer.from_pretrained(args.clip, device=device, batch_size=args.batch_size)
    if args.data == "glyphs":
        records: Any = make_glyph_entities()
    else:
        records = open_records(args.data, split=args.split, name=args.name, image_column=args.image_column)
    if args.share:
        records = _share(records, args.share)
    say(f"entities: {linker.describe()}\nimages are compared by {clip.describe()} on {device}")
    total = 0
    if not (args.output / "report.json").is_file() and (args.output / "annotated" / "state.json").is_file():
        say(f"{args.output} holds an earlier run, which is gone on with")
    elif (args.output / "report.json").is_file():
        say(f"{args.output} holds a finished run; what it has read is not read again (another --output begins anew)")

    def advance(count: int) -> None:
        nonlocal total
        total += count
        say(f"{total} records done")

    root = Path(args.data).expanduser().parent if Path(args.data).expanduser().is_file() else None
    annotate_i2e(
        records,
        linker,
        clip,
        args.threshold,
        output=args.output,
        image_column=args.image_column,
        text_column=args.text_column,
        image_root=root,
        records_per_part=args.records_per_part,
        max_records=args.max_records,
        advance=advance,
    )


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _share(records: Any, words: str) -> Any:
    """Every N-th record, from number I on."""
    place, _, count = words.partition("/")
    if not (place.isdigit() and count.isdigit() and int(place) < int(count)):
        raise ValueError(f"--share is {words!r}; expected I/N with I from 0 to N-1, for example 0/2")
    if isinstance(records, datasets.Dataset):
        return records.shard(int(count), int(place), contiguous=False)
    return records.filter(lambda _, row: row % int(count) == int(place), with_indices=True)


if __name__ == "__main__":
    sys.exit(main())
