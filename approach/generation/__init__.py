"""From a problem to drafts."""
