"""`create_serve_app`: an ASGI app bound to one loaded workflow and one run."""
