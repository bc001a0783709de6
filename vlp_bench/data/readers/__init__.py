"""Files people have -> records, a module a family; `formats` picks the reader and names a wrong choice."""
