"""Tests of admin_api/admin."""
