"""DevTools: what a run's tree looks like, at a frame or as it changes, for whoever looks at a run from outside."""
