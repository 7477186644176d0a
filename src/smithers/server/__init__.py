"""`start_server`: a self-contained HTTP server for runs of workflow files. This package frames; `control/` does."""
