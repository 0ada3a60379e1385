"""The `zero_shot` metric; open it with `evaluate.load(metric_path("zero_shot"))`."""
