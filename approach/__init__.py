"""The machinery behind the scripts, a room for each concern (README, "Layout")."""
