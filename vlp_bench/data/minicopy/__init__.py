"""The embedded world on disk in every format the readers know: working examples for users, real files for tests.

`write` is all of it; each module writes a family of formats and says which records a reader should find.
"""

from vlp_bench.data.minicopy.writing import Copy, write

__all__ = ["Copy", "write"]
