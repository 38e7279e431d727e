"""Writes a trained network for other machines and programs: `python -m utils.export`."""
