"""Tests of admin_api/auth."""
