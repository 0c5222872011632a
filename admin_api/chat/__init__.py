"""Conversations: sessions, messages and what they cost."""
