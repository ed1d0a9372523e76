"""Image tokenizers and generators."""
