"""LM Studio, whose models dmap loads and unloads over its REST API."""
