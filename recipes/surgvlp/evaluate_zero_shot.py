"""What a trained checkpoint recognises from words alone: phases, tools, triplets; and retrieval of clips by their sentences.

    python recipes/surgvlp/evaluate_zero_shot.py CHECKPOINT phases --frames cholec80/frames --labels cholec80/csvs \\
        --prompts class_prompt_cholec80.txt
    python recipes/surgvlp/evaluate_zero_shot.py CHECKPOINT phases --frames autolaparo/frames --labels autolaparo/csvs \\
        --prompts autolaparo
    python recipes/surgvlp/evaluate_zero_shot.py CHECKPOINT tools --frames cholect50/videos --labels cholect50/instrument
    python recipes/surgvlp/evaluate_zero_shot.py CHECKPOINT triplets --frames cholect50/videos --labels cholect50 \\
        --triplet-prompts cholec_triplet.txt --map cholect50/maps.txt
    python recipes/surgvlp/evaluate_zero_shot.py CHECKPOINT retrieval --data surgical_lectures --split val

The data need agreements of their own. Prompts come from files, one class a line; without a file, plain texts written for this library
are used, which are not those of the paper.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoModel, AutoProcessor

from hf_contrastive.data import ClipEvalCollator, NarrationClips, ProcessorTransform, load_narrations
from hf_contrastive.evaluation import (
    group_maxima,
    paired_retrieval_metrics,
    video_average_precision,
    video_classification_metrics,
    zero_shot_logits,
    zero_shot_predictions,
)
from hf_contrastive.models.surgvlp.data_surgvlp import (
    PHASES,
    LabelledFrames,
    default_prompts,
    read_bits,
    read_phases,
    read_prompts,
    read_triplet_map,
    triplet_prompts,
)
from hf_contrastive.recipes.common import plain_errors
from hf_contrastive.reporting import metrics_table, say


class Recogniser:
    """Frames and texts to vectors.

    Args:
        checkpoint (`str`): folder or hub id.
        resize (`Sequence[int]`): height and width to which frames are brought first; empty = as they are.
        crop (`int`): side of the square that is cut out of their middle; 0 = none.
        batch_size (`int`): frames at a time.
    """

    def __init__(self, checkpoint: str, resize: Sequence[int], crop: int, batch_size: int) -> None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = AutoModel.from_pretrained(checkpoint, dtype=torch.float32).to(device)
        self.processor = AutoProcessor.from_pretrained(checkpoint)
        self.resize, self.crop, self.batch_size, self.device = tuple(resize), crop, batch_size, device

    def frame(self, path: Path) -> torch.Tensor:
        """A prepared frame `[3, height, width]`, normalised as in training."""
        with Image.open(path) as opened:
            image = opened.convert("RGB")
        if self.resize:
            image = image.resize((self.resize[1], self.resize[0]), Image.Resampling.BILINEAR)
        if self.crop:
            # as torchvision centres it; what lies outside is black
            left, top = (round((side - self.crop) / 2) for side in image.size)
            image = image.crop((left, top, left + self.crop, top + self.crop))
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
        images = self.processor.image_processor
        if images.do_normalize:
            mean, std = (torch.tensor(list(value)).view(3, 1, 1) for value in (images.image_mean, images.image_std))
            pixels = (pixels - mean) / std
        return pixels

    def frames(self, paths: Sequence[Path]) -> torch.Tensor:
        """Embeddings of frames `[frames, dim]`."""
        parts = []
        for start in range(0, len(paths), self.batch_size):
            pixels = torch.stack([self.frame(path) for path in paths[start : start + self.batch_size]])
            parts.append(self.model.encode(pixels.to(self.device)).cpu())
        return torch.cat(parts)

    def texts(self, texts: Sequence[str]) -> torch.Tensor:
        """Embeddings of texts `[texts, dim]`."""
        inputs = {name: value.to(self.device) for name, value in self.processor.tokenize(list(texts)).items()}
        return self.model.encode(**inputs).cpu()


def prompts_of(given: str | None, kind: str, data: str = "cholec80") -> list[str]:
    """Prompts of a file; plain ones without a file, or by the name of a data set."""
    if given is None or given in PHASES:
        say(f"prompts: plain texts written for this library ({kind}), not those of the paper")
        return default_prompts(kind, given or data)
    return read_prompts(given)


def tables_in(labels: str, suffix: str, videos: Sequence[str]) -> list[Path]:
    """The label files of a folder, or of some of its videos."""
    folder = Path(labels).expanduser()
    found = [folder / f"{video}{suffix}" for video in videos] if videos else sorted(folder.glob(f"*{suffix}"))
    if not found:
        raise FileNotFoundError(f"{folder} holds no *{suffix} file; --labels is the folder of the label files.")
    return found


def check_classes(prompts: Sequence[str], classes: int, what: str) -> None:
    """Refuse prompts that are not one for each class."""
    if len(prompts) != classes:
        raise ValueError(
            f"{len(prompts)} prompts for {classes} classes of {what}; give a file with one line for each class."
        )


def phases(recogniser: Recogniser, args: argparse.Namespace) -> dict[str, Any]:
    """Accuracy and macro-F1 of the nearest prompt, per video and averaged over videos."""
    with plain_errors():
        prompts = prompts_of(args.prompts, "phase")
        videos = [
            read_phases(path, args.frames, offset=args.offset) for path in tables_in(args.labels, ".csv", args.videos)
        ]
        kept = [one.labels[~np.isin(one.labels, args.drop_labels)] for one in videos]
        known = np.concatenate(kept) if kept else np.zeros(0, dtype=int)
        if len(known) and (known.min() < 1 or known.max() > len(prompts)):
            raise ValueError(
                f"labels go from {known.min()} to {known.max()} and there are {len(prompts)} prompts; label n is line n of the prompts "
                "(--drop-labels leaves labels out)."
            )
    classes = recogniser.texts(prompts)
    guessed = [zero_shot_predictions(recogniser.frames(one.paths), classes) + 1 for one in videos]
    found = video_classification_metrics(guessed, [one.labels for one in videos], drop_labels=args.drop_labels)
    rows = [
        {
            "video": one.video,
            **{name: f"{100 * row[name]:.1f}" for name in ("accuracy", "f1_macro")},
            "frames": row["n_frames"],
        }
        for one, row in zip(videos, found["per_video"], strict=True)
    ]
    mean = {name: f"{100 * found[name]:.1f}" for name in ("accuracy", "f1_macro")}
    rows.append({"video": "mean over videos", **mean, "frames": found["n_frames"]})
    metrics_table(rows, title=f"phases, zero-shot, %; {found['dropped_frames']} frames dropped")
    return found


def scores(recogniser: Recogniser, videos: Sequence[LabelledFrames], prompts: Sequence[str]) -> list[torch.Tensor]:
    """For each video, the cosines of all frames with all prompts: their sigmoid has the same order."""
    classes = recogniser.texts(prompts)
    return [zero_shot_logits(recogniser.frames(one.paths), classes, logit_scale=1.0) for one in videos]


def tools(recogniser: Recogniser, args: argparse.Namespace) -> dict[str, Any]:
    """Video-wise average precision of each class."""
    with plain_errors():
        prompts = prompts_of(args.prompts, args.kind)
        videos = [
            read_bits(path, args.frames, pattern=args.pattern) for path in tables_in(args.labels, ".txt", args.videos)
        ]
        check_classes(prompts, videos[0].labels.shape[1], args.kind)
    found = video_average_precision(scores(recogniser, videos, prompts), [one.labels for one in videos])
    rows: list[dict[str, Any]] = [
        {"class": text, "AP %": "-" if np.isnan(value) else f"{100 * value:.1f}"}
        for text, value in zip(prompts, found["ap"], strict=True)
    ]
    metrics_table(
        [*rows, {"class": "mean", "AP %": f"{100 * found['map']:.1f}"}], title=f"{args.kind}, zero-shot, video-wise"
    )
    return found


def triplets(recogniser: Recogniser, args: argparse.Namespace) -> dict[str, Any]:
    """Video-wise mean average precision of instruments, verbs, targets, triplets, and of pairs derived from triplets."""
    with plain_errors():
        table = None if args.map is None else read_triplet_map(args.map)
        if args.triplet_prompts is None and table is None:
            raise ValueError("give --triplet-prompts, or --map, from which plain ones are made")
        texts = {kind: prompts_of(getattr(args, f"{kind}_prompts"), kind) for kind in ("instrument", "verb", "target")}
        if args.triplet_prompts is not None:
            texts["triplet"] = read_prompts(args.triplet_prompts)
        else:
            assert table is not None
            say("prompts: plain texts written for this library (triplet), not those of the paper")
            texts["triplet"] = triplet_prompts(table)
        videos = {}
        for kind, prompts in texts.items():
            paths = tables_in(str(Path(args.labels).expanduser() / kind), ".txt", args.videos)
            videos[kind] = [read_bits(path, args.frames, pattern=args.pattern) for path in paths]
            check_classes(prompts, videos[kind][0].labels.shape[1], kind)
        check_classes(texts["triplet"], len(texts["triplet"]) if table is None else len(table), "the map")
        if len({tuple(tuple(one.paths) for one in own) for own in videos.values()}) > 1:
            raise ValueError("the label files of instruments, verbs, targets and triplets name different frames")
    # the frames are the same for all
    frames = [recogniser.frames(one.paths) for one in videos["triplet"]]
    found: dict[str, Any] = {}
    for kind, prompts in texts.items():
        classes = recogniser.texts(prompts)
        own = [zero_shot_logits(one, classes, logit_scale=1.0) for one in frames]
        found[kind] = video_average_precision(own, [one.labels for one in videos[kind]])
        if kind == "triplet" and table is not None:
            for name, second in (("instrument-verb", 1), ("instrument-target", 2)):
                groups = table[:, 0] * (table[:, second].max() + 1) + table[:, second]
                found[name] = video_average_precision(
                    [group_maxima(one, groups) for one in own],
                    [group_maxima(one.labels, groups) for one in videos[kind]],
                )
    rows = [{"component": name, "mAP %": f"{100 * one['map']:.1f}"} for name, one in found.items()]
    metrics_table(rows, title=f"triplets, zero-shot, video-wise; {len(frames)} videos")
    if table is None:
        say("no pairs (instrument-verb, instrument-target): pass --map, which says what triplets are made of")
    return found


def retrieval(recogniser: Recogniser, args: argparse.Namespace) -> dict[str, Any]:
    """Recall and median rank over all sentences of the split and the clips in their middle."""
    with plain_errors():
        folders = {"anchor": args.anchor_folder, "other": args.other_folder}
        frames = args.num_frames or int(getattr(recogniser.model.config, "num_frames", 4))
        rows = NarrationClips(load_narrations(args.data, args.split, **folders), draw=False, num_frames=frames)
    collator = ClipEvalCollator(ProcessorTransform(recogniser.processor.image_processor), recogniser.processor)
    clips, texts = [], []
    for start in range(0, len(rows), args.batch_size):
        batch = collator([rows[row] for row in range(start, min(start + args.batch_size, len(rows)))])
        clips.append(recogniser.model.encode(batch["pixel_values"].to(recogniser.device)).cpu())
        texts.append(recogniser.texts(rows.texts[start : start + args.batch_size]))
    ks = [k for k in (1, 5, 10) if k <= len(rows)]
    found = paired_retrieval_metrics(torch.cat(texts), torch.cat(clips), ks=ks)
    shown = []
    for name, way in (("text to clip", "x_to_y"), ("clip to text", "y_to_x")):
        line = {f"R@{k} %": f"{100 * found[f'{way}/recall@{k}']:.1f}" for k in ks}
        shown.append({"direction": name, **line, "median rank": f"{found[f'{way}/median_rank']:g}"})
    metrics_table(shown, title=f"{len(rows)} sentences and their clips")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="folder or hub id of a dual encoder of this library")
    parts = parser.add_subparsers(dest="what", required=True, metavar="{phases,tools,triplets,retrieval}")
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--batch-size", type=int, default=32, help="frames at a time (default: 32)")
    shared.add_argument("--json", type=Path, help="also write all numbers to this file")
    framed = argparse.ArgumentParser(add_help=False)
    framed.add_argument("--frames", required=True, help="folder of the frames")
    framed.add_argument(
        "--labels", required=True, help="folder of the label files (triplets: of the folders with them)"
    )
    framed.add_argument("--videos", nargs="+", default=[], help="names of label files; all by default")
    framed.add_argument("--resize", type=int, nargs="+", metavar="N", help="height and width first; 0 = as they are")
    framed.add_argument("--crop", type=int, metavar="N", help="then the central square of that side; 0 = none")
    bits = argparse.ArgumentParser(add_help=False)
    bits.add_argument("--pattern", default="{video}/{frame:06d}.png", help="path of a frame (default: %(default)s)")
    one = parts.add_parser(
        "phases", parents=[shared, framed], help="accuracy and macro-F1 of phases (Cholec80, AutoLaparo)"
    )
    one.add_argument("--prompts", help="file with one phase a line, or cholec80 (default), autolaparo: plain ones")
    one.add_argument("--offset", type=int, default=1, help="number of a file minus that in the table (default: 1)")
    one.add_argument("--drop-labels", type=int, nargs="*", default=[11], help="labels that are left out (default: 11)")
    one.set_defaults(run=phases, resize_default=[360, 640], crop_default=224)
    one = parts.add_parser(
        "tools", parents=[shared, framed, bits], help="average precision of one kind of classes (CholecT50)"
    )
    one.add_argument("--prompts", help="file with one class a line; plain ones by default")
    one.add_argument(
        "--kind", choices=("instrument", "verb", "target"), default="instrument", help="which (default: %(default)s)"
    )
    one.set_defaults(run=tools, resize_default=[], crop_default=0)
    one = parts.add_parser(
        "triplets", parents=[shared, framed, bits], help="mAP of triplets and their components (CholecT50)"
    )
    for kind in ("instrument", "verb", "target", "triplet"):
        one.add_argument(f"--{kind}-prompts", help=f"file with one {kind} a line; plain ones by default")
    one.add_argument(
        "--map", help="lines triplet,instrument,verb,target; needed for pairs and for plain triplet prompts"
    )
    one.set_defaults(run=triplets, resize_default=[], crop_default=0)
    one = parts.add_parser("retrieval", parents=[shared], help="clips by their sentences and back")
    one.add_argument("--data", required=True, help="folder of narrated videos")
    one.add_argument("--split", default="val", help="name of the split (default: val)")
    one.add_argument("--anchor-folder", default="aws_narration_texts", help="transcript (default: %(default)s)")
    one.add_argument("--other-folder", default="whisper_narration_texts", help="second one (default: %(default)s)")
    one.add_argument("--num-frames", type=int, help="frames of a clip; as the checkpoint was trained by default")
    one.set_defaults(run=retrieval, resize_default=[], crop_default=0)
    args = parser.parse_args()
    resize = args.resize_default if getattr(args, "resize", None) is None else [n for n in args.resize if n]
    if len(resize) not in (0, 2):
        parser.error(f"--resize takes a height and a width, or 0; got {' '.join(map(str, args.resize))}")
    crop = args.crop_default if getattr(args, "crop", None) is None else args.crop
    found = args.run(Recogniser(args.checkpoint, resize, crop, args.batch_size), args)
    if args.json is not None:
        args.json.write_text(json.dumps(_plain(found), indent=2) + "\n", encoding="utf-8")
        say(f"written: {args.json}")


def _plain(value: Any) -> Any:
    """What JSON can hold: lists instead of arrays, null instead of NaN."""
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and np.isnan(value) else value


if __name__ == "__main__":
    sys.exit(main())
