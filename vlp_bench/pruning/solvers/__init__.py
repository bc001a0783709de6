"""Solvers: which weights of a layer survive within its budget, and with which values."""
