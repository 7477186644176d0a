"""What an operator looks at: metrics, fed by one subscriber of the event log."""
