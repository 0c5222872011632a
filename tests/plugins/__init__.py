"""Tests of the plugins: pure values, recorded answers, and whatever else a provider might send."""
