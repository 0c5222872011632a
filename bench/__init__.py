"""Measurements of the gateway, beside its peers and by itself; `python -m bench --help` lists them."""
