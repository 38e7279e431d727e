"""How files become pixels."""
