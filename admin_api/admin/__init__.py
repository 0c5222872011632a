"""What only admins may see and change."""
