"""What an author writes: elements, outputs, the context of a render, and the workflow that ties them together."""
