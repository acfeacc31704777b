"""Campaigns: numbered chunks of a run, judged on this machine or on those of a cluster, and kept as they end."""
