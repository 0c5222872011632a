"""Signing up, signing in, and everything about passwords and tokens."""
