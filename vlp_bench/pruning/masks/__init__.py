"""Masks on disk: the file format, its packing, packed checkpoints, the authors' released masks."""
