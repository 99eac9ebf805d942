"""Commands that ask a running daemon over HTTP: what it does now, how it stands, what it shall load."""
