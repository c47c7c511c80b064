"""People judge: the blind sheet that raters fill, and what their ratings say."""
