"""Models of protocols, explored state by state and held against the code."""
