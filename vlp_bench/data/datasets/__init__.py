"""The data sets of the tasks: records, items and batches for Lightning."""
