"""The control plane: /api, the account service behind the web frontend."""
