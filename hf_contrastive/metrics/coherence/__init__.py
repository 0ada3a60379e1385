"""The `coherence` metric; open it with `evaluate.load(metric_path("coherence"))`."""
