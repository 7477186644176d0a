"""REST: the gateway's methods as resources, and the stream of what has changed."""
