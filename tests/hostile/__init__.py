"""Hostile and clumsy tries of every script: what they are run on, the classes they are drawn from, bugs to find."""
