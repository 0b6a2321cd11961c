"""Programs that show zerowait at work."""
