"""The verbs. Each reads as the sentence it performs."""
