"""Hot loops that earn a kernel: one folder an operation, with an XLA form that is the oracle of the others."""
