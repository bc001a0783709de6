"""Pruning as one sentence: allocate × solve × schedule × sweep; masks are data, never layers."""
