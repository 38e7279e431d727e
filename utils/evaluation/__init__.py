"""What a network is worth on images."""
