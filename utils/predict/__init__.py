"""Predictions of a trained network for new images: `python -m utils.predict`."""
