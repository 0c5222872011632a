"""Tests of admin_api/users."""
