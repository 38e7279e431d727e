"""What a trained network says about new images: `python -m utils.predict`."""
