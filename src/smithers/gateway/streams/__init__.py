"""Streams: what happens to runs, from the stores to whoever is connected."""
