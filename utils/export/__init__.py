"""A finished run as files for others: `python -m utils.export`."""
