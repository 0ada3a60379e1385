"""The `knn` metric; open it with `evaluate.load(metric_path("knn"))`."""
