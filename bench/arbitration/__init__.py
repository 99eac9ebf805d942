"""The arbiter beside plain policies, under virtual time, on the workloads of `workloads/`."""
