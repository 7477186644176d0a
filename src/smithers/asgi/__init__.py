"""What the HTTP doors share: routing, limits, guards, streams, the error envelope, and a server to embed them in."""
