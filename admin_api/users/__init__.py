"""What belongs to a user: profile, API keys."""
