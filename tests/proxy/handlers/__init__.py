"""Tests of proxy/handlers."""
