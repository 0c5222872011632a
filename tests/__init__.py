"""Tests mirror the source tree; each one's docstring is the sentence it proves."""
