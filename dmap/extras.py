"""What takes more packages than dmap itself, as `setup.cfg` lists them: how its owner installs them."""


def how(extra: str) -> str:
    """Say what to type for *extra*; by the checkout, for dmap is on no public index."""
    return f"run: .venv/bin/pip install -e '.[{extra}]' (a service: see docs/service.md)"
