"""XVLM and its towers."""
