"""Results that are made once and kept: their keys, and the store."""
