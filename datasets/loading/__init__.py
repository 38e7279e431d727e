"""How pixels become batches."""
