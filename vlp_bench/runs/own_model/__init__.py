"""Pruning somebody's own model of transformers: one command, from a folder to a folder."""
