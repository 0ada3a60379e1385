"""Pictures, tables and run folders. Pictures need the extra `plots`; tables and readers need nothing beyond the core.

Every picture is a PNG with its alt text inside and a CSV of the numbers beside it. pyplot and the user's matplotlib
settings are left alone. Names are imported on first use, so that a table costs no matplotlib.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_contrastive.utils import import_later


_HOME = {
    "Picture": "style",
    "Run": "runs",
    "format_table": "tables",
    "is_main_process": "tables",
    "markdown_table": "tables",
    "mean_and_spread": "tables",
    "metrics_table": "tables",
    "plot_accuracy_bars": "plots",
    "plot_contrastive_trace": "decoding",
    "plot_embedding_map": "plots",
    "plot_neighbours": "sheets",
    "plot_reward_courses": "rewards",
    "plot_run": "curves",
    "plot_similarity_heatmap": "plots",
    "plot_similarity_histogram": "plots",
    "plot_training_curves": "curves",
    "plot_views": "sheets",
    "read_metrics": "runs",
    "read_run": "runs",
    "replace_section": "sections",
    "run_table": "tables",
    "save_embeddings": "runs",
    "say": "tables",
    "write_section": "sections",
}

__all__ = [
    "Picture",
    "Run",
    "format_table",
    "is_main_process",
    "markdown_table",
    "mean_and_spread",
    "metrics_table",
    "plot_accuracy_bars",
    "plot_contrastive_trace",
    "plot_embedding_map",
    "plot_neighbours",
    "plot_reward_courses",
    "plot_run",
    "plot_similarity_heatmap",
    "plot_similarity_histogram",
    "plot_training_curves",
    "plot_views",
    "read_metrics",
    "read_run",
    "replace_section",
    "run_table",
    "save_embeddings",
    "say",
    "write_section",
]

if TYPE_CHECKING:
    from hf_contrastive.reporting.curves import plot_run, plot_training_curves
    from hf_contrastive.reporting.decoding import plot_contrastive_trace
    from hf_contrastive.reporting.plots import (
        plot_accuracy_bars,
        plot_embedding_map,
        plot_similarity_heatmap,
        plot_similarity_histogram,
    )
    from hf_contrastive.reporting.rewards import plot_reward_courses
    from hf_contrastive.reporting.runs import Run, read_metrics, read_run, save_embeddings
    from hf_contrastive.reporting.sections import replace_section, write_section
    from hf_contrastive.reporting.sheets import plot_neighbours, plot_views
    from hf_contrastive.reporting.style import Picture
    from hf_contrastive.reporting.tables import (
        format_table,
        is_main_process,
        markdown_table,
        mean_and_spread,
        metrics_table,
        run_table,
        say,
    )


__getattr__ = import_later(__name__, _HOME)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
