"""What a user sees and how a run ends: progress, text that a terminal may show, signals."""
