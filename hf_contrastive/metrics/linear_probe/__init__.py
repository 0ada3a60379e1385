"""The `linear_probe` metric; open it with `evaluate.load(metric_path("linear_probe"))`."""
