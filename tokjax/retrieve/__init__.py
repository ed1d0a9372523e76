"""Vector indexes: which of many vectors are most like a query."""
