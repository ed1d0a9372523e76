"""Attention within words that never straddle a block of slots."""
