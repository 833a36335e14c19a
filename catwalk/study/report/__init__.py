"""The report of a study: one page that explains itself, without a network."""
