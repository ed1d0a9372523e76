"""Embeddings: how ids become vectors, and how vectors become scores of ids where the two are tied."""

from tokjax.embed.base import Embedding, embedding

__all__ = ["Embedding", "embedding"]
