"""A small application in the shape that zerowait is made for: services that never wait for one another, on mail."""
