"""The data plane: everything that a request to /v1 passes through."""
