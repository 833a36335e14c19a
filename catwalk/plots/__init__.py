"""Figures of what was found: functions that draw matplotlib figures in one style, without a display."""
