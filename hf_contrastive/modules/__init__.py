"""Parts with state that several systems share."""
