"""The dataset's, the model's and the adapter's card, from the records that the scripts write."""
