"""Metering: what a request may use is held before its provider is called, and what it used is recorded once."""
