"""BLIP, its towers, NLVR2's variant, and how it grows out of an XVLM."""
