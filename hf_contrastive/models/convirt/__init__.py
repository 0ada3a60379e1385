"""ConVIRT."""
