"""From an adapter and its base to one checkpoint."""
