"""The `auroc` metric; open it with `evaluate.load(metric_path("auroc"))`."""
