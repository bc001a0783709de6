"""Everything that reads or writes weight files."""
