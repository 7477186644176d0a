"""What every door calls: launch, resume, cancel, pause, decide, signal, list, read. Validation and errors live here once."""
