"""Bytes to images, images to tensors."""
