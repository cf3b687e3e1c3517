"""Two small models trained on scikit-learn's handwritten digits, shipped with their weights and data."""
