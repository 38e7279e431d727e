"""What main.py does once its options are checked."""
