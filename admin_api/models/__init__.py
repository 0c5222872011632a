"""The model catalogue, as the playground shows it."""
