"""The `isotropy` metric; open it with `evaluate.load(metric_path("isotropy"))`."""
