"""From pairs to an adapter."""
