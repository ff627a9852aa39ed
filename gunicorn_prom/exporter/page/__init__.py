"""The status page: what /status.json tells, for a person."""
