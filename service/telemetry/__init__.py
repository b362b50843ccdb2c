"""Metrics, stage timings, traces and logs of one process."""
