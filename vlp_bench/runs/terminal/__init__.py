"""What a person types and reads: choices, help, errors in one line, the two consoles."""
