"""The OpenAPI document: a table of operations for each group of endpoints, and what can be read off the routes."""
