"""The `diversity` metric; open it with `evaluate.load(metric_path("diversity"))`."""
