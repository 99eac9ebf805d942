"""The HTTP side: routes by audience, wired in `app`."""
