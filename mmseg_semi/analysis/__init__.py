"""What trained models and masks hold: pictures and counts."""
