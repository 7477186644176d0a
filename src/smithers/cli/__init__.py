"""The command line: a door. `app` wires, one module per group of commands; what a request means lives in `smithers.control`."""
