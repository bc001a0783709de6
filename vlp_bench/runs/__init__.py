"""One run: specified, pruned once, fine-tuned, tested, stored."""
