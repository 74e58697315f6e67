"""What becomes of a trained network: compressed, exported, used for predictions."""
