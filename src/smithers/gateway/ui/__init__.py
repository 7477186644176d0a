"""Pages: mounts, the HTML shell, the built-in console. What the pages call is in `rpc/` and `ws/`."""
