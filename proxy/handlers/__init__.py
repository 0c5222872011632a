"""Thin Sanic blueprints: parse, call, respond."""
