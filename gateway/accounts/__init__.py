"""Signing in and out, and API keys."""
