"""Allocators: how many weights each layer keeps, one file each."""
