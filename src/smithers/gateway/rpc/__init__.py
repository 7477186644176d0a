"""RPC: the gateway's methods, one module an area; `registry.py` says how they are declared."""
