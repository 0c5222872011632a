"""Lets the gateway run for a long time under mixed traffic, and looks for what grows."""
