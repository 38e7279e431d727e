"""What main.py does with checked options: train or evaluate."""
