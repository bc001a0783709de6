"""The embedded world: scenes, how they are drawn, and what is said and asked about them."""
