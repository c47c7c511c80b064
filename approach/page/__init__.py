"""What `app.py` shows: drafts that grow, as HTML, where they come from, and which hosts may ask."""
