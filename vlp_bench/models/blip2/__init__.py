"""BLIP-2 through transformers, as it is pruned and as it is tested."""
