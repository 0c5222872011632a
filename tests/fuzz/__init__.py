"""schemathesis over the OpenAPI document, against a real gateway, as an anonymous caller, a user and an admin.

`python -m tests.fuzz --examples 100` runs longer than the tests do.
"""
