"""Tests of admin_api/chat."""
