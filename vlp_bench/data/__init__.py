"""Bytes on disk, or scenes drawn by code, to batches."""
