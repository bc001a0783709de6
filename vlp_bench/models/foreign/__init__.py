"""Models of transformers that nobody has described here: structure and answers are read from the module tree."""
