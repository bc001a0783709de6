"""Structured pruning: whole attention heads and feed-forward neurons, and the smaller dense model they leave."""
