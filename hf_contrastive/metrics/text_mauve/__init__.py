"""The `text_mauve` metric; open it with `evaluate.load(metric_path("text_mauve"))`."""
