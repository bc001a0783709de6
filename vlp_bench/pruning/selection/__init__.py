"""The k largest scores of one layer, of many, of every row: exact, ties broken on purpose."""
