"""The arbiter beside plain policies, over many seeds, on the workloads of `dmap/simulate/workloads/`."""
