"""Tests of admin_api/models."""
