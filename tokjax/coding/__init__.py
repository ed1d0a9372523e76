"""Entropy coding and string tables: bytes to fewer symbols and back, exactly."""
