"""One file per paper: the smallest honest experiment for its headline claim."""
