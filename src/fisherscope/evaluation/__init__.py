"""Metrics with intervals, paired comparison and the protocol."""
