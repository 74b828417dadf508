"""The pure heart: values and functions on values; no clock, no file, no socket."""
