"""What is counted and measured: fed from the events, written for Prometheus; see `docs/metrics.md`."""
