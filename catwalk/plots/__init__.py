"""Plots: functions that draw with matplotlib in one style, without a display."""
