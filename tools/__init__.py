"""What builds, measures and documents vmtui; no part of what is installed."""
