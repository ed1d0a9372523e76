"""The index of the nearest code, without the matrix of distances."""
