"""What `app.py` shows: drafts as HTML, where they come from, and which hosts may ask."""
