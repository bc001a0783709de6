"""One number and where it came from; a store that only appends; tables that are queries."""
