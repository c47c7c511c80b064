"""From pairs to an adapter: what `train_sft.py` is made of."""
