"""The `alignment_uniformity` metric; open it with `evaluate.load(metric_path("alignment_uniformity"))`."""
