"""Text tokenizers: raw bytes to ids and back, on the host."""

from tokjax.text.fitted import Fitted, fit_tokenizer, load_tokenizer

__all__ = ["Fitted", "fit_tokenizer", "load_tokenizer"]
