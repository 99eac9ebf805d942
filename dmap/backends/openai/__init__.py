"""Servers that speak OpenAI's API and cannot switch models."""
