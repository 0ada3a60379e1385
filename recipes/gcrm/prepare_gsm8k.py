"""GSM8K with solutions of four models of known correctness, as the recipe reads it.

    python recipes/gcrm/prepare_gsm8k.py FOLDER out/gsm8k

FOLDER holds `example_model_solutions.jsonl` and `train.jsonl` of https://github.com/openai/grade-school-math
(grade_school_math/data). Written are `pairs/train.jsonl` and `pairs/test.jsonl` (question, correct, incorrect; no question is in
both), `completions/test.jsonl` (all four solutions of every test question, with marks) and `texts.jsonl` (questions with their
solution from the training part, which has none of these questions; with --arithmetic, made-up ones too).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from hf_contrastive.data import (
    read_records,
    solution_completions,
    solution_pairs,
    solution_texts,
    split_questions,
    word_problem_texts,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the two files are")
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--test_questions", type=int, default=319, help="questions held out (default: 319 of 1,319)")
    parser.add_argument("--max_pairs", type=int, default=4, help="pairs of a question (default: 4)")
    parser.add_argument("--seed", type=int, default=0, help="of the split of the questions (default: 0)")
    parser.add_argument(
        "--arithmetic", type=int, default=0, help="add so many made-up word problems to the texts (default: none)"
    )
    parser.add_argument("--annotations", action="store_true", help="keep the calculator's notes, <<3*4=12>>")
    args = parser.parse_args()
    keep = args.annotations
    try:
        records = read_records(args.folder / "example_model_solutions.jsonl")
        train, test = split_questions(records, args.test_questions, args.seed)
        texts = solution_texts(read_records(args.folder / "train.jsonl"), keep_annotations=keep)
        texts += word_problem_texts(args.arithmetic) if args.arithmetic else []
        files: dict[str, list[Any]] = {
            "pairs/train.jsonl": solution_pairs(train, args.max_pairs, args.seed, keep_annotations=keep),
            "pairs/test.jsonl": solution_pairs(test, args.max_pairs, args.seed, keep_annotations=keep),
            "completions/test.jsonl": solution_completions(test, keep_annotations=keep),
            "texts.jsonl": [{"text": text} for text in texts],
        }
    except (FileNotFoundError, ValueError) as error:
        parser.exit(2, f"error: {error}\n")
    for name, rows in files.items():
        path = args.out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        path.write_text(lines, encoding="utf-8")
        print(f"{path}: {len(rows)} rows")


if __name__ == "__main__":
    main()
