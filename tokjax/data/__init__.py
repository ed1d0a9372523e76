"""Raw data: sources of documents, their splits, and the token windows that models read."""

from tokjax.data.documents import SPLITS, Documents, describe, load_source

__all__ = ["SPLITS", "Documents", "describe", "load_source"]
