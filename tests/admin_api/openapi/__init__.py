"""Tests of admin_api/openapi."""
