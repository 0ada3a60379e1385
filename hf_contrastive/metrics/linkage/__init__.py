"""The `linkage` metric; open it with `evaluate.load(metric_path("linkage"))`."""
