"""What main.py does with checked options: train, evaluate or check images."""
