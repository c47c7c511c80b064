"""From drafts to scores and the page that shows them."""
