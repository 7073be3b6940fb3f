"""A look at what a run learns from: documents, rows, conversations, and from a step back to a line of a file."""
