"""The `retrieval` metric; open it with `evaluate.load(metric_path("retrieval"))`."""
