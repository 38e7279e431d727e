"""Writes a finished run as files for other programs: `python -m utils.export`."""
