"""The terminal: progress, text that it may show, and the signals that end a run."""
