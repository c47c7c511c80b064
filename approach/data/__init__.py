"""From abstracts to the dataset of problem–approach pairs."""
