"""Drafts for problems: one engine for evaluation, terminal and page."""
