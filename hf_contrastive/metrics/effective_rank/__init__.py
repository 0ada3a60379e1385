"""The `effective_rank` metric; open it with `evaluate.load(metric_path("effective_rank"))`."""
