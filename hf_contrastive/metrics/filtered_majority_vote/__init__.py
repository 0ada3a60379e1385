"""The `filtered_majority_vote` metric; open it with `evaluate.load(metric_path("filtered_majority_vote"))`."""
