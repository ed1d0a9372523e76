"""Language systems."""
