"""Raw data: sources of documents, their splits, and the token windows that models read."""

from tokjax.data.documents import Documents, describe, load_source
from tokjax.data.splits import SPLITS

__all__ = ["SPLITS", "Documents", "describe", "load_source"]
