"""Tests of proxy/metering."""
