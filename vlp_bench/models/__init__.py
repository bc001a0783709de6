"""Models that answer the pruning adapter's questions for themselves, and the reader of their weight files."""
