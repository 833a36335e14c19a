"""Options and their values: parsers, class paths, and messages that say in a line what does not fit."""
