"""Loaders, views, collators and samplers. This room knows no model.

`load_images` -> `datasets` rows -> `MultiViewCollator(SimCLRViews(...))` -> `pixel_values` [B, V, C, H, W].
With `MultiCropViews` also `local_pixel_values` [B, crops, C, h, w].
`load_texts` -> `token_blocks` -> `TextCollator` -> `input_ids` [B, L].
`load_preferences` -> `tokenize_preferences` -> `PreferenceCollator` -> `chosen_input_ids`, `rejected_input_ids` [B, L].
`load_completions` -> `tokenize_completions` -> `AnswerCollator` -> `input_ids` [B, L], `num_actions` [B].
`load_interactions` -> `InteractionDataset` -> `TripletDataset` -> `user_ids`, `pos_item_ids`, `neg_item_ids` [B].
With `NeighbourSamplingCollator` also `node_ids` [n], `edge_index` [2, e], `edge_weights` [e].
`load_item_table` -> `encode_items` -> features [num_items, dim] for `InteractionDataset.item_features`.
`load_image_texts` -> `ImageTextCollator(SimCLRViews(num_views=1), processor)` -> `pixel_values` [B, C, H, W], `input_ids` [B, L].
`load_entity_images` -> `EntityCollator(SimCLRViews(num_views=1), processor)` -> as before, with `entity_labels` [B].
`load_linkage_table` -> `RecordCollator(ScanViews(...), processor)` -> `pixel_values` [B, C, H, W], `input_ids` [B, L], `labels` [B].
`load_narrations` -> `NarrationClips` -> `NarrationCollator(SquareCropViews(...), processor)` -> `pixel_values` [B, frames, C, H, W],
`input_ids` [B, L], `mil_input_ids` [B, texts, L]; `NoisyCaptions` over `load_image_texts` or `make_glyph_clips` in its place.
`load_programs` -> `ProgramPairs` with `PairBatchSampler` -> `PairCollator(ProgramProcessor)` -> `input_ids` [B, 2, L] and others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_contrastive.data.collators import EvalCollator, MultiViewCollator
from hf_contrastive.data.images import decode_image, image_to_array, images_to_arrays
from hf_contrastive.data.imbalance import imbalanced_subset
from hf_contrastive.data.label_samplers import HardNegativeBatchSampler, MPerClassBatchSampler
from hf_contrastive.data.logo_views import LogoViews, SceneViews
from hf_contrastive.data.multi_crop import MultiCropViews
from hf_contrastive.data.processors import ProcessorTransform, image_processor
from hf_contrastive.data.random_numbers import stateless_uniform
from hf_contrastive.data.records import OcrNoise, RecordCollator, ScanViews
from hf_contrastive.data.samplers import (
    DistinctLabelBatchSampler,
    duplicates_per_batch,
    guided_order,
    set_dataloader_epoch,
)
from hf_contrastive.data.schema import column_names_of, integer_column, missing_column, require_columns
from hf_contrastive.data.views import (
    CIFAR10_MEAN,
    CIFAR10_STD,
    IMAGENET_MEAN,
    IMAGENET_STD,
    EvalTransform,
    SimCLRViews,
)
from hf_contrastive.utils import import_later


if TYPE_CHECKING:
    from hf_contrastive.data.completions import load_completions
    from hf_contrastive.data.dialogues import split_dialogue
    from hf_contrastive.data.entity_annotation import I2EReport, annotate_i2e, build_i2e, finish_i2e
    from hf_contrastive.data.entity_images import EntityCollator, load_entity_images
    from hf_contrastive.data.entity_linking import DictionaryLinker, Entity, EntityTable, NerLinker
    from hf_contrastive.data.glyph_clips import make_glyph_clips
    from hf_contrastive.data.glyphs import make_glyphs
    from hf_contrastive.data.image_text_scoring import ImageTextScorer
    from hf_contrastive.data.image_texts import (
        ImageTextCollator,
        PairEvalCollator,
        list_image_text_splits,
        load_image_texts,
        split_sentences,
    )
    from hf_contrastive.data.interaction_splits import k_core
    from hf_contrastive.data.interactions import InteractionDataset, load_interactions
    from hf_contrastive.data.item_encoding import encode_items
    from hf_contrastive.data.item_table import load_item_table
    from hf_contrastive.data.linkage_tables import load_judged_pairs, load_linkage_table
    from hf_contrastive.data.loading import list_splits, load_images
    from hf_contrastive.data.logo_tables import load_logos, make_glyph_logos, open_logo_references, read_logo_index
    from hf_contrastive.data.matching_tables import load_matching_tables
    from hf_contrastive.data.narrations import (
        ClipEvalCollator,
        NarrationClips,
        NarrationCollator,
        NoisyCaptions,
        SquareCropViews,
        load_narrations,
    )
    from hf_contrastive.data.neighbour_sampling import NeighbourSamplingCollator
    from hf_contrastive.data.planted_preferences import make_interactions
    from hf_contrastive.data.preference_collators import AnswerCollator, PreferenceCollator
    from hf_contrastive.data.preference_tokens import (
        EncodedAnswer,
        LengthReport,
        encode_answer,
        tokenize_completions,
        tokenize_preferences,
    )
    from hf_contrastive.data.preferences import list_preference_splits, load_preferences
    from hf_contrastive.data.preload import PreloadedImages
    from hf_contrastive.data.program_pairs import (
        PairBatchSampler,
        PairCollator,
        ProgramCollator,
        ProgramPairs,
        usable_programs,
    )
    from hf_contrastive.data.program_processor import ProgramProcessor
    from hf_contrastive.data.program_syntax import (
        EDGE_TYPES,
        UnusableProgram,
        parse_program,
        path_contexts,
        program_graph,
    )
    from hf_contrastive.data.program_tasks import make_programs
    from hf_contrastive.data.program_tokens import lex_program, program_words, train_program_tokenizer
    from hf_contrastive.data.program_transforms import ProgramAugmenter
    from hf_contrastive.data.programs import list_program_splits, load_programs
    from hf_contrastive.data.solutions import (
        QUESTION_TEMPLATE,
        final_answer,
        question_prompt,
        read_records,
        same_answer,
        solution_completions,
        solution_pairs,
        solution_texts,
        split_questions,
    )
    from hf_contrastive.data.text_tokens import character_tokenizer, train_word_tokenizer
    from hf_contrastive.data.texts import TextCollator, list_text_splits, load_texts, token_blocks, train_tokenizer
    from hf_contrastive.data.transcripts import read_transcript
    from hf_contrastive.data.triplets import TripletDataset, UserHistories, collate_triplets
    from hf_contrastive.data.video import read_frames
    from hf_contrastive.data.word_problems import is_right, make_word_problems, make_word_solutions, word_problem_texts

# imported on first use: `datasets` takes seconds, and a spawned dataloader worker needs none of it
_LATER = {
    "PreloadedImages": "hf_contrastive.data.preload",
    "list_splits": "hf_contrastive.data.loading",
    "load_images": "hf_contrastive.data.loading",
    "TextCollator": "hf_contrastive.data.texts",
    "list_text_splits": "hf_contrastive.data.texts",
    "load_texts": "hf_contrastive.data.texts",
    "token_blocks": "hf_contrastive.data.texts",
    "train_tokenizer": "hf_contrastive.data.texts",
    "k_core": "hf_contrastive.data.interaction_splits",
    "InteractionDataset": "hf_contrastive.data.interactions",
    "load_interactions": "hf_contrastive.data.interactions",
    "NeighbourSamplingCollator": "hf_contrastive.data.neighbour_sampling",
    "encode_items": "hf_contrastive.data.item_encoding",
    "load_item_table": "hf_contrastive.data.item_table",
    "make_interactions": "hf_contrastive.data.planted_preferences",
    "TripletDataset": "hf_contrastive.data.triplets",
    "UserHistories": "hf_contrastive.data.triplets",
    "collate_triplets": "hf_contrastive.data.triplets",
    "load_completions": "hf_contrastive.data.completions",
    "split_dialogue": "hf_contrastive.data.dialogues",
    "AnswerCollator": "hf_contrastive.data.preference_collators",
    "EncodedAnswer": "hf_contrastive.data.preference_tokens",
    "LengthReport": "hf_contrastive.data.preference_tokens",
    "PreferenceCollator": "hf_contrastive.data.preference_collators",
    "encode_answer": "hf_contrastive.data.preference_tokens",
    "tokenize_completions": "hf_contrastive.data.preference_tokens",
    "tokenize_preferences": "hf_contrastive.data.preference_tokens",
    "list_preference_splits": "hf_contrastive.data.preferences",
    "load_preferences": "hf_contrastive.data.preferences",
    "QUESTION_TEMPLATE": "hf_contrastive.data.solutions",
    "final_answer": "hf_contrastive.data.solutions",
    "question_prompt": "hf_contrastive.data.solutions",
    "read_records": "hf_contrastive.data.solutions",
    "same_answer": "hf_contrastive.data.solutions",
    "solution_completions": "hf_contrastive.data.solutions",
    "solution_pairs": "hf_contrastive.data.solutions",
    "solution_texts": "hf_contrastive.data.solutions",
    "split_questions": "hf_contrastive.data.solutions",
    **{
        name: f"hf_contrastive.data.{module}"
        for module, names in {
            "glyphs": ("make_glyphs",),
            "image_texts": (
                "ImageTextCollator",
                "PairEvalCollator",
                "list_image_text_splits",
                "load_image_texts",
                "split_sentences",
            ),
            "entity_annotation": ("I2EReport", "annotate_i2e", "build_i2e", "finish_i2e"),
            "entity_images": ("EntityCollator", "load_entity_images"),
            "entity_linking": ("DictionaryLinker", "Entity", "EntityTable", "NerLinker"),
            "image_text_scoring": ("ImageTextScorer",),
            "linkage_tables": ("load_judged_pairs", "load_linkage_table"),
            "matching_tables": ("load_matching_tables",),
            "logo_tables": ("load_logos", "make_glyph_logos", "open_logo_references", "read_logo_index"),
            "narrations": (
                "ClipEvalCollator",
                "NarrationClips",
                "NarrationCollator",
                "NoisyCaptions",
                "SquareCropViews",
                "load_narrations",
            ),
            "glyph_clips": ("make_glyph_clips",),
            "transcripts": ("read_transcript",),
            "video": ("read_frames",),
            "text_tokens": ("character_tokenizer", "train_word_tokenizer"),
            "program_pairs": (
                "PairBatchSampler",
                "PairCollator",
                "ProgramCollator",
                "ProgramPairs",
                "usable_programs",
            ),
            "program_processor": ("ProgramProcessor",),
            "program_syntax": (
                "EDGE_TYPES",
                "UnusableProgram",
                "parse_program",
                "path_contexts",
                "program_graph",
            ),
            "program_tasks": ("make_programs",),
            "program_tokens": (
                "lex_program",
                "program_words",
                "train_program_tokenizer",
            ),
            "program_transforms": ("ProgramAugmenter",),
            "programs": (
                "list_program_splits",
                "load_programs",
            ),
        }.items()
        for name in names
    },
    "is_right": "hf_contrastive.data.word_problems",
    "make_word_problems": "hf_contrastive.data.word_problems",
    "make_word_solutions": "hf_contrastive.data.word_problems",
    "word_problem_texts": "hf_contrastive.data.word_problems",
}

__all__ = [
    "CIFAR10_MEAN",
    "CIFAR10_STD",
    "EDGE_TYPES",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "QUESTION_TEMPLATE",
    "AnswerCollator",
    "ClipEvalCollator",
    "DictionaryLinker",
    "DistinctLabelBatchSampler",
    "EncodedAnswer",
    "Entity",
    "EntityCollator",
    "EntityTable",
    "EvalCollator",
    "EvalTransform",
    "HardNegativeBatchSampler",
    "I2EReport",
    "ImageTextCollator",
    "ImageTextScorer",
    "InteractionDataset",
    "LengthReport",
    "LogoViews",
    "MPerClassBatchSampler",
    "MultiCropViews",
    "MultiViewCollator",
    "NarrationClips",
    "NarrationCollator",
    "NeighbourSamplingCollator",
    "NerLinker",
    "NoisyCaptions",
    "OcrNoise",
    "PairBatchSampler",
    "PairCollator",
    "PairEvalCollator",
    "PreferenceCollator",
    "PreloadedImages",
    "ProcessorTransform",
    "ProgramAugmenter",
    "ProgramCollator",
    "ProgramPairs",
    "ProgramProcessor",
    "RecordCollator",
    "ScanViews",
    "SceneViews",
    "SimCLRViews",
    "SquareCropViews",
    "TextCollator",
    "TripletDataset",
    "UnusableProgram",
    "UserHistories",
    "annotate_i2e",
    "build_i2e",
    "character_tokenizer",
    "collate_triplets",
    "column_names_of",
    "decode_image",
    "duplicates_per_batch",
    "encode_answer",
    "encode_items",
    "final_answer",
    "finish_i2e",
    "guided_order",
    "image_processor",
    "image_to_array",
    "images_to_arrays",
    "imbalanced_subset",
    "integer_column",
    "is_right",
    "k_core",
    "lex_program",
    "list_image_text_splits",
    "list_preference_splits",
    "list_program_splits",
    "list_splits",
    "list_text_splits",
    "load_completions",
    "load_entity_images",
    "load_image_texts",
    "load_images",
    "load_interactions",
    "load_item_table",
    "load_judged_pairs",
    "load_linkage_table",
    "load_logos",
    "load_matching_tables",
    "load_narrations",
    "load_preferences",
    "load_programs",
    "load_texts",
    "make_glyph_clips",
    "make_glyph_logos",
    "make_glyphs",
    "make_interactions",
    "make_programs",
    "make_word_problems",
    "make_word_solutions",
    "missing_column",
    "open_logo_references",
    "parse_program",
    "path_contexts",
    "program_graph",
    "program_words",
    "question_prompt",
    "read_frames",
    "read_logo_index",
    "read_records",
    "read_transcript",
    "require_columns",
    "same_answer",
    "set_dataloader_epoch",
    "solution_completions",
    "solution_pairs",
    "solution_texts",
    "split_dialogue",
    "split_questions",
    "split_sentences",
    "stateless_uniform",
    "token_blocks",
    "tokenize_completions",
    "tokenize_preferences",
    "train_program_tokenizer",
    "train_tokenizer",
    "train_word_tokenizer",
    "usable_programs",
    "word_problem_texts",
]


__getattr__ = import_later(__name__, _LATER)
