"""Examples that run: each is one file."""
